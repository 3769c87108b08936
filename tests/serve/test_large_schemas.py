"""Schemas that take long to check: others are answered meanwhile, and one that is too large is refused."""

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import cast

import openai
import pytest

from rung.serve.answer import Wish, _aside
from rung.serve.systems import Served
from tests.fixtures_serve import said


def numbers(count: int, **more) -> dict:
    """An object of numbers with a bound of its own each, which has to be tried, and more properties."""
    named = {f"p{at}": {"type": "number", "exclusiveMinimum": at + 0.5} for at in range(count)}
    return {"type": "object", "properties": {**named, **more}}


def asked_for(server, **options):
    return server.user.chat.completions.create(model="base", messages=said("hello"), max_tokens=3, **options)


def as_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def as_tool(schema):
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


@pytest.mark.parametrize("field", ["response_format", "tools"])
def test_others_are_answered_while_a_schema_is_checked(tiny, field):
    schema = numbers(900, last={"not": {"type": "string"}})
    options = {field: as_format(schema) if field == "response_format" else [as_tool(schema)]}
    asked_for(tiny)
    refusals, took_s = [], []

    def ask():
        start = time.monotonic()
        try:
            asked_for(tiny, **options)
        except openai.BadRequestError as error:
            refusals.append(str(error))
        took_s.append(time.monotonic() - start)

    client = threading.Thread(target=ask)
    client.start()
    waits_s = []
    with tiny.http() as http:
        while client.is_alive():
            start = time.monotonic()
            assert http.get("/healthz").status_code == 200
            waits_s.append(time.monotonic() - start)
    assert "properties/last: " in refusals[0]
    assert max(waits_s) < took_s[0] / 2


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (numbers(1000), "more than 1,000 subschemas"),
        ({"enum": [f"value {at}" for at in range(10_000)]}, "more than 10,000 values"),
        ({"x-more": [[]] * 10_000}, "more than 10,000 values"),
        ({"type": "string", "pattern": "a" * 10_001}, "more than 10,000 characters"),
    ],
)
def test_a_schema_that_is_too_large_is_refused_by_a_clear_sentence(tiny, schema, message):
    for options in ({"response_format": as_format(schema)}, {"tools": [as_tool(schema)]}):
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            asked_for(tiny, **options)
        assert caught.value.param in options


def test_a_bound_that_no_float_holds_is_the_clients_to_mend(tiny):
    schema = {"type": "number", "exclusiveMinimum": 10**400}
    with pytest.raises(openai.BadRequestError, match="out of range"):
        asked_for(tiny, response_format=as_format(schema))


@pytest.mark.parametrize(("kind", "schema"), [("tool_call", None), ("text", {})])
def test_what_may_compile_a_schema_runs_on_a_thread_and_nothing_else_does(kind, schema):
    def ran_on(kind, schema):
        served = cast(Served, SimpleNamespace(spec=SimpleNamespace(kind=kind)))
        return asyncio.run(_aside(served, Wish(schema=schema), threading.current_thread))

    assert ran_on(kind, schema) is not threading.main_thread()
    assert ran_on("text", None) is threading.main_thread()
