"""What hosted models are paid: what can't be priced isn't bought twice, and what may have cost counts."""

import json
import math
from contextlib import closing
from dataclasses import replace

import pytest

from rung.engines.endpoint import REASONING_TOKENS, EndpointEngine
from rung.engines.till import Till
from rung.errors import EngineError, RunError
from rung.hosted import hosted_engine_spec
from rung.models.hosted import hosted
from rung.records import TokenPrice
from rung.rungs.api import prices
from rung.task import Task
from rung.task.model import DataFiles, Limits, Prices
from tests.fixtures_hosted import MODEL, Hosted
from tests.fixtures_http import Said

PRICE = TokenPrice(input_usd_per_m=1.0, output_usd_per_m=4.0, cached_input_usd_per_m=0.1)


@pytest.fixture
def server():
    with Hosted(lambda text, body: "yes") as found:
        yield found


def till_of(server: Hosted, path, cap_usd: float = 1.0) -> Till:
    model = hosted(server.name)
    assert model is not None
    return Till(path / "paid.jsonl", cap_usd, {(model.url, model.model): PRICE})


def ask(server: Hosted, till: Till, text: str = "Is it?"):
    model = hosted(server.name)
    assert model is not None
    with closing(EndpointEngine(hosted_engine_spec(model), till=till, backoff_s=0.001)) as engine:
        return engine.chat([("user", text)], max_tokens=8)


def test_an_answer_is_paid_once_and_known_after_a_restart(server, tmp_path):
    till = till_of(server, tmp_path)
    first = ask(server, till)
    again = till_of(server, tmp_path)
    assert again.spent_usd == till.spent_usd > 0
    assert ask(server, again).text == first.text == "yes"
    assert len(server.seen) == 1


def test_what_a_server_puts_into_its_cache_is_paid_and_put_aside_at_its_own_price(server, tmp_path):
    usage = {
        "prompt_tokens": 2000,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1500},
    }
    plain = server.completion
    server.completion = lambda body: plain(body) | {"usage": usage}
    till, model = till_of(server, tmp_path), hosted(server.name)
    assert model is not None
    price = replace(PRICE, cache_write_usd_per_m=1.25)
    till.prices = {(model.url, model.model): price}
    ask(server, till)
    assert till.spent_usd == pytest.approx((500 * 1.0 + 1500 * 1.25 + 10 * 4.0) / 1e6)
    (known,) = till_of(server, tmp_path)._known.values()
    assert known.written_tokens == 1500
    with till.reserved(price, 3000, 0) as most, till.reserved(PRICE, 3000, 0) as usual:
        assert most == pytest.approx(1.25 * usual)


def test_a_server_that_says_no_token_counts_is_told_so_and_its_answer_counts_as_the_most(server, tmp_path):
    plain = server.completion
    server.completion = lambda body: {k: v for k, v in plain(body).items() if k != "usage"}
    till = till_of(server, tmp_path)
    with pytest.raises(EngineError, match="doesn't say how many tokens it bills"):
        ask(server, till)
    assert till.spent_usd > 0 and till.answers == 0
    assert till_of(server, tmp_path).spent_usd == till.spent_usd


def test_an_answer_that_is_no_chat_completion_may_have_cost_and_the_cap_holds_for_its_tries(server, tmp_path):
    server.faults = [(200, {"odd": "reply"}, {})] * 9
    till = till_of(server, tmp_path, cap_usd=0.0001)
    with pytest.raises(EngineError, match="may have cost .* the cap of"):
        ask(server, till)
    assert 0 < till.spent_usd <= till.cap_usd
    assert 1 <= len(server.seen) < 5


def test_calls_that_break_side_by_side_are_tried_again_only_where_the_cap_holds_all_of_them(server, tmp_path):
    till = till_of(server, tmp_path, cap_usd=3.5e-6)
    costs = TokenPrice(input_usd_per_m=0.0, output_usd_per_m=1.0, cached_input_usd_per_m=0.0)
    with till.reserved(costs, 0, 1) as first, till.reserved(costs, 0, 1) as second:
        assert till.lose("oracle", first), "one lost and two put aside"
        assert not till.lose("oracle", second), "two lost and two put aside"
    assert till.lose("oracle", first), "three lost and none put aside"


def test_a_connection_that_breaks_once_the_request_is_out_may_have_cost_and_the_cap_holds(server, tmp_path):
    server.whole = lambda body: (200, 0.0, {})
    model = hosted(server.name)
    assert model is not None
    probe = till_of(server, tmp_path / "probe")
    with closing(EndpointEngine(hosted_engine_spec(model), till=probe, attempts=1)) as engine:
        assert "the connection broke" in str(engine.chat([("user", "Is it?")], max_tokens=8).failure)
    assert probe.spent_usd > 0 and probe.answers == 0
    server.seen.clear()
    till = till_of(server, tmp_path, cap_usd=1.5 * probe.spent_usd)
    with pytest.raises(EngineError, match="may have cost .* the cap of"):
        ask(server, till)
    assert len(server.seen) == 1 and till.spent_usd == probe.spent_usd


def test_a_server_that_is_not_there_costs_nothing(server, tmp_path):
    till = till_of(server, tmp_path)
    server.__exit__(None, None, None)
    model = hosted(server.name)
    assert model is not None
    with closing(EndpointEngine(hosted_engine_spec(model), till=till, backoff_s=0.001)) as engine:
        assert "ConnectError" in str(engine.chat([("user", "Is it?")], max_tokens=8).failure)
    assert till.spent_usd == 0 and not till.path.exists()


def test_a_damaged_line_is_named_and_the_others_are_to_stay(server, tmp_path):
    till = till_of(server, tmp_path)
    for text in ("Is it?", "Was it?", "Will it?"):
        ask(server, till, text)
    first, second, third = till.path.read_text().splitlines(keepends=True)
    till.path.write_text(first + second[:9] + "\n" + third)
    with pytest.raises(RunError, match=r"paid\.jsonl.*line 2: .*mend that line or take it out") as raised:
        till_of(server, tmp_path)
    assert "remove" not in str(raised.value)
    till.path.write_text(first + third)
    left = till_of(server, tmp_path)
    assert left.answers == 2 and left.spent_usd == sum(json.loads(line)["usd"] for line in (first, third))


def damaged(server: Hosted, path, **changes) -> Till:
    """The till again, the second of whose three lines has other values; None takes one out."""
    till = till_of(server, path)
    for text in ("Is it?", "Was it?", "Will it?"):
        ask(server, till, text)
    lines = [json.loads(line) for line in till.path.read_text().splitlines()]
    lines[1] = {key: value for key, value in (lines[1] | changes).items() if value is not None}
    till.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return till_of(server, path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"usd": None}, "usd: Field required"),
        ({"usd": "much"}, "usd: "),
        ({"usd": -0.5}, "usd: "),
        ({"usd": math.nan}, "usd: "),
        ({"answer": {"text": "yes"}}, r"answer\.prompt_tokens: Field required"),
    ],
)
def test_a_line_whose_money_or_answer_cannot_be_read_is_named_and_never_counted_as_nothing(
    server, tmp_path, changes, why
):
    with pytest.raises(RunError, match=rf"paid\.jsonl.*line 2: {why}.*mend that line or take it out"):
        damaged(server, tmp_path, **changes)


@pytest.mark.parametrize("lost", ["model", "asked"])
def test_a_line_that_lacks_what_is_not_needed_counts_as_before(server, tmp_path, lost):
    left = damaged(server, tmp_path, **{lost: None})
    usd = [json.loads(line)["usd"] for line in left.path.read_text().splitlines()]
    assert left.spent_usd == pytest.approx(sum(usd)) and min(usd) > 0
    assert left.answers == (2 if lost == "asked" else 3)


def lost_usd(server: Hosted, path, said: Said) -> float:
    """What one call is put down as that the server answers so, with the price of the answer taken off."""
    plain, till = till_of(server, path / "plain"), till_of(server, path / "lost")
    ask(server, plain)
    server.faults = [said]
    assert ask(server, till).text == "yes"
    return till.spent_usd - plain.spent_usd


@pytest.mark.parametrize("status", [502, 504, 520, 524])
def test_a_gateway_without_an_answer_from_behind_it_may_have_cost_and_the_cap_holds(server, tmp_path, status):
    usd = lost_usd(server, tmp_path, (status, "<html>no answer</html>", {}))
    assert usd > 0
    server.seen.clear()
    server.faults = [(status, "<html>no answer</html>", {})] * 9
    till = till_of(server, tmp_path, cap_usd=1.5 * usd)
    with pytest.raises(EngineError, match="may have cost .* the cap of"):
        ask(server, till)
    assert len(server.seen) == 1 and till.spent_usd == pytest.approx(usd) and till.answers == 0


def test_an_answer_with_half_a_character_is_kept_and_paid_for_once(server, tmp_path):
    server.says = lambda text, body: "yes \ud800"
    till = till_of(server, tmp_path)
    assert ask(server, till).text == "yes ?"
    again = till_of(server, tmp_path)
    assert ask(server, again).text == "yes ?" and len(server.seen) == 1
    assert again.spent_usd == pytest.approx(till.spent_usd) and till.spent_usd > 0


@pytest.mark.parametrize("status", [408, 429, 500, 503, 521, 522, 523, 529])
def test_a_server_that_says_it_did_not_answer_costs_nothing(server, tmp_path, status):
    assert lost_usd(server, tmp_path, (status, "busy", {})) == 0


def test_eight_calls_that_time_out_at_once_are_sent_no_more_often_than_the_cap_holds(server, tmp_path):
    server.whole = lambda body: (200, 0.6, {})
    probe = till_of(server, tmp_path / "probe")
    model = hosted(server.name)
    assert model is not None
    spec = hosted_engine_spec(model)
    with closing(
        EndpointEngine(spec, till=probe, backoff_s=0.001, request_limit_s=0.2, attempts=1)
    ) as engine:
        assert engine.chat([("user", "Is it?")], max_tokens=8).failure
    server.seen.clear()
    till = till_of(server, tmp_path, cap_usd=17.5 * probe.spent_usd)
    with closing(EndpointEngine(spec, till=till, backoff_s=0.001, request_limit_s=0.2)) as engine:
        with pytest.raises(EngineError, match="may have cost .* the cap of"):
            engine.chat_many([[("user", "Is it?")]] * 8, max_tokens=8)
    assert 8 < len(server.seen) <= 17 and till.spent_usd <= till.cap_usd


@pytest.mark.parametrize("key", ["\u201csk-secret\u201d", "sk-\u00e4secret", "sk-\nsecret"])
def test_a_key_that_no_request_can_carry_is_told_before_the_first_and_costs_nothing(
    server, tmp_path, monkeypatch, key
):
    monkeypatch.setenv("RUNG_API_KEY", key)
    till = till_of(server, tmp_path)
    with pytest.raises(EngineError, match="RUNG_API_KEY holds characters that no key has") as raised:
        ask(server, till)
    assert "secret" not in str(raised.value)
    assert not server.seen and till.spent_usd == 0 and not till.path.exists()


def test_a_key_is_sent_without_the_blanks_around_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", " sk-secret\n")
    assert ask(server, till_of(server, tmp_path)).text == "yes"
    assert server.keys == ["Bearer sk-secret"]


def test_thoughts_that_are_to_come_are_under_the_cap_before_they_are_asked_for(server, tmp_path):
    """A model that thinks refuses `max_tokens`; under the other name it may write, and bill, far more."""

    def thinks(body: dict) -> Said:
        if "max_tokens" in body:
            return 400, {"error": {"code": "unsupported_parameter", "param": "max_tokens"}}, {}
        return 200, server.completion(body), {}

    server.whole = thinks
    short_usd, long_usd = (PRICE.output_usd_per_m * tokens / 1e6 for tokens in (8, REASONING_TOKENS))
    with pytest.raises(EngineError, match="one more could pass the cap"):
        ask(server, till_of(server, tmp_path, cap_usd=long_usd))
    assert ["max_tokens" in sent for sent in server.seen] == [True], "nothing was billed"
    till = till_of(server, tmp_path, cap_usd=3 * long_usd)
    model = hosted(server.name)
    assert model is not None
    with closing(EndpointEngine(hosted_engine_spec(model), till=till, backoff_s=0.001)) as engine:
        found = engine.chat_many([[("user", f"Is it {i}?")] for i in range(2)], max_tokens=8)
    assert [answer.text for answer in found] == ["yes", "yes"] and short_usd < till.spent_usd < long_usd
    assert ask(server, till, "Is it 0?").text == "yes" and till.answers == 2, "known under either name"


def cut_in_thought(server: Hosted) -> None:
    """Have the server bill an empty answer to whom it isn't given room to think in."""
    empty = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}

    def whole(body: dict) -> Said:
        return 200, server.completion(body) | (empty if body["max_tokens"] < REASONING_TOKENS else {}), {}

    server.whole = whole


def test_a_try_without_room_for_thoughts_is_paid_and_known_by_no_name(server, tmp_path):
    cut_in_thought(server)
    till = till_of(server, tmp_path)
    assert ask(server, till).text == "yes"
    assert [sent["max_tokens"] for sent in server.seen] == [8, 8 + REASONING_TOKENS]
    first, second = [json.loads(line) for line in till.path.read_text().splitlines()]
    assert first["usd"] == second["usd"] > 0 and (first["asked"], till.answers) == ("", 1)
    again = till_of(server, tmp_path)
    assert again.spent_usd == till.spent_usd == pytest.approx(2 * first["usd"])
    assert ask(server, again).text == "yes" and len(server.seen) == 2


def test_room_for_thoughts_is_under_the_cap_before_it_is_given(server, tmp_path):
    cut_in_thought(server)
    till = till_of(server, tmp_path, cap_usd=PRICE.output_usd_per_m * REASONING_TOKENS / 1e6)
    with pytest.raises(EngineError, match="one more could pass the cap"):
        ask(server, till)
    assert [sent["max_tokens"] for sent in server.seen] == [8]
    assert 0 < till.spent_usd == till_of(server, tmp_path).spent_usd


def test_the_till_knows_what_a_model_called_itself_last_and_old_lines_stay_readable(server, tmp_path):
    till, model = till_of(server, tmp_path), hosted(server.name)
    assert model is not None
    ask(server, till)
    server.reports = "oracle-2027"
    ask(server, till, "Was it?")
    for found in (till, till_of(server, tmp_path)):
        assert found.name_of(model.url, model.model) == "oracle-2027"
        assert found.name_of("http://elsewhere.example/v1", model.model) == ""
    lines = [json.loads(line) for line in till.path.read_text().splitlines()]
    bare = [{key: value for key, value in line.items() if key != "url"} for line in lines]
    till.path.write_text("".join(json.dumps(line) + "\n" for line in bare))
    earlier = till_of(server, tmp_path)
    assert (earlier.answers, earlier.spent_usd) == (2, till.spent_usd)
    assert earlier.name_of(model.url, model.model) == "" and ask(server, earlier).reported == MODEL
    assert len(server.seen) == 2


def test_an_answer_of_another_model_than_the_wanted_is_bought_anew_once(server, tmp_path):
    ask(server, till_of(server, tmp_path))
    server.reports = "oracle-2027"
    till, model = till_of(server, tmp_path), hosted(server.name)
    assert model is not None
    turns = [[("user", "Is it?")]]
    with closing(EndpointEngine(hosted_engine_spec(model), till=till, backoff_s=0.001)) as engine:
        for name in ("", MODEL):
            assert engine.chat_many(turns, max_tokens=8, of=name)[0].reported == MODEL
        assert len(server.seen) == 1, "known"
        for _ in range(3):
            assert engine.chat_many(turns, max_tokens=8, of="oracle-2027")[0].reported == "oracle-2027"
        assert len(server.seen) == 2
        for _ in range(3):
            assert engine.chat_many(turns, max_tokens=8, of="oracle-2028")[0].reported == "oracle-2027"
        assert len(server.seen) == 3, "nor is one asked for again and again that isn't to be had"
    later = till_of(server, tmp_path)
    with closing(EndpointEngine(hosted_engine_spec(model), till=later, backoff_s=0.001)) as engine:
        for wanted, said in (("oracle-2028", "oracle-2027"), (MODEL, MODEL), ("oracle-2027",) * 2):
            assert engine.chat_many(turns, max_tokens=8, of=wanted)[0].reported == said
    assert len(server.seen) == 3, "nor by a later run, and what the one before said is known still"


def test_a_failure_that_was_paid_for_is_tried_again_by_the_next_run(server, tmp_path):
    plain = server.completion
    server.completion = lambda body: {
        **plain(body),
        "choices": [{"message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"}],
    }
    broken = ask(server, till_of(server, tmp_path))
    assert broken.failure
    server.completion = plain
    assert ask(server, till_of(server, tmp_path)).text == "yes"


def test_of_several_hosted_models_the_given_price_is_for_those_that_no_list_knows():
    own = "openai:my-own@http://127.0.0.1:9/v1"
    given = Prices(input_usd_per_m=0.01, output_usd_per_m=0.02)
    task = Task(
        data=DataFiles.model_validate({"train": "rows.jsonl"}, context={"folder": "."}),
        models=("smollm2-135m", "openai:gpt-4o"),
        teacher=own,
        prices=given,
        limits=Limits(),
    )
    both = [hosted("openai:gpt-4o"), hosted(own)]
    found = prices(task, [one for one in both if one is not None])
    listed = found["https://api.openai.com/v1", "gpt-4o"]
    assert listed.input_usd_per_m > 100 * given.input_usd_per_m
    assert found["http://127.0.0.1:9/v1", "my-own"] == given.per_token
    (alone,) = [one for one in both[:1] if one is not None]
    assert prices(task, [alone])["https://api.openai.com/v1", "gpt-4o"] == given.per_token
