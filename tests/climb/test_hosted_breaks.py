"""A hosted model that breaks in the middle: what is tried again, what is one broken call, what it costs."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rung.climb.climb import Options, climb
from rung.climb.synthesis import SynthOptions, _till
from rung.errors import EngineError
from rung.models.hosted import hosted
from rung.records import Climb
from rung.rungs.api import NAMING_ROWS, Api
from rung.rungs.teacher import drawn, teacher_system
from rung.scoring.prices import listed_price
from rung.task import load_task
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import of, options, write_task
from tests.fixtures_climb import Log, json_rows, label_rows, opened, write_rows
from tests.fixtures_hosted import KEY, MODEL, Hosted, as_asked, beside
from tests.fixtures_http import Said

FILTERED: Said = (400, {"error": {"code": "content_filter", "message": "The prompt was filtered."}}, {})
SILENT = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)


@pytest.fixture
def server():
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def task(tiny, tmp_path, server) -> Path:
    """With 54 dev rows and 54 test rows."""
    return write_task(tmp_path / "task", tiny, server, label_rows(270))


@pytest.fixture
def both(tmp_path, monkeypatch) -> Options:
    """Of the hosted model, beside a rung that asks none."""
    return replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))


@pytest.fixture
def context(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        yield beside(found, server, tmp_path)


def texts(bodies: list[dict]) -> list[str]:
    return [json.dumps(body, sort_keys=True) for body in bodies]


def test_where_credit_runs_out_the_rung_fails_and_the_same_command_asks_the_rest(server, task, both):
    def whole(body: dict) -> Said:
        if len(server.seen) > 9:
            return 402, {"error": {"message": "Insufficient Balance"}}, {}
        return 200, server.completion(body), {}

    server.whole = whole
    first, run = climb(task, both, Log())
    assert of(first).dev is None and "credit or quota is used up" in (of(first).failed or "")
    assert first.decision.chosen == "one"
    answered = set(texts(server.seen[:9]))
    assert len((run / "paid.jsonl").read_text().splitlines()) == 9
    server.whole = None
    server.seen.clear()
    log = Log()
    second, _ = climb(task, both, log)
    assert "api is tried again" in log.text
    assert (of(second).dev.n, of(second).dev.failures) == (54, 0)
    again = texts(server.seen)
    assert not answered & set(again) and len(again) == len(set(again)) == 54 + 54 - 9


@pytest.mark.parametrize("billed", [False, True])
def test_a_first_row_that_is_filtered_is_one_broken_call(billed, context, server):
    first = context.dev[0].input

    def whole(body: dict) -> Said:
        found = server.completion(body)
        if body["messages"][-1]["content"] != first:
            return 200, found, {}
        return (200, found | SILENT, {}) if billed else FILTERED

    server.whole = whole
    made = Api().build(context)
    found = context.measure(made.system, context.dev, "again")
    assert (found.failures, found.score) == (1, 1.0)
    assert made.system.ref.digest.endswith(f":{MODEL}")


@pytest.mark.parametrize(
    ("said", "words", "tries"),
    [(FILTERED, "status 400", 2 * NAMING_ROWS), ((503, {"error": "gone"}, {}), "status 503", 5)],
    ids=["refused", "gone"],
)
def test_a_server_that_answers_none_of_the_first_rows_fails_the_rung(said, words, tries, context, server):
    server.whole = lambda body: said
    with pytest.raises(EngineError, match=words) as raised:
        Api().build(context)
    assert "127.0.0.1" in str(raised.value) and len(server.seen) == tries


def moving(server: Hosted, after: int) -> None:
    """Have the server answer as another model once it has answered so many calls."""
    plain = server.completion
    server.completion = lambda body: plain(body) | {"model": "one" if len(server.seen) <= after else "two"}


def names(result: Climb) -> list[str]:
    """What the hosted models of a climb call themselves."""
    return [digest.rsplit(":")[-1] for _, digest, _ in result.models if digest.startswith("endpoint:")]


def test_a_model_that_moves_after_the_first_call_is_measured_under_its_new_name(server, task, both):
    moving(server, 1)
    first, _ = climb(task, both, Log())
    assert "is answered by 'two' now" in (of(first).failed or "")
    result, _ = climb(task, both, Log())
    assert (of(result).dev.n, of(result).dev.failures, names(result)) == (54, 0, ["two"])
    assert len(server.seen) - len(set(texts(server.seen))) == 1, "what the old one said is asked anew"


def test_where_another_model_answers_now_and_then_nothing_is_paid_again_for_it(server, task, tmp_path):
    plain = server.completion

    def completion(body: dict) -> dict:
        if len(server.seen) != 32:
            return plain(body)
        # The last of those by which the time is foretold: the newest that is known then.
        time.sleep(0.3)
        return plain(body) | {"model": "two"}

    server.completion = completion
    result, _ = climb(task, options(tmp_path / "run"), Log())
    assert (of(result).dev.n, of(result).dev.failures, names(result)) == (53, 1, [MODEL])
    assert len(server.seen) == len(set(texts(server.seen))) == 54 + 54


def test_of_two_models_in_turn_behind_one_name_neither_is_paid_for_at_every_start(server, task, both):
    plain = server.completion
    server.completion = lambda body: plain(body) | {"model": "one" if len(server.seen) % 2 else "two"}
    for _ in range(5):
        climb(task, both, Log())
    dev = 54
    assert len(server.seen) <= 3 * dev + dev, "once for each name at most, and the test"
    count = len(server.seen)
    climb(task, both, Log())
    assert len(server.seen) == count


def test_a_model_that_moves_before_the_test_is_measured_anew_by_the_same_command(server, task, tmp_path):
    moving(server, 54)
    with pytest.raises(EngineError, match="no rung could be scored on the test.*'two' now.*climb again"):
        climb(task, options(tmp_path / "run"), Log())
    assert len(server.seen) == 54 + 54
    result, _ = climb(task, options(tmp_path / "run"), Log())
    assert (of(result).dev.failures, of(result).test.failures, names(result)) == (0, 0, ["two"])
    assert len(server.seen) == 54 + 54 + 54, "what it said of the test rows is known"


def test_a_teacher_system_whose_model_moved_is_not_asked_at_every_start(server, task, tiny, tmp_path):
    _, made = climb(task, options(tmp_path / "made"), Log())
    server.reports = "another"
    free = [{"input": row["input"]} for row in label_rows(80, seed=7)]
    keys = {"teacher": str(made / "winner"), "data": {"train": "rows.jsonl", "unlabelled": "free.jsonl"}}
    other = write_task(tmp_path / "other", tiny, server, label_rows(270, seed=5), **keys)
    write_rows(other / "free.jsonl", free)
    both = replace(options(tmp_path / "run"), rungs=("prompt", "distill"))
    first, _ = climb(other, both, Log())
    assert "is answered by 'another' now" in (of(first, "distill").failed or "")
    log, count = Log(), len(server.seen)
    climb(other, both, log)
    assert "is complete" in log.text and len(server.seen) == count


def test_one_that_moves_among_the_rows_fails_and_is_asked_anew_by_the_same_command(server, task, both):
    moving(server, 40)
    first, _ = climb(task, both, Log())
    assert "is answered by 'two' now and the System was made with 'one'" in (of(first).failed or "")
    assert of(first).dev is None and len(server.seen) == 54
    second, _ = climb(task, both, Log())
    assert (of(second).dev.n, of(second).dev.failures) == (54, 0)
    assert len(server.seen) - len(set(texts(server.seen))) == 40
    log, count = Log(), len(server.seen)
    climb(task, both, log)
    assert "is complete" in log.text and len(server.seen) == count


def test_a_teacher_that_moved_teaches_no_more(context, server):
    teacher = teacher_system(context, server.name)
    assert [one.failure for one in drawn(context, teacher, context.train[:4], 0)] == [None] * 4
    server.reports = "another"
    with pytest.raises(EngineError, match="at 127.0.0.1.* is answered by 'another' now"):
        drawn(context, teacher, context.train[:12], 0)


def test_one_input_that_another_model_answered_is_one_broken_draw(context, server):
    teacher = teacher_system(context, server.name)
    drawn(context, teacher, context.train[:4], 0)
    server.reports = "another"
    *others, last = drawn(context, teacher, context.train[:5], 0)
    assert [one.failure for one in others] == [None] * 4 and "by 'another' now" in (last.failure or "")


def test_thoughts_that_a_server_leaves_before_json_are_no_part_of_it(tiny, tmp_path, server):
    def says(text: str, body: dict) -> str:
        right = as_asked(text, body)
        doubted = json.dumps({**json.loads(right), "first": "another"})
        return f"<think>\n{doubted}?\n</think>\n\n{right}"

    server.says = says
    with opened(tiny, write_rows(tmp_path / "json.jsonl", json_rows(120)), tmp_path) as found:
        context = beside(found, server, tmp_path)
        made = context.measure(Api().build(context).system, context.dev, "again")
    assert (made.score, made.failures) == (1.0, 0)


@pytest.mark.parametrize("taught", [None, "openai:gpt-4o", "runs/gone/winner"])
def test_a_teacher_that_makes_up_inputs_has_the_price_that_a_climb_has_for_it(
    taught, task, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    file = task / "task.yaml"
    free = {"input_usd_per_m": 0.0, "output_usd_per_m": 0.0}
    keys = {"prices": free} | ({} if taught is None else {"teacher": taught})
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    model = hosted("openai:gpt-4o")
    assert model is not None
    till = _till(model, load_task(task), SynthOptions(out=tmp_path / "free.jsonl"))
    assert till.price(model.url, model.model) == listed_price("gpt-4o", "https://api.openai.com/v1")
    assert till.price(model.url, model.model).output_usd_per_m > 1


def test_a_price_for_each_request_is_none_by_the_token():
    assert listed_price("sonar", "https://api.perplexity.ai/chat/completions") is None
    other = listed_price("sonar-pro-search", "https://api.perplexity.ai")
    assert other is not None and other.input_usd_per_m == 3.0
