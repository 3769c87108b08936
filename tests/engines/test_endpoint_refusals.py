"""Refusals in providers' own words: of parameters, for want of room or of credit, of too many calls."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from rung.engines.base import EngineSpec
from rung.engines.endpoint import REASONING_TOKENS, Draw, EndpointEngine
from rung.errors import EngineError
from tests.engines.test_endpoint import ASK, KEY, LABELS, MISSED, Server, reply
from tests.fixtures_http import Said

FINE: Said = (200, reply("fine"), {})


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = Server()
    with found:
        yield found


def started(
    server: Server, *, attempts: int = 3, parallel: int = 3, backoff_s: float = 0.005
) -> EndpointEngine:
    spec = EngineSpec(engine="endpoint", url=server.url, model="tiny", parallel=parallel)
    return EndpointEngine(spec, request_limit_s=5.0, attempts=attempts, backoff_s=backoff_s)


@pytest.fixture
def engine(server) -> Iterator[EndpointEngine]:
    with closing(started(server)) as found:
        yield found


def refused(message: str, status: int = 400, **error) -> Said:
    return status, {"error": {"message": message, **error}}, {}


ANTHROPIC = refused(
    "temperature is deprecated for this model.", code="invalid_request_error", type="invalid_request_error"
)
LITELLM = refused(
    "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.0, only temperature=1.",
    param=None,
    code="400",
)
BARE: Said = (400, {"detail": "Unsupported parameter: Temperature"}, {})
GOOGLE: Said = (400, [{"error": {"code": 400, "message": "temperature can't be set"}}], {})


@pytest.mark.parametrize("form", [None, {"type": "object"}])
@pytest.mark.parametrize("refusal", [ANTHROPIC, LITELLM, BARE, GOOGLE])
def test_a_temperature_that_is_refused_in_words_is_left_out_from_then_on(server, engine, refusal, form):
    server.script = [lambda body: refusal if "temperature" in body else FINE]
    found = engine.chat_many([ASK] * 5, max_tokens=9, schema=form)
    assert [answer.text for answer in found] == ["fine"] * 5
    server.seen.clear()
    assert engine.chat(ASK, max_tokens=9, schema=form).text == "fine"
    (sent,) = server.seen
    assert "temperature" not in sent and ("response_format" in sent) == (form is not None)


def test_one_temperature_is_refused_though_another_one_was_taken(server, engine):
    kimi = refused("invalid temperature: only 1 is allowed for this model")
    server.script = [lambda body: kimi if body.get("temperature", 1.0) != 1.0 else FINE]
    for temperature in (1.0, 0.0, 0.7):
        assert engine.chat(ASK, max_tokens=9, draw=Draw(temperature=temperature)).text == "fine"
    assert [sent.get("temperature") for sent in server.seen] == [1.0, 0.0, None, None]


def test_a_refusal_that_only_repeats_the_request_changes_none_that_follows(server, engine):
    echo = refused("no room for {'max_tokens': 9, 'temperature': 0.0}")
    server.script = [echo, echo, FINE]
    assert "no room" in str(engine.chat(ASK, max_tokens=9).failure)
    assert engine.chat(ASK, max_tokens=9).text == "fine"
    server.script = [echo, FINE]
    assert "no room" in str(engine.chat(ASK, max_tokens=9).failure), "nothing is doubted that was taken once"
    assert engine.chat(ASK, max_tokens=9).text == "fine"
    assert [sent.get("temperature") for sent in server.seen] == [0.0, None, 0.0, 0.0, 0.0]


def test_an_answer_that_a_refusal_repeats_does_not_take_the_temperature_from_the_next(server, engine):
    status, body, headers = MISSED
    missed = {"error": {**body["error"], "failed_generation": '{"label": "temperature: 39"}'}}
    server.script = [(status, missed, headers), (200, reply('{"label": "spam"}'), {})]
    for _ in range(2):
        assert engine.label_many([ASK], LABELS)[0].text == "spam"
    assert [sent.get("temperature") for sent in server.seen] == [0.0, 0.0, 0.0]


def test_a_limit_that_has_another_name_is_told_in_words_and_one_that_is_too_large_is_not(server, engine):
    large = refused("'max_tokens' or 'max_completion_tokens' is too large: 9. The context has 8 tokens.")
    server.script = [large]
    assert "too large" in str(engine.chat(ASK, max_tokens=9).failure)
    instead = refused("'max_tokens' isn't supported here. Use 'max_completion_tokens' instead.", code=400)
    server.script = [lambda body: instead if "max_tokens" in body else FINE]
    assert engine.chat(ASK, max_tokens=9).text == "fine"
    assert [sent.get("max_completion_tokens") for sent in server.seen] == [None, None, 9 + REASONING_TOKENS]


@pytest.mark.parametrize("content", [None, "", "<think>\nIs it spam, or"])
def test_a_model_that_has_no_word_out_at_its_limit_is_given_room_to_think(server, engine, content):
    cut = (200, reply(content, finish_reason="length"), {})
    server.script = [lambda body: cut if body["max_tokens"] < 1000 else FINE]
    for _ in range(2):
        answer = engine.chat(ASK, max_tokens=30)
        assert (answer.text, answer.failure) == ("fine", None)
    assert [sent["max_tokens"] for sent in server.seen] == [30, 30 + REASONING_TOKENS, 30 + REASONING_TOKENS]


def test_an_answer_that_is_cut_after_a_word_gives_no_room_to_the_next(server, engine):
    server.script = [(200, reply("half an", finish_reason="length"), {})]
    assert [engine.chat(ASK, max_tokens=30).text for _ in range(2)] == ["half an"] * 2
    assert [sent["max_tokens"] for sent in server.seen] == [30, 30]


def test_a_model_that_spends_its_room_on_thoughts_fails_and_the_failure_says_where(server, engine):
    server.script = [(200, reply("", finish_reason="length"), {})]
    answer = engine.chat(ASK, max_tokens=30)
    assert "127.0.0.1/v1/chat/completions (tiny): the model gave no text" in str(answer.failure)
    assert answer.final and len(server.seen) == 2


def test_thoughts_that_a_server_leaves_before_a_label_are_no_part_of_it(server, engine):
    server.script = [(200, reply('<think>\n{"label": "spam"}? No.\n</think>\n\n{"label": "ham"}'), {})]
    assert engine.label_many([ASK], LABELS)[0].text == "ham"


def google(quota: str, delay: str) -> list[dict]:
    details = [{"violations": [{"quotaId": quota}]}, {"retryDelay": delay}]
    return [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}]


A_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
NO_CREDIT = "127.0.0.1.*credit or quota is used up; add credit .*run the same command again"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (refused("Insufficient Balance", 402), NO_CREDIT),
        (refused("This request requires more credits, or fewer max_tokens.", 402), NO_CREDIT),
        (refused("Your credit balance is too low to access the Anthropic API."), NO_CREDIT),
        ((403, {"error": "Your team has used all available credits"}, {}), NO_CREDIT),
        (refused("Please check your plan", 429, code="insufficient_quota"), NO_CREDIT),
        (refused("Your account is suspended", 429, type="exceeded_current_quota_error"), NO_CREDIT),
        ((429, google("GenerateRequestsPerDayPerProjectPerModel", "34s"), {}), "in a day is used up"),
        ((429, {}, {"retry-after": "1200"}), "asks to wait 20 m 00 s .status 429.: run the same command"),
        ((429, {}, {"retry-after": "1e400"}), "asks to wait 720 h 00 m"),
        ((429, google(A_MINUTE, "1200.25s"), {}), "asks to wait 20 m 00 s"),
        ((503, {}, {"retry-after": "3600"}), "asks to wait 1 h 00 m"),
    ],
)
def test_what_is_used_up_or_off_for_long_ends_the_batch_and_says_what_to_do(server, engine, said, words):
    server.script = [FINE, said]
    with pytest.raises(EngineError, match=words) as raised:
        engine.chat_many([ASK] * 9, max_tokens=9)
    assert KEY not in str(raised.value) and len(server.seen) <= 2 + 3


def test_an_answer_of_want_of_credit_that_a_refusal_repeats_is_not_the_accounts(server, engine):
    status, body, headers = MISSED
    missed = {"error": {**body["error"], "failed_generation": '{"label": "insufficient credit"}'}}
    server.script = [(status, missed, headers), (200, reply("Spam."), {})]
    assert engine.label_many([ASK], LABELS)[0].text == "spam"


def bucket(most: int, window_s: float) -> Callable[[dict], Said]:
    """What answers so many calls in each stretch of time, and tells the others no more than that."""
    begun, count = time.monotonic(), 0

    def answer(body: dict) -> Said:
        nonlocal begun, count
        if time.monotonic() - begun >= window_s:
            begun, count = time.monotonic(), 0
        count += 1
        return FINE if count <= most else refused("slow down", 429)

    return answer


@pytest.mark.parametrize(("most", "rows"), [(10, 30), (3, 12)])
def test_a_limit_on_the_calls_a_minute_breaks_none_of_them(server, most, rows):
    # As half a second before the second try and a minute.
    server.script = [bucket(most, 0.4)]
    with closing(started(server, attempts=5, parallel=8, backoff_s=0.5 * 0.4 / 60)) as engine:
        found = engine.chat_many([[("user", f"{n}")] for n in range(rows)], max_tokens=9)
    assert [answer.failure for answer in found] == [None] * rows


@pytest.mark.parametrize("said", [refused("slow down", 429), (429, google(A_MINUTE, "0.3s"), {})])
def test_a_429_holds_back_every_call_also_where_no_header_says_how_long(server, said):
    times: list[float] = []

    def fine(body: dict) -> Said:
        times.append(time.monotonic())
        return FINE

    server.script, server.delay_s = [said, fine], 0.02
    with closing(started(server, parallel=2, backoff_s=0.075)) as engine:
        begun = time.monotonic()
        engine.chat_many([ASK] * 12, max_tokens=9)
    # One call was under way beside the one that was put off.
    assert len([at for at in times if at - begun < 0.28]) <= 2 and len(times) == 12


def test_a_server_that_answers_nobody_ends_the_batch_after_the_tries_of_a_call(server, engine):
    server.script = [refused("slow down", 429)]
    with pytest.raises(EngineError, match="answers nobody now: status 429.*tried 3 times.*again later"):
        engine.chat_many([ASK] * 12, max_tokens=9)
    assert 3 <= len(server.seen) <= 3 * 3


def test_a_request_that_no_minute_has_room_for_is_one_broken_call(server, engine):
    large = refused("Request too large for tiny on tokens per min (TPM): Limit 10, Requested 11.", 429)
    server.script = [large, FINE]
    found = engine.chat_many([ASK] * 5, max_tokens=9)
    assert len(server.seen) == 5
    (failed,) = [answer for answer in found if answer.failure is not None]
    assert failed.final and "Request too large" in str(failed.failure)
