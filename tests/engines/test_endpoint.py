import email.utils
import logging
import math
import time
from collections.abc import Callable, Iterator

import pytest

from rung.engines import start
from rung.engines.base import EngineSpec, Request
from rung.engines.endpoint import REASONING_TOKENS, Draw, EndpointEngine
from rung.engines.endpoint_wire import chat_url, read_label, retry_after_s
from rung.engines.llama_process import Child
from rung.errors import EngineError
from tests.fixtures_http import Posted, Said
from tests.fixtures_models import llama_spec

KEY = "sk-very-secret"
ASK = [("system", "Answer."), ("user", "What is it?")]
LABELS = ("spam", "ham")
DEEP = "[" * 9999


def reply(text: str | None, **changes) -> dict:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **changes}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }


class Server(Posted):
    """A tiny OpenAI-compatible server: `script` holds what it says to the calls to come, or what says that.

    Its last entry is repeated.
    """

    def __init__(self) -> None:
        self.script: list[Said | Callable[[dict], Said]] = [(200, reply("fine"), {})]
        super().__init__(self.answer)

    def answer(self, body: dict, path: str) -> Said:
        body["path"] = path
        said = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return said(body) if callable(said) else said


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as server:
        yield server


@pytest.fixture
def engine(server) -> Iterator[EndpointEngine]:
    engine = EndpointEngine(
        EngineSpec(engine="endpoint", url=server.url, model="tiny", parallel=3),
        request_limit_s=1.0,
        attempts=3,
        backoff_s=0.01,
    )
    yield engine
    engine.close()


def test_a_conversation_goes_out_as_the_protocol_has_it_and_usage_comes_back(server, engine):
    schema = {"type": "object"}
    answer = engine.chat(ASK, max_tokens=9, schema=schema, draw=Draw(temperature=0.5))
    (sent,) = server.seen
    assert sent["path"] == "/v1/chat/completions"
    assert sent["messages"] == [{"role": role, "content": content} for role, content in ASK]
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("tiny", 9, 0.5)
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert server.keys == [f"Bearer {KEY}"]
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("fine", 11, 3)
    assert answer.failure is None
    assert math.isnan(answer.logprob)


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_a_busy_server_is_asked_again(server, engine, status):
    server.script = [(status, {"error": {}}, {}), (200, reply("second"), {})]
    assert engine.chat(ASK, max_tokens=9).text == "second"
    assert len(server.seen) == 2


def test_retry_after_is_honoured(server, engine):
    server.script = [(429, {}, {"retry-after": "0.3"}), (200, reply("later"), {})]
    begin = time.perf_counter()
    assert engine.chat(ASK, max_tokens=9).text == "later"
    assert time.perf_counter() - begin >= 0.3


def test_a_server_that_always_fails_is_given_up_after_the_allowed_tries(server, engine):
    server.script = [(500, {"error": {"message": "on fire"}}, {})]
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None
    assert "on fire" in answer.failure
    assert "tried 3 times" in answer.failure
    assert len(server.seen) == 3


def test_a_usage_that_is_no_object_is_none(server, engine):
    server.script = [(200, reply("fine") | {"usage": [1, 2]}, {})]
    answer = engine.chat(ASK, max_tokens=9)
    assert (answer.text, answer.failure, answer.prompt_tokens) == ("fine", None, 0)


def test_an_answer_that_says_it_is_packed_and_is_not_is_a_failure_not_a_crash(server, engine):
    server.script = [(200, reply("fine"), {"content-encoding": "gzip"})]
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None and "not a chat completion" in answer.failure


@pytest.mark.parametrize(
    "garbage", ["<html>", {"choices": []}, [], {"choices": [{"message": None}]}, "null", DEEP]
)
def test_an_answer_that_is_no_completion_is_a_failure_not_a_crash(server, engine, garbage):
    server.script = [(200, garbage, {})]
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None
    assert "not a chat completion" in answer.failure


def test_what_is_nested_too_deeply_to_be_read_is_a_failure_as_a_refusal_and_no_label(server, engine):
    server.script = [(400, DEEP, {})]
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None and "status 400" in answer.failure
    server.script = [(200, reply(DEEP), {})]
    (named,) = engine.label_many([ASK], LABELS, max_tokens=9)
    assert (named.text, named.failure) == (DEEP, None)


def test_a_server_that_hangs_is_left_after_the_time_limit(server, engine):
    server.script = [(200, 1.6, {}), (200, reply("awake"), {})]
    begin = time.perf_counter()
    assert engine.chat(ASK, max_tokens=9).text == "awake"
    assert 1.0 <= time.perf_counter() - begin < 1.6


def test_one_refused_request_does_not_cost_the_others(server, engine):
    server.script = [(400, {"error": {"message": "too long"}}, {}), (200, reply("fine"), {})]
    answers = engine.chat_many([ASK] * 5, max_tokens=9)
    assert sorted(answer.failure is None for answer in answers) == [False, True, True, True, True]
    assert "too long" in next(answer.failure for answer in answers if answer.failure)
    assert len(server.seen) == 5


def test_no_more_are_in_flight_than_allowed_and_the_order_is_kept(server, engine):
    server.script = [(200, 0.05, {})]
    engine.chat_many([ASK] * 9, max_tokens=9)
    assert server.most_in_flight <= 3
    server.script = [(200, reply("x"), {})]
    told = []
    answers = engine.chat_many(
        [[("user", str(n))] for n in range(9)], max_tokens=9, progress=lambda d, t: told.append((d, t))
    )
    assert len(answers) == 9
    assert told[-1] == (9, 9)
    assert engine.chat_many([], max_tokens=9) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_batch_and_is_never_shown(server, engine, status, caplog):
    caplog.set_level(logging.DEBUG)
    server.script = [(status, {"error": {"message": f"bad key {KEY}"}}, {})]
    with pytest.raises(EngineError, match="OPENAI_API_KEY") as raised:
        engine.chat(ASK, max_tokens=9)
    assert KEY not in str(raised.value)
    assert KEY not in caplog.text


def test_a_key_that_the_server_repeats_is_taken_out_of_the_failure(server, engine):
    server.script = [(418, {"error": {"message": f"you sent {KEY}"}}, {})]
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None
    assert "you sent …" in answer.failure
    assert KEY not in answer.failure


def test_without_a_key_none_is_sent_and_the_message_names_the_variable(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    spec = EngineSpec(engine="endpoint", url=server.url, model="tiny", key_variable="MY_KEY")
    engine = EndpointEngine(spec)
    server.script = [(200, reply("fine"), {}), (401, {}, {})]
    assert engine.chat(ASK, max_tokens=9).text == "fine"
    assert server.keys == [None]
    with pytest.raises(EngineError, match="MY_KEY, which is not set"):
        engine.chat(ASK, max_tokens=9)
    engine.close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(404, {}, "model's name"), (429, {"error": {"code": "insufficient_quota"}}, "quota")],
)
def test_what_no_retry_can_mend_is_an_error_with_a_way_out(server, engine, status, body, words):
    server.script = [(status, body, {})]
    with pytest.raises(EngineError, match=words):
        engine.chat(ASK, max_tokens=9)
    assert len(server.seen) == 1


def test_a_model_that_takes_the_newer_parameters_only_gets_them(server, engine):
    def unsupported(parameter: str) -> tuple[int, dict, dict]:
        return 400, {"error": {"code": "unsupported_parameter", "param": parameter}}, {}

    server.script = [unsupported("max_tokens"), (200, reply("one"), {})]
    assert engine.chat(ASK, max_tokens=9).text == "one"
    server.script = [unsupported("temperature"), (200, reply("two"), {})]
    assert engine.chat(ASK, max_tokens=9).text == "two"
    assert engine.chat(ASK, max_tokens=9).text == "two"
    assert server.seen[-1]["max_completion_tokens"] == 9 + REASONING_TOKENS
    assert not server.seen[-1].keys() & {"max_tokens", "temperature"}
    assert len(server.seen) == 5


@pytest.mark.parametrize("form", [None, {"type": "object"}])
def test_a_model_that_refuses_two_parameters_one_after_the_other_is_asked_under_the_schema(
    server, engine, form
):
    def thinks(body: dict) -> tuple[int, dict, dict]:
        for parameter in ("max_tokens", "temperature"):
            if parameter in body:
                return 400, {"error": {"code": "unsupported_value", "param": parameter}}, {}
        return 200, reply("fine"), {}

    server.script = [thinks]
    found = engine.chat_many([ASK] * 5, max_tokens=9, schema=form)
    assert [answer.text for answer in found] == ["fine"] * 5 and all(a.failure is None for a in found)
    assert ("response_format" in server.seen[-1]) == (form is not None)
    server.seen.clear()
    assert engine.chat(ASK, max_tokens=9, schema=form).text == "fine" and len(server.seen) == 1


def test_an_answer_cut_at_its_limit_is_truncated_and_a_refusal_is_a_failure(server, engine):
    server.script = [
        (200, reply("half", finish_reason="length"), {}),
        (200, reply(None, finish_reason="content_filter"), {}),
    ]
    assert engine.chat(ASK, max_tokens=9).truncated
    answer = engine.chat(ASK, max_tokens=9)
    assert answer.failure is not None
    assert "content_filter" in answer.failure


def test_labels_are_asked_for_by_schema_and_read_from_it(server, engine):
    server.script = [(200, reply('{"label": "ham"}'), {})]
    (answer,) = engine.label_many([ASK], LABELS)
    assert answer.text == "ham"
    schema = server.seen[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == list(LABELS)


def test_a_server_without_schemas_is_asked_for_labels_in_plain_text_from_then_on(server, engine):
    server.script = [(400, {"error": {"message": "response_format"}}, {}), (200, reply("Spam."), {})]
    assert engine.label_many([ASK], LABELS)[0].text == "spam"
    assert engine.label_many([ASK], LABELS)[0].text == "spam"
    assert ["response_format" in sent for sent in server.seen] == [True, False, False]


MISSED = (
    400,
    {"error": {"message": "Generated JSON does not match the schema. See 'failed_generation'."}},
    {},
)
"""What Groq says where one answer missed the form."""


@pytest.mark.parametrize("refusal", [MISSED, (400, {"error": {"message": "Invalid schema"}}, {})])
def test_a_form_that_is_refused_for_one_conversation_stays_for_the_others(server, engine, refusal):
    labelled = (200, reply('{"label": "ham"}'), {})
    server.script = [labelled, refusal, (200, reply("Spam."), {}), labelled]
    found = [engine.label_many([ASK], LABELS)[0].text for _ in range(3)]
    assert found == ["ham", "spam", "ham"]
    assert ["response_format" in sent for sent in server.seen] == [True, True, False, True]


def test_one_form_that_the_server_never_takes_is_sent_once_beside_another_that_it_takes(server, engine):
    labelled, refused = (
        (200, reply('{"label": "ham"}'), {}),
        (400, {"error": {"message": "Invalid schema"}}, {}),
    )
    server.script = [labelled, refused, (200, reply("1"), {}), (200, reply("2"), {}), labelled]
    assert engine.label_many([ASK], LABELS)[0].text == "ham"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    found = [engine.chat(ASK, max_tokens=8, schema=schema).text for _ in range(2)]
    assert found == ["1", "2"] and engine.label_many([ASK], LABELS)[0].text == "ham"
    assert ["response_format" in sent for sent in server.seen] == [True, True, False, False, True]


def test_a_first_answer_that_missed_its_form_is_no_sign_that_the_server_takes_none(server, engine):
    server.script = [MISSED, (200, reply("Spam."), {}), (200, reply('{"label": "ham"}'), {})]
    assert [engine.label_many([ASK], LABELS)[0].text for _ in range(2)] == ["spam", "ham"]
    assert ["response_format" in sent for sent in server.seen] == [True, False, True]


def test_a_server_that_never_takes_a_form_and_does_not_say_so_is_asked_without_in_the_end(server, engine):
    def plain(body: dict) -> Said:
        return (404, {"error": {}}, {}) if "response_format" in body else (200, reply("Spam."), {})

    server.script = [plain]
    assert [engine.label_many([ASK], LABELS)[0].text for _ in range(5)] == ["spam"] * 5
    assert sum("response_format" in sent for sent in server.seen) == 3 and len(server.seen) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ham", "ham"),
        (' "HAM". ', "ham"),
        ('{"label": "spam"}', "spam"),
        ("[1]", "[1]"),
        ("I think it is ham", "I think it is ham"),
        ('{"label": null}', '{"label": null}'),
    ],
)
def test_a_text_that_names_no_label_is_left_as_it_came(text, expected):
    assert read_label(text, LABELS) == expected


def test_labels_that_differ_in_case_only_stay_apart():
    assert read_label("HAM", ("ham", "HAM")) == "HAM"
    assert read_label('{"label": "HAM"}', ("ham", "HAM")) == "HAM"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8080", "http://localhost:8080/v1/chat/completions"),
        ("https://h.example/v1/", "https://h.example/v1/chat/completions"),
        ("https://h.example/openai/chat/completions", "https://h.example/openai/chat/completions"),
    ],
)
def test_a_base_url_is_completed(url, expected):
    assert str(chat_url(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h.example",
        "h.example",
        f"https://me:{KEY}@h.example",
        f"https://me:{KEY}@h.example:80a",
        f"https://h.example:{KEY}",
        "http://[::1/v1",
    ],
)
def test_an_url_that_cannot_be_used_is_refused_without_showing_a_password(url):
    with pytest.raises(EngineError) as raised:
        chat_url(url)
    assert KEY not in str(raised.value)


def test_retry_after_is_read_as_seconds_or_as_a_date():
    assert retry_after_s("7") == 7.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (retry_after_s(date) or 0) <= 31


def test_token_prompts_are_answered_by_an_error_that_says_what_to_use(engine):
    for call in (
        lambda: engine.generate([Request(prompt=(1,), max_tokens=1)]),
        lambda: engine.choose([(1,)], [(1,)]),
        lambda: engine.next_logprobs([(1,)], [1]),
    ):
        with pytest.raises(EngineError, match="takes messages.*chat_many"):
            call()


def test_an_interrupt_does_not_wait_for_the_server(server, engine):
    server.script = [(200, reply("fine"), {}), (200, 0.9, {})]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        engine.chat_many([ASK] * 30, max_tokens=9, progress=interrupt)
    assert time.perf_counter() - begin < 0.8
    with pytest.raises(EngineError, match="closed"):
        engine.chat(ASK, max_tokens=9)


def test_an_endpoint_needs_an_url_and_a_model_and_closes_twice(engine):
    with pytest.raises(EngineError, match="needs an URL and a model"):
        start(EngineSpec(engine="endpoint", url="http://h.example"))
    engine.close()
    engine.close()
    assert engine.memory_mb() == 0.0


def test_an_unknown_engine_is_answered_with_the_known_ones():
    with pytest.raises(EngineError, match="'vlm'.*llama, torch, endpoint or fake"):
        start(EngineSpec(engine="vlm"))


@pytest.mark.models
def test_a_real_server_answers_chats_and_labels(monkeypatch):
    child = Child(llama_spec(), request_limit_s=30)
    monkeypatch.setenv("LOCAL_KEY", child.key)
    spec = EngineSpec(engine="endpoint", url=child.address, model="any", parallel=2, key_variable="LOCAL_KEY")
    engine = EndpointEngine(spec)
    france, six = engine.chat_many(
        [[("user", "What is the capital of France?")], [("user", "Say six words about rain.")]], max_tokens=8
    )
    assert france.failure is None
    assert france.text
    assert france.prompt_tokens > 5
    assert 0 < (six.completion_tokens or 0) <= 8
    answers = engine.label_many([[("user", "Is this spam? Buy cheap pills now!")]] * 3, LABELS)
    assert {answer.text for answer in answers} <= set(LABELS)
    monkeypatch.setenv("LOCAL_KEY", "wrong")
    with pytest.raises(EngineError, match="LOCAL_KEY"):
        engine.chat(ASK, max_tokens=4)
    engine.close()
    child.close()
