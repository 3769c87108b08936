"""Systems that make an answer of several calls, served: the same answers, and what they don't take."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from rung.data.conversations import asked as read_question
from rung.engines.base import EngineSpec
from rung.engines.fake import FakeEngine, bytes_of
from rung.records import Answer, Json
from rung.serve.answer import _of_answer
from rung.serve.app import make_app
from rung.serve.gateway import Gateway
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.serve.tools import offered
from rung.serve.wire import ChatRequest
from rung.serve.wish import Wish
from rung.spec import AnswerSpec, StepsSpec
from rung.system import System, save
from tests.fixtures_climb import TOPICS
from tests.fixtures_serve import LABELS, SCHEMA, Server, row, said

TEXTS = ("my refund please", "the parcel is late", "help with the password")
STEPS = {
    "json": ("json", "llama", StepsSpec(kind="vote", samples=3, temperature=0.7)),
    "words": ("words", "llama", StepsSpec(kind="think", max_tokens=8, close="Now the answer.")),
    "voted": (
        "words",
        "llama",
        StepsSpec(kind="think", samples=3, temperature=0.7, max_tokens=8, close="So?"),
    ),
    "text": ("text", "torch", StepsSpec(kind="repair", max_tokens=16, close="Check it.")),
}


@pytest.fixture(scope="module")
def stepped(tmp_path_factory, tiny_systems):
    folder = tmp_path_factory.mktemp("steps")
    return {
        name: save(
            folder / name,
            tiny_systems[base].spec.model_copy(update={"steps": steps, "engine": engine, "rung": "workflow"}),
            {},
        )
        for name, (base, engine, steps) in STEPS.items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory, stepped):
    systems = [f"{name}={system.folder}" for name, system in stepped.items()]
    with Server(*systems, home=tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.mark.parametrize("name", list(STEPS))
def test_a_system_of_several_calls_is_served_as_it_was_scored(name, server, stepped, pool):
    for text in TEXTS:
        (answer,) = stepped[name].answer([row(text)], pool)
        found = server.user.chat.completions.create(model=name, messages=said(text))
        labelled = stepped[name].spec.kind == "label" and answer.value is not None
        assert found.choices[0].message.content == (answer.value if labelled else answer.text)
        assert found.usage is not None and found.usage.completion_tokens == answer.completion_tokens
        assert found.choices[0].finish_reason == ("length" if answer.cut else "stop")


def test_a_label_is_served_without_the_words_that_it_was_found_in(stepped):
    spec = stepped["words"].spec
    found = _of_answer(Answer(text="I'd say billing.", value="billing"), spec, Wish(top=1))
    assert (found.text, found.chances[0].text) == ("billing", "billing")
    strange = _of_answer(Answer(text="Who knows?"), spec, Wish())
    assert strange.text == "Who knows?"


def test_it_streams_its_answer_when_that_is_whole(server):
    asked = {"model": "json", "messages": said(TEXTS[0])}
    whole = server.user.chat.completions.create(**asked)
    with server.user.chat.completions.create(**asked, stream=True) as chunks:
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(parts) == whole.choices[0].message.content


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["x"]}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_it_cant_do_in_several_calls_is_refused_by_name(wish, param, server):
    with pytest.raises(openai.BadRequestError) as refused:
        server.user.chat.completions.create(model="text", messages=said(TEXTS[0]), **wish)
    assert refused.value.param == param and "several calls" in refused.value.message


@pytest.mark.parametrize(("name", "told"), [("words", True), ("voted", False)])
def test_logprobs_are_taken_of_the_labels_that_are_said_to_have_probabilities(name, told, server):
    listed = {item["name"]: item["probabilities"] for item in server.get("/v1/systems").json()["data"]}
    assert listed[name] is told
    body = {"model": name, "messages": said(TEXTS[0]), "logprobs": True, "top_logprobs": len(LABELS)}
    assert server.post("/v1/chat/completions", json=body).status_code == (200 if told else 400)


def test_a_label_after_reasoning_has_a_probability_for_every_option(server, stepped, pool):
    choice = {"type": "choice", "instructions": "?", "choices": [{"value": topic} for topic in TOPICS]}
    body = {"model": "words", "input": TEXTS[0], "questions": [choice]}
    found = server.post("/v1/decisions", json=body)
    assert found.status_code == 200
    told = {p["value"]: p["probability"] for p in found.json()["answers"][0]["probabilities"]}
    (answer,) = stepped["words"].answer([row(TEXTS[0])], pool, every_label=True)
    assert told == pytest.approx(dict(zip(LABELS, answer.distribution, strict=True)), abs=1e-4)


REPAIR = StepsSpec(kind="repair", max_tokens=200, close="Wrong: {fault}. Again.")
TICKET = {"topic": "billing", "urgent": True, "days": 3}
FIND = {
    "name": "find",
    "parameters": {
        "type": "object",
        "properties": {"topic": {"enum": list(TOPICS)}},
        "required": ["topic"],
        "additionalProperties": False,
    },
}
CALL = {"name": "find", "arguments": {"topic": "login"}}
FORMS: dict[str, dict[str, Any]] = {
    "json": {"schema_": SCHEMA, "answer": AnswerSpec(form="schema", max_tokens=64)},
    "number": {
        "schema_": {"type": "integer", "minimum": 0, "maximum": 99},
        "answer": AnswerSpec(form="schema", max_tokens=8),
    },
    "tool_call": {"schema_": None, "answer": AnswerSpec(form="calls", max_tokens=64)},
}


@dataclass(frozen=True)
class Sent:
    """What a client was sent of one answer: its words, its calls, and why it ended."""

    words: str
    calls: list[Json]
    finish: str | None


def repairing(folder, base: System, kind: str) -> System:
    """A System that writes a free draft first, on an engine whose drafts are known."""
    changes = {"kind": kind, "engine": "fake", "rung": "workflow", "steps": REPAIR, **FORMS[kind]}
    return save(folder, base.spec.model_copy(update=changes), {})


async def sent_whole_and_streamed(system: System, draft: str, **options: Any) -> tuple[Sent, Sent]:
    """What is sent of a draft, by the whole application, as openai's own client takes it."""
    systems = Systems(Limits(threads=1))
    body = ChatRequest.model_validate({"model": "mended", "messages": said(TEXTS[0]), **options})
    question = read_question(body.messages, offered(body.may_call) or None)
    (prompt,) = system.prompts([row(question.input, question.context)], systems.pool)
    engine = system.engine_spec(systems.pool)
    systems.pool.engines[engine] = FakeEngine(engine, answers={prompt: bytes_of(draft)})
    await systems.add(str(system.folder), "mended")
    transport = httpx.ASGITransport(app=make_app(Gateway(systems=systems, limit_s=60)))
    # It takes this client as well, though its types name that of httpx2 alone.
    http: Any = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="http://rung/v1", api_key="none", http_client=http)
    async with client:
        asked = {"model": "mended", "messages": said(TEXTS[0]), **options}
        (choice,) = (await client.chat.completions.create(**asked)).choices
        whole = Sent(choice.message.content or "", called(choice.message.tool_calls), choice.finish_reason)
        stream = await client.chat.completions.create(**asked, stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
    await systems.close()
    words = "".join(chunk.delta.content or "" for chunk in chunks)
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    return whole, Sent(words, called(calls), chunks[-1].finish_reason)


def called(calls: Any) -> list[Json]:
    return [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls or ()]


@pytest.mark.parametrize(
    ("kind", "draft", "value"),
    [
        ("json", f"Sure! Here it is:\n```json\n{json.dumps(TICKET, indent=1)}\n```", TICKET),
        ("json", json.dumps(TICKET), TICKET),
        ("number", "It took 3 days, so the answer is 12.", 12),
    ],
)
def test_of_a_draft_with_words_around_it_the_value_is_sent_that_was_scored(
    kind, draft, value, tiny_systems, tmp_path
):
    system = repairing(tmp_path / "system", tiny_systems["text"], kind)
    whole, streamed = asyncio.run(sent_whole_and_streamed(system, draft))
    assert whole == streamed and whole.finish == "stop"
    assert json.loads(whole.words) == value


def test_a_draft_is_json_where_a_request_wants_the_systems_own_form(tiny_systems, tmp_path):
    system = repairing(tmp_path / "system", tiny_systems["text"], "json")
    draft = f"So: {json.dumps(TICKET)}."
    own = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    for form in (own, {"type": "json_object"}):
        sent = asyncio.run(sent_whole_and_streamed(system, draft, response_format=form))
        assert [json.loads(one.words) for one in sent] == [TICKET, TICKET]


@pytest.mark.parametrize(
    ("draft", "sent"),
    [
        (f"This should do:\n```json\n[{json.dumps(CALL)}]\n```", Sent("", [CALL], "tool_calls")),
        ("None of them fits: []", Sent("", [], "stop")),
    ],
)
def test_calls_of_a_draft_are_calls_and_none_are_nothing(draft, sent, tiny_systems, tmp_path):
    system = repairing(tmp_path / "system", tiny_systems["text"], "tool_call")
    tools = [{"type": "function", "function": FIND}]
    assert asyncio.run(sent_whole_and_streamed(system, draft, tools=tools)) == (sent, sent)


def test_slots_are_those_of_several_calls_too_and_another_context_is_said(stepped):
    told: list[str] = []

    async def opened(context: int | None) -> list[EngineSpec]:
        systems = Systems(Limits(slots=2, threads=1, context=context), told.append)
        await systems.add(str(stepped["json"].folder), "voted")
        found = [*systems.pool.engines]
        await systems.close()
        return found

    (engine,) = asyncio.run(opened(None))
    assert engine.parallel == 2 and not told
    (again,) = asyncio.run(opened(engine.context))
    assert again == engine and not told
    asyncio.run(opened(64))
    assert told == [
        f"voted: a prompt and its answer have {engine.context:,} tokens here, not 64: --context is for what "
        "llama.cpp answers in one call"
    ]
