"""`rung serve` and `rung ask` of a System that a hosted model answers for: the same prompt, over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from rung.errors import TaskError
from rung.hosted import hosted_ref
from rung.models.hosted import hosted
from rung.search import PassageIndex, index_files, terms_of
from rung.ship.export import ExportOptions, export
from rung.spec import AnswerSpec, RetrievalSpec, Spec
from rung.system import System, save
from tests.fixtures_climb import TOPICS, Log, topic_passages
from tests.fixtures_hosted import KEY, MODEL, Hosted, as_asked
from tests.fixtures_serve import SCHEMA, Server, said, start

ROOT = Path(__file__).parents[2]
INSTRUCTION = "Name the topic."


@pytest.fixture(scope="module")
def provider():
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture(scope="module")
def folder(provider, tmp_path_factory) -> Path:
    model = hosted(provider.name)
    assert model is not None
    base = {
        "rung": "api",
        "engine": "endpoint",
        "model": hosted_ref(model, MODEL),
        "instruction": INSTRUCTION,
    }
    found = tmp_path_factory.mktemp("hosted")
    form = AnswerSpec(form="schema", max_tokens=16)
    save(found / "desk", Spec(task="desk", kind="label", labels=tuple(TOPICS), answer=form, **base), {})
    free = AnswerSpec(form="free", max_tokens=16)
    save(found / "loud", Spec(task="loud", kind="text", answer=free, **base), {})
    passages = topic_passages()
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    reads = Spec(task="reads", kind="text", answer=free, retrieval=RetrievalSpec(search="bm25", k=2), **base)
    save(found / "reads", reads, index_files(index, "bm25"))
    save(found / "ticket", Spec(task="ticket", kind="json", schema_=SCHEMA, answer=form, **base), {})
    return found


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", KEY)
        systems = [f"{name}={folder / name}" for name in ("desk", "loud", "reads", "ticket")]
        with Server(*systems, home=tmp_path_factory.mktemp("home")) as found:
            yield found


def host_of(provider: Hosted) -> str:
    found = hosted(provider.name)
    assert found is not None
    return found.host


def test_the_host_that_a_system_asks_is_said_when_it_is_served(server, provider):
    assert f" at {host_of(provider)}, " in server.said


def test_serving_asks_nothing_before_it_is_asked_and_then_forwards_the_systems_own_prompt(server, provider):
    assert provider.seen == []
    answer = server.user.chat.completions.create(model="desk", messages=said("my password is locked"))
    assert answer.choices[0].message.content == "login"
    (sent,) = provider.seen
    assert sent["messages"] == [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": "my password is locked"},
    ]
    assert answer.usage.prompt_tokens == provider.completion(sent)["usage"]["prompt_tokens"]
    assert KEY not in server.said


def test_text_is_forwarded_whole_and_streamed(server):
    whole = server.user.chat.completions.create(model="loud", messages=said("a parcel"))
    assert whole.choices[0].message.content == "A PARCEL"
    pieces = server.user.chat.completions.create(model="loud", messages=said("a parcel"), stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == "A PARCEL"


def test_what_is_not_passed_on_is_refused_and_a_fault_of_the_provider_is_told(server, provider):
    with pytest.raises(openai.BadRequestError, match="forwards to a hosted model"):
        server.user.chat.completions.create(model="loud", messages=said("x"), stop=["x"])
    provider.faults = [(401, {"error": {"message": f"bad key {KEY}"}}, {})]
    with pytest.raises(openai.InternalServerError, match="refused the key in RUNG_API_KEY") as raised:
        server.user.chat.completions.create(model="loud", messages=said("x"))
    assert KEY not in str(raised.value)
    provider.faults = []


def test_passages_are_forwarded_with_the_question_and_named_beside_the_answer(server, provider):
    told = {"passages": ["billing.md#1"], "source": None}
    whole = server.user.chat.completions.create(model="reads", messages=said("my invoice"))
    sent = provider.seen[-1]["messages"][-1]["content"]
    assert "that is billing" in sent and sent.endswith("\n\nmy invoice") and "that is login" not in sent
    assert whole.choices[0].message.content == "MY INVOICE" and whole.choices[0].model_extra == told
    chunks = [*server.user.chat.completions.create(model="reads", messages=said("my invoice"), stream=True)]
    assert chunks[-1].choices[0].model_extra == told
    stranger = server.user.chat.completions.create(model="reads", messages=said("zzz"))
    assert provider.seen[-1]["messages"][-1]["content"] == "zzz" and not stranger.choices[0].model_extra


def told(content: str | None, reason: str, model: str = MODEL) -> dict:
    """A provider's answer, which is billed."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 16}
    return {"model": model, "choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (told("X", "stop", "another"), "by 'another' now"),
        (told(None, "content_filter"), "gave no text .*content_filter"),
        (told("", "length"), "gave no text .*length"),
    ],
)
@pytest.mark.parametrize("stream", (False, True))
def test_what_would_fail_again_is_not_asked_and_paid_for_again(server, provider, answer, words, stream):
    paid = len(provider.seen)
    provider.faults = [(200, answer, {})] * 3
    client = server.client(max_retries=2)
    with pytest.raises(openai.UnprocessableEntityError, match=words) as raised:
        client.chat.completions.create(model="loud", messages=said("x"), stream=stream)
    provider.faults = []
    # What had no word out at its limit is asked for once more in each process, with room for thoughts.
    most = 2 if answer["choices"][0]["finish_reason"] == "length" else 1
    assert 1 <= len(provider.seen) - paid <= most
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in raised.value.response.headers


def test_a_request_that_the_provider_does_not_take_is_not_tried_again(server, provider):
    asked = len(provider.seen)
    provider.faults = [(400, {"error": {"message": "too long"}}, {})] * 3
    with pytest.raises(openai.UnprocessableEntityError, match="too long"):
        server.client(max_retries=2).chat.completions.create(model="loud", messages=said("x"))
    provider.faults = []
    assert len(provider.seen) - asked == 1


TICKET = {"topic": "billing", "urgent": True, "days": 3}
OWN_FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize("form", (None, OWN_FORM, {"type": "json_object"}))
@pytest.mark.parametrize(
    "words", ("```json\n{}\n```", "Here is your ticket: {}. Anything else?"), ids=("fenced", "told")
)
def test_json_is_sent_as_it_was_read_where_the_provider_passes_the_form_over(
    server, provider, words, form, stream
):
    provider.faults = [(200, told(words.format(json.dumps(TICKET)), "stop"), {})]
    wish = {} if form is None else {"response_format": form}
    found = server.user.chat.completions.create(model="ticket", messages=said("x"), stream=stream, **wish)
    assert provider.seen[-1]["response_format"]["json_schema"]["schema"] == SCHEMA
    parts = [chunk.choices[0].delta.content or "" for chunk in found] if stream else []
    content = "".join(parts) if stream else found.choices[0].message.content
    assert json.loads(content) == TICKET and list(json.loads(content)) == list(TICKET)


def test_what_no_json_can_be_read_in_is_sent_as_it_came(server, provider):
    provider.faults = [(200, told("I can't tell.", "stop"), {})]
    found = server.user.chat.completions.create(model="ticket", messages=said("x"))
    assert found.choices[0].message.content == "I can't tell."


@pytest.mark.parametrize("stream", (False, True))
def test_an_answer_that_the_provider_cut_is_told_as_cut(server, provider, stream):
    provider.faults = [(200, told("HALF A SEN", "length"), {})]
    found = server.user.chat.completions.create(model="loud", messages=said("x"), stream=stream)
    choice = [*found][-1].choices[0] if stream else found.choices[0]
    assert choice.finish_reason == "length"
    assert stream or choice.message.content == "HALF A SEN"


def test_a_system_whose_key_is_not_set_is_not_served(tmp_path):
    model = hosted("openai:gpt-5-mini")
    assert model is not None
    spec = Spec(
        rung="api", task="t", kind="text", engine="endpoint", model=hosted_ref(model, "gpt-5-mini-2026")
    )
    save(tmp_path / "s", spec, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_API_KEY", raising=False)
        child = start(str(tmp_path / "s"), "--port", "0", home=tmp_path)
    said_so, _ = child.communicate(timeout=60)
    assert child.returncode == 2 and "OPENAI_API_KEY isn't set" in said_so


def test_ask_answers_through_the_endpoint(folder, provider):
    done = subprocess.run(
        [sys.executable, "-m", "rung", "ask", str(folder / "desk"), "the parcel is late", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNG_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == f"asks {host_of(provider)}\n"
    assert '"answer": "delivery"' in done.stdout and KEY not in done.stdout + done.stderr


def test_such_a_system_cannot_be_exported_and_says_so(folder, tmp_path):
    with pytest.raises(TaskError, match="endpoint|language model"):
        export(System.load(folder / "desk").folder, tmp_path / "out", ExportOptions(target="gguf"), Log())
