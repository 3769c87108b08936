"""Calls of hosted models over HTTP: a System that forwards them, and a served one asked as a hosted model."""

import json

import pytest

from rung.engines.endpoint_calls import offer
from rung.hosted import hosted_ref
from rung.models.hosted import hosted
from rung.models.resolve import resolve
from rung.records import Example
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, ref_to, save
from rung.task.calls import FUNCTIONS
from tests.fixtures_called import FIND, SENT, Caller
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_hosted import KEY, MODEL
from tests.fixtures_serve import Server, said

TOOLS = [{"type": "function", "function": FIND}]
NATIVE = AnswerSpec(form="free", max_tokens=120, written="tools")
LOOK = {
    "name": "find",
    "description": "Look a topic up.",
    "parameters": {"properties": {"topic": {"enum": ["billing", "login"]}}, "required": ["topic"]},
}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def provider():
    with Caller() as found:
        yield found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A System of calls on a model of this machine."""
    folder = tmp_path_factory.mktemp("local")
    model = resolve(str(make_tiny_gguf(folder / "tiny.gguf", context=2048)))
    spec = Spec(
        rung="prompt",
        task="calls",
        kind="tool_call",
        engine="llama",
        model=ref_to(model, str(folder / "tiny.gguf")),
        instruction="Call.",
        answer=AnswerSpec(form="calls", max_tokens=120, most_calls=2),
    )
    return save(folder / "calls", spec, {})


@pytest.fixture(scope="module")
def server(provider, local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forwarding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", KEY)
        forwarding = save(folder / "forwarding", hosted_spec(provider.name, MODEL), {})
        with Server(f"forwarding={forwarding.folder}", f"calls={local.folder}", home=folder) as found:
            yield found


def hosted_spec(name: str, reported: str) -> Spec:
    model = hosted(name)
    assert model is not None
    return Spec(
        rung="api",
        task="calls",
        kind="tool_call",
        engine="endpoint",
        model=hosted_ref(model, reported),
        instruction="Call.",
        answer=NATIVE,
    )


@pytest.mark.parametrize("stream", (False, True))
def test_a_system_that_asks_by_tools_forwards_a_request_so_and_answers_by_its_own_names(
    server, provider, stream
):
    made = server.user.chat.completions.create(
        model="forwarding", messages=said("my invoice"), tools=TOOLS, stream=stream
    )
    if stream:
        calls = [call for chunk in made for call in chunk.choices[0].delta.tool_calls or ()]
    else:
        (choice,) = made.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        calls = choice.message.tool_calls
    (call,) = calls
    assert (call.function.name, call.function.arguments) == ("desk.find", '{"topic":"billing"}')
    sent = provider.seen[-1]
    assert [tool["function"]["name"] for tool in sent["tools"]] == [SENT]
    assert [turn["content"] for turn in sent["messages"]] == ["Call.", "my invoice"]


def test_words_of_the_model_call_nothing_and_are_not_passed_on(server):
    (choice,) = server.user.chat.completions.create(
        model="forwarding", messages=said("thank you"), tools=TOOLS
    ).choices
    assert (choice.finish_reason, choice.message.tool_calls, choice.message.content) == ("stop", None, "")


def test_a_served_system_of_calls_answers_as_a_hosted_model_what_it_answers_here(
    server, local, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    # As they are sent, so that both read the same prompt.
    find, now = (tool["function"] for tool in offer([LOOK, NOW]).tools)
    rows = [
        Example(id=f"{at}", input=f"question {at}", output=None, context=FUNCTIONS + json.dumps(functions))
        for at, functions in enumerate([[find], [now], [find, now]] * 3)
    ]
    # A system turn would be a part of the question there, and its instruction is its own.
    spec = hosted_spec(f"openai:calls@{server.address}/v1", "").model_copy(update={"instruction": None})
    system = save(tmp_path / "asks", spec, {})
    with Pool() as pool:
        there = system.answer(rows, pool)
        here = local.answer(rows, pool)
    assert [answer.failure for answer in there] == [None] * len(rows)
    assert [answer.prompt_tokens for answer in there] == [answer.prompt_tokens for answer in here]
    assert [answer.value for answer in there] == [answer.value for answer in here]
    names = {call["name"] for answer in there for call in answer.value or ()}
    assert names == {"find", "now"}
