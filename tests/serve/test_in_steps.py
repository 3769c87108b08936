"""Systems that make an answer of several calls, served: the same answers, and what they don't take."""

import openai
import pytest

from rung.records import Answer
from rung.serve.answer import _of_answer
from rung.serve.wish import Wish
from rung.spec import StepsSpec
from rung.system import save
from tests.fixtures_climb import TOPICS
from tests.fixtures_serve import LABELS, Server, row, said

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
