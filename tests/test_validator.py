"""Validation by the decimals that are written, wherever an answer or a row is held against a schema."""

import json
import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.engines.instance import smallest
from rung.records import Answer
from rung.scoring.extract import read_answer
from rung.spec import AnswerSpec, Spec
from rung.steps import fault_of
from rung.task.calls import call_fault
from rung.task.validator import validator_of
from tests.fixtures_climb import write_rows

PRICE = {"type": "number", "multipleOf": 0.01}
BILL = {"type": "object", "properties": {"total": PRICE}, "required": ["total"]}


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 6))
def test_what_is_written_with_so_many_decimals_is_a_multiple_of_the_last_one(count, digits):
    value = float(Decimal(count).scaleb(-digits))
    assert validator_of({"multipleOf": float(f"1e-{digits}")}).is_valid(value)
    between = float(Decimal(10 * count + 5).scaleb(-digits - 1))
    assert not validator_of({"multipleOf": float(f"1e-{digits}")}).is_valid(between)


@pytest.mark.parametrize(
    ("step", "value", "right"),
    [
        (0.01, 0.29, True),
        (0.01, 0.295, False),
        (3, 9, True),
        (3, 10.0, False),
        (2.5, 10, True),
        (0.01, True, True),
        (0.01, "0.295", True),
        (0.01, 1e300, True),
        (1e-300, 1e300, True),
        (7e-300, 1e300, False),
        (0.01, 10**299 + 1, True),
        (0.01, math.inf, False),
        (math.inf, 1.0, False),
    ],
)
def test_multiples_are_exact_and_only_numbers_are_asked(step, value, right):
    assert validator_of({"multipleOf": step}).is_valid(value) == right


@pytest.mark.parametrize("draft", ["http://json-schema.org/draft-07/schema#", None])
def test_the_draft_is_the_schemas_own_and_parts_that_lead_back_to_it_are_as_exact(draft):
    named = {} if draft is None else {"$schema": draft}
    schema = {**named, "properties": {"next": {"$ref": "#"}, "n": PRICE, "pair": {"items": [PRICE]}}}
    if draft is None:
        del schema["properties"]["pair"]
    assert validator_of(schema).is_valid({"next": {"next": {"n": 0.29}}})
    assert not validator_of(schema).is_valid({"next": {"next": {"n": 0.295}}})
    assert draft is None or not validator_of(schema).is_valid({"pair": [0.295]})


def test_amounts_of_money_are_read_as_answers():
    assert read_answer('{"total": 0.29}', kind="json", schema=BILL) == {"total": 0.29}
    assert read_answer('{"total": 0.295}', kind="json", schema=BILL) is None


def test_a_draft_with_amounts_of_money_isnt_said_to_break_the_schema():
    spec = Spec(rung="workflow", task="t", kind="json", engine="llama", answer=AnswerSpec(form="free"))
    spec = spec.model_copy(update={"schema_": BILL})
    fault = fault_of(spec, Answer(text='{"total": 0.29}'))
    assert fault is not None and "multiple" not in fault
    assert "multiple" in str(fault_of(spec, replace(Answer(text="{}"), text='{"total": 0.295}')))


def test_amounts_of_money_fit_the_functions_that_take_them():
    function = {"name": "pay", "parameters": BILL}
    assert call_fault([{"name": "pay", "arguments": {"total": 0.29}}], [function]) is None
    assert call_fault([{"name": "pay", "arguments": {"total": 0.295}}], [function]) is not None


def test_the_smallest_amount_of_money_is_found():
    schema = {**BILL, "properties": {"total": {**PRICE, "minimum": 0.29}}}
    assert smallest(schema) == {"total": 0.29}


def test_rows_with_amounts_of_money_are_inside_their_schema(tmp_path):
    rows = [{"input": f"bill {at}", "output": {"total": round(0.29 + at, 2)}} for at in range(40)]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "bill.json").write_text(json.dumps(BILL))
    (tmp_path / "task.yaml").write_text(
        "name: bills\nabout: Read it.\ndata: {train: rows.jsonl}\noutput: {kind: json, schema: bill.json}\n"
    )
    prepared = prepare(tmp_path, Options())
    assert not [f for f in examined(prepared, (), ("rows",)).findings if f.check == "targets"]
