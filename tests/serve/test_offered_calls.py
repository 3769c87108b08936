"""Calls that a request is answered with: only of the functions that it offers, and only whole ones."""

import json
from pathlib import Path

import pytest
from jsonschema import validate

from rung.hosted import hosted_ref
from rung.models.hosted import hosted
from rung.spec import AnswerSpec, Spec
from rung.system import save
from tests.fixtures_climb import TOPICS
from tests.fixtures_hosted import KEY, MODEL, Hosted
from tests.fixtures_serve import Server, said

PARAMETERS = {
    "type": "object",
    "properties": {"topic": {"enum": list(TOPICS)}, "days": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["topic", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": PARAMETERS}}]
OURS = [{"name": "find", "arguments": {"topic": "login", "days": 1}}]


def tagged(name: str, inner: str) -> str:
    """A call as FunctionGemma writes it."""
    return f"<start_function_call>call:{name}{{{inner}}}<end_function_call>"


def asked(server, model, question, *, stream=False, **options):
    """(finish reason, words, calls) of one answer, streamed or not."""
    found = server.user.chat.completions.create(
        **{"model": model, "messages": said(question), "tools": TOOLS, "stream": stream, **options}
    )
    if not stream:
        (choice,) = found.choices
        calls, words, finish = choice.message.tool_calls, choice.message.content, choice.finish_reason
    else:
        chunks = [chunk.choices[0] for chunk in found]
        calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
        words = "".join(chunk.delta.content or "" for chunk in chunks)
        finish = chunks[-1].finish_reason
    read = [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls or ()]
    return finish, words or "", read


@pytest.fixture(scope="module")
def provider():
    with Hosted(lambda question, body: question.split("\n\n")[-1]) as found:
        yield found


@pytest.fixture(scope="module")
def server(provider, tmp_path_factory):
    """Systems whose model says what it is asked: one of them in tags, one that was never made for calls."""
    model = hosted(provider.name)
    folder: Path = tmp_path_factory.mktemp("calling")
    base = {"rung": "api", "engine": "endpoint", "model": hosted_ref(model, MODEL)}
    for name, kind, written in (
        ("json", "tool_call", "json"),
        ("tags", "tool_call", "tagged"),
        ("text", "text", "json"),
    ):
        answer = AnswerSpec(form="free", max_tokens=64, written=written)
        save(folder / name, Spec(task=name, kind=kind, answer=answer, **base), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", KEY)
        systems = [f"{name}={folder / name}" for name in ("json", "tags", "text")]
        with Server(*systems, home=folder) as found:
            yield found


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("tags", tagged("delete_all", "path:<escape>/<escape>")),
        ("tags", tagged("find", "topic:<escape>login<escape>,days:<escape>x<escape>")),
        ("tags", tagged("find", "topic:<escape>login<escape>,days:1") + tagged("delete_all", "")),
        ("tags", '[{"name":"find","arguments":{"topic":"login","days":1}}]'),
        ("json", '[{"name":"delete_all","arguments":{"path":"/"}}]'),
        ("json", '[{"name":"find","arguments":{"topic":"login","days":"x"}}]'),
        ("text", '[{"name":"delete_all","arguments":{"path":"/"}}]'),
    ],
)
def test_what_calls_no_function_of_the_request_is_text(server, model, text, stream):
    finish, words, calls = asked(server, model, text, stream=stream)
    # In tags it is read, and stands there as JSON.
    assert (finish, calls) == ("stop", []) and (words == text or model == "tags")
    assert words


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("tags", tagged("find", "topic:<escape>login<escape>,days:1")),
        ("json", json.dumps(OURS)),
        ("json", f"```json {json.dumps(OURS)} ```"),
    ],
)
def test_calls_of_the_functions_of_a_request_are_calls(server, model, text, stream):
    assert asked(server, model, text, stream=stream) == ("tool_calls", "", OURS)


def test_a_call_that_was_cut_off_is_left_out_and_the_answer_says_that_it_was_cut(tiny):
    """At each limit the call is the model's own to its last brace, or there is none."""
    options = {"tool_choice": "required", "parallel_tool_calls": False}
    ended = {"length": 0, "tool_calls": 0}
    for limit in range(58, 90, 3):
        finish, words, calls = asked(tiny, "base", "refund order 12", max_tokens=limit, **options)
        assert (finish, words, calls) == asked(
            tiny, "base", "refund order 12", max_tokens=limit, stream=True, **options
        )
        assert len(calls) == (finish == "tool_calls") and words == ""
        for call in calls:
            validate(call["arguments"], PARAMETERS)
        ended[finish] += 1
    assert all(ended.values()), ended


def test_calls_before_the_one_that_was_cut_off_stay(tiny):
    options = {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required"}

    def ended(limit, seed):
        more = {"max_tokens": limit, "temperature": 2, "seed": seed, **options}
        finish, words, calls = asked(tiny, "base", "what time is it", **more)
        assert words == "" and all(call == {"name": "now", "arguments": {}} for call in calls)
        return finish, len(calls)

    seed = next(seed for seed in range(30) if ended(160, seed) == ("tool_calls", 2))
    found = list(dict.fromkeys(ended(limit, seed) for limit in range(46, 90, 4)))
    assert found == [("length", 1), ("tool_calls", 2)]
