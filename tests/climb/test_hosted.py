"""Climbs on a hosted model, over HTTP: what is paid, what is kept, what breaks, what is never written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung import load
from rung.climb.billed import with_bill
from rung.climb.climb import Options, climb
from rung.climb.hosted import PAID_FILE, answers_usd
from rung.climb.ordering import before, in_cost_order
from rung.engines.base import EngineSpec
from rung.engines.endpoint import EndpointEngine
from rung.errors import EngineError, ModelError, RungError, TaskError
from rung.hosted import hosted_engine_spec
from rung.models.hosted import hosted
from rung.records import Answer, Climb, RungResult, TokenPrice
from rung.report.html import write_report
from rung.rungs.api import Api, rival_of
from rung.rungs.base import Context
from rung.rungs.rival import rival
from rung.scoring.measure import measurement
from rung.scoring.prices import listed_price
from rung.system import System
from rung.task import load_task
from rung.task.model import Prices
from tests.fixtures_climb import Log, json_rows, label_rows, opened, write_rows
from tests.fixtures_hosted import KEY, MODEL, PRICES, Hosted, as_asked, beside
from tests.fixtures_serve import eventually

ROOT = Path(__file__).parents[2]
ROWS = 270
"""Of which 54 are dev rows and 54 test rows."""


@pytest.fixture(autouse=True, scope="module")
def environment(tmp_path_factory, no_weights):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", KEY)
        patch.setenv("OPENAI_API_KEY", "sk-for-somebody-else")
        patch.setenv("RUNG_CACHE", str(no_weights))
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)
        yield


def write_task(folder: Path, tiny: Path, server: Hosted, rows: list[dict], **keys) -> Path:
    write_rows(folder / "rows.jsonl", rows)
    task = {
        "name": "topics",
        "data": {"train": "rows.jsonl"},
        "models": [str(tiny), server.name],
        "prices": PRICES.model_dump(),
        **keys,
    }
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def options(run: Path, **changes) -> Options:
    return Options(out=run, rungs=("api",), budget_s=600, **changes)


def of(result: Climb, rung: str = "api") -> RungResult:
    return next(r for r in result.results if r.rung == rung)


def paid(run: Path) -> float:
    return sum(json.loads(line)["usd"] for line in (run / PAID_FILE).read_text().splitlines())


def billed(server: Hosted, answered: list[dict]) -> float:
    """What these requests cost, counted from what the server sent and not by the program's arithmetic."""
    usd = 0.0
    for body in answered:
        usage = server.completion(body)["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        usd += (usage["prompt_tokens"] - cached) * 1.0 + cached * 0.1 + usage["completion_tokens"] * 4.0
    return usd / 1e6


@dataclass(frozen=True)
class Done:
    """A climb that went well, and what the server saw of it."""

    folder: Path
    task: Path
    result: Climb
    run: Path
    server: Hosted
    seen: list[dict]
    log: Log


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("done")
    with Hosted(as_asked) as server:
        task, log = write_task(folder / "task", tiny, server, label_rows(ROWS)), Log()
        result, run = climb(task, options(folder / "run"), log)
        yield Done(folder, task, result, run, server, list(server.seen), log)


@pytest.fixture
def server():
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def context(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        yield beside(found, server, tmp_path)


def dev_score(context: Context) -> tuple[float, int]:
    """Build the rung; its score on dev rows and how many calls broke."""
    found = context.measure(Api().build(context).system, context.dev, "again")
    return found.score, found.failures


def test_the_key_is_sent_to_its_host_and_written_to_no_file(done):
    assert of(done.result).dev is not None
    assert set(done.server.keys) == {f"Bearer {KEY}"}
    report = done.run / "report.html"
    write_report(done.result, report)
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    assert any(path.name == "system.json" for path in files)
    assert {report, done.run / PAID_FILE, done.run / "climb.json"} <= set(files)
    assert [str(path) for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in done.log.text


def test_what_was_paid_is_what_the_server_billed_and_no_answer_is_paid_twice(done):
    asked = [json.dumps(body, sort_keys=True) for body in done.seen]
    assert len(asked) == len(set(asked)) == 54 + 54
    usd = billed(done.server, done.seen)
    assert done.result.paid_usd == pytest.approx(usd) and paid(done.run) == pytest.approx(usd)
    assert of(done.result).usd_per_1000 == pytest.approx(
        1000 * billed(done.server, done.seen[:54]) / 54, rel=0.02
    )
    assert of(done.result).price == PRICES.per_token


def test_the_cost_is_foretold_before_the_first_call(done):
    line = next(line for line in done.log.lines if line.startswith("api: about $"))
    assert "$0.0000 of $1 were paid so far" in line
    foretold, spent = float(line.split("$")[1].split()[0]), of(done.result).usd_per_1000 * 54 / 1000
    assert spent / 2 < foretold < spent * 2


def test_a_hosted_winner_is_named_by_what_the_server_reports_and_answers_when_it_is_loaded(done):
    assert done.result.decision.chosen == "api" and of(done.result).test.score == 1.0
    system = System.load(done.run / "winner")
    host = done.server.url.removeprefix("http://").removesuffix("/v1")
    assert system.spec.model.digest == f"endpoint:{host}:{MODEL}"
    assert (system.spec.engine, system.has_probabilities) == ("endpoint", False)
    with load(done.run / "winner") as answer:
        assert answer("my password is locked") == "login"
        done.server.reports = "oracle-2027-06-06"
        with pytest.raises(EngineError, match="by 'oracle-2027-06-06'.*made with 'oracle-2026-01-01'"):
            answer("my password is locked")
        done.server.reports = MODEL


def test_a_finished_climb_asks_nothing_again(done):
    count, log = len(done.server.seen), Log()
    climb(done.task, options(done.run), log)
    assert len(done.server.seen) == count and "is complete" in log.text


def test_the_cap_holds_and_a_higher_one_goes_on_with_what_was_kept(done):
    run, before = done.folder / "tight", len(done.server.seen)
    cap = 0.75 * done.result.paid_usd
    with pytest.raises(EngineError, match=r"on the test: api: .*could pass the cap of .*raise --api-usd"):
        climb(done.task, options(run, api_usd=cap), Log())
    assert 54 < len(done.server.seen) - before < 54 + 54
    assert 0.5 * cap < paid(run) <= cap
    ended, _ = climb(done.task, options(run, api_usd=1.0), Log())
    assert len(done.server.seen) - before == 54 + 54
    assert ended.paid_usd == pytest.approx(done.result.paid_usd) and of(ended).test.score == 1.0


def test_a_killed_climb_pays_again_for_what_was_in_flight_at_most(done, server, tmp_path, tiny):
    task, run = write_task(tmp_path / "task", tiny, server, label_rows(ROWS)), tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server.delay_s = 0.1
    child = subprocess.Popen([sys.executable, "-c", DRIVER, str(task), str(run)], env=environment)
    try:
        eventually(lambda: len(server.seen) >= 25, within_s=120)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    time.sleep(0.3)
    server.delay_s = 0.0
    assert 10 <= len((run / PAID_FILE).read_text().splitlines()) <= len(server.seen)
    result, _ = climb(task, options(run), Log())
    bodies = [json.dumps(body, sort_keys=True) for body in server.seen]
    assert 0 < len(bodies) - len(set(bodies)) <= server.most_in_flight <= 8
    assert len((run / PAID_FILE).read_text().splitlines()) == len(set(bodies))
    assert of(result).dev.n == 54


DRIVER = """
import sys
from pathlib import Path
from rung.climb.climb import Options, climb

class Log:
    def say(self, text): pass
    def begin(self, what, total, done=0): return what
    def advance(self, handle, done, extra=""): pass
    def end(self, handle): pass

climb(Path(sys.argv[1]), Options(out=Path(sys.argv[2]), rungs=("api",), budget_s=600), Log())
"""


def test_a_rung_that_ends_at_the_cap_is_tried_again_under_a_higher_one(context, server):
    till = context.pool.till
    context.pool.till = replace(till, cap_usd=0.001)
    with pytest.raises(EngineError, match=r"could pass the cap of \$0.001; they are kept: raise --api-usd"):
        Api().build(context)
    assert till.path.exists() and 0 < len(server.seen) < len(context.dev)
    context.pool.close()
    context.pool.till = replace(till, cap_usd=1.0)
    assert dev_score(context) == (1.0, 0)
    assert len(server.seen) == len(context.dev)


def test_a_rung_that_would_cost_more_than_the_cap_is_skipped_before_anything_is_asked(context, server):
    context.pool.till = replace(context.pool.till, cap_usd=0.0001)
    assert re.search(r"would cost about \$0\.\d+ more and \$0.0001 of \$0.0001 are left", Api().skip(context))
    assert server.seen == []


def test_how_long_the_rows_take_is_foretold_by_the_first_and_none_is_paid_twice(context, server):
    server.delay_s = 0.5
    with context.paying():
        found = Api().outlook(replace(context, deadline=time.monotonic() + 8))
    server.delay_s = 0.0
    assert 4 <= len(server.seen) <= 8 < len(context.dev), "a fifth of its time is for that"
    assert found.refusal is None and 0 < found.least_s == found.seconds
    assert dev_score(context) == (1.0, 0) and len(server.seen) == len(context.dev)
    (said,) = [line for line in context.reporter.lines if line.startswith("api: about $")]
    assert f"for {len(context.dev)} answers of oracle; $0.0000 of $1 were paid so far" in said


def test_a_server_that_lets_few_calls_pass_is_left_out_and_asked_for_the_rest_with_more_time(
    tmp_path, tiny, server
):
    task = write_task(tmp_path / "task", tiny, server, label_rows(ROWS))
    server.delay_s = 1.0
    run = tmp_path / "run"
    with pytest.raises(RungError, match=r"api: the dev rows alone would take it .*; raise --budget"):
        climb(task, replace(options(run), budget_s=4), Log())
    kept = len((run / PAID_FILE).read_text().splitlines())
    assert 0 < kept < 54
    server.delay_s = 0.0
    result, _ = climb(task, options(run), Log())
    assert of(result).dev.n == of(result).test.n == 54
    assert len((run / PAID_FILE).read_text().splitlines()) == len(server.seen) == 108


def test_a_negative_cap_is_refused(done):
    with pytest.raises(TaskError, match=r"--api-usd -1: give the most"):
        climb(done.task, options(done.folder / "negative", api_usd=-1.0), Log())


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"error": {"message": "slow down"}}, {"retry-after": "0.2"}),
        (500, {"error": {"message": "on fire"}}, {}),
        (200, "<html>busy</html>", {}),
        (200, {"choices": []}, {}),
        (200, 0.05, {}),
    ],
    ids=["429", "500", "html", "no-choices", "connection-dropped"],
)
def test_a_passing_fault_costs_no_row(fault, context, server):
    server.faults = [fault] * 3
    assert dev_score(context) == (1.0, 0)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((401, {"error": {"message": f"bad key {KEY}"}}, {}), "refused the key in RUNG_API_KEY"),
        ((404, {"error": {"message": "no such model"}}, {}), "check the URL and the model's name"),
        ((429, {"error": {"code": "insufficient_quota"}}, {}), "quota is used up"),
    ],
    ids=["401", "404", "quota"],
)
def test_what_no_retry_mends_is_an_error_and_the_next_try_succeeds(fault, said, context, server):
    server.faults = [fault] * 8
    with pytest.raises(EngineError, match=said) as raised:
        Api().build(context)
    assert KEY not in str(raised.value)
    server.faults.clear()
    assert dev_score(context) == (1.0, 0)


def test_a_server_that_dies_breaks_the_rows_left_and_keeps_those_that_were_paid(context, server):
    def says(text: str, body: dict) -> str:
        if len(server.seen) > 15:
            server.faults = [(503, {"error": {"message": "gone"}}, {})] * 1000
        return as_asked(text, body)

    server.says = says
    score, failures = dev_score(context)
    kept = len(context.pool.till.path.read_text().splitlines())
    assert score == 1.0 and failures > 0 and kept == len(context.dev) - failures


def test_a_retry_after_holds_back_every_call(server):
    times: list[float] = []
    server.says = lambda text, body: times.append(time.monotonic()) or as_asked(text, body)
    server.faults = [(429, {}, {"retry-after": "0.5"})]
    spec = EngineSpec(
        engine="endpoint", url=server.url, model="oracle", key_variable="RUNG_API_KEY", parallel=2
    )
    engine, begun = EndpointEngine(spec), time.monotonic()
    server.delay_s = 0.02
    engine.chat_many([[("user", f"parcel {n}")] for n in range(20)], max_tokens=9)
    engine.close()
    # One call was under way beside the one that was told to wait.
    assert len([at for at in times if at - begun < 0.45]) <= 2 and len(times) == 20


def test_answers_under_a_schema_the_server_refuses_are_read_from_plain_text(tmp_path, tiny, server):
    form = {"json_schema": {"schema": {"properties": {"topic": 0}}}}

    def fenced(text: str, body: dict) -> str:
        return f"Here it is:\n```json\n{as_asked(text, {**body, 'response_format': form})}\n```"

    server.faults = [(400, {"error": {"message": "schema not supported"}}, {})]
    server.says = fenced
    with opened(tiny, write_rows(tmp_path / "json.jsonl", json_rows(120)), tmp_path) as found:
        assert dev_score(beside(found, server, tmp_path)) == (1.0, 0)
    assert sum("response_format" in body for body in server.seen) == 1


def test_a_thinking_model_is_given_room_for_its_thoughts_and_pays_for_an_empty_answer_once(context, server):
    unsupported = (400, {"error": {"code": "unsupported_parameter", "param": "max_tokens"}}, {})
    server.faults = [unsupported]
    assert dev_score(context) == (1.0, 0)
    assert server.seen[-1]["max_completion_tokens"] > 4096 and "max_tokens" not in server.seen[-1]
    empty = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
    server.faults = [(200, {**empty, "usage": {"prompt_tokens": 10, "completion_tokens": 900}}, {})]
    engine = context.pool.engine(hosted_engine_spec(rival_of(context.task)))
    before = context.pool.till.spent_usd
    for _ in range(2):
        (found,) = engine.chat_many([[("user", "something new")]], max_tokens=9)
        assert "gave no text" in found.failure
    assert context.pool.till.spent_usd - before == pytest.approx((10 * 1.0 + 900 * 4.0) / 1e6)


def test_calls_that_were_billed_and_brought_nothing_are_in_the_price(context, server):
    lost = [row.input for row in context.dev[1:4]]

    def whole(body):
        found = server.completion(body)
        if body["messages"][-1]["content"] not in lost:
            return 200, found, {}
        empty = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}
        return 200, {**found, **empty, "usage": {"prompt_tokens": 10, "completion_tokens": 900}}, {}

    server.whole = whole
    made = Api().build(context)
    found = context.measure(made.system, context.dev, "again")
    # Those that were under way first were asked for again, with room for thoughts, as all are from then on.
    short = [sent for sent in server.seen if sent["max_tokens"] < 1000]
    again = sum(sent["messages"][-1]["content"] in lost for sent in short)
    paid_usd = context.pool.till.spent_usd - again * (10 * 1.0 + 900 * 4.0) / 1e6
    assert 1 <= again <= 3
    assert found.failures == 3 and paid_usd > 3 * 900 * 4.0 / 1e6
    usd = answers_usd(found, made.price, context.task)
    assert usd * len(context.dev) / 1000 == pytest.approx(paid_usd)
    told = with_bill(made, found, None).notes[-1]
    assert f"the {len(context.dev)} dev rows that it was asked cost ${paid_usd:.4f}, foretold $" in told


def test_one_that_is_stopped_is_billed_and_foretold_for_the_rows_that_it_was_asked(context, server):
    context = replace(context, dev=(*context.dev, *context.train))
    right = [Answer(text=str(row.output), value=row.output) for row in context.dev]
    best = measurement(system="r", split="dev", metric="accuracy", examples=context.dev, answers=right)
    wrong = {row.input: next(name for name in context.labels if name != row.output) for row in context.dev}
    server.says = lambda said, body: json.dumps({"label": wrong[said]})
    ahead = rival("head", best, context.dev, needed=0.02, level=0.05 / 6)
    context = replace(context, rival=ahead)
    made = Api().build(context)
    found = context.measure(made.system, context.dev, "again")
    made = with_bill(made, found, ahead.stopped(context.dev[: found.n], right[: found.n], len(context.dev)))
    (trial,) = made.trials
    assert trial.stopped and trial.chosen and trial.n == found.n < len(context.dev)
    (said,) = [note for note in made.notes if "dev rows that it was asked cost" in note]
    assert f"the {trial.n} dev rows" in said
    spent, foretold = (float(part.split()[0].rstrip(",")) for part in said.split("$")[-2:])
    assert spent == pytest.approx(context.pool.till.spent_usd, abs=1e-4) and foretold < 2 * spent


def test_at_a_small_volume_a_hosted_model_comes_before_what_costs_more_to_build(done):
    api = of(done.result)
    prompt = replace(api, rung="prompt", order=1, price=None, usd_per_1000=api.usd_per_1000 / 1000)
    tune = replace(prompt, rung="sft", order=3, build_s=360_000.0)  # ten dollars: .83 a month
    few, many = (
        load_task(done.task).model_copy(update={"volume": volume})
        for volume in ("100/month", "10000000/month")
    )
    three = [prompt, tune, api]
    assert [r.rung for r in in_cost_order(three, few)] == ["prompt", "api", "sft"]
    assert [r.rung for r in in_cost_order(three, many)] == ["prompt", "sft", "api"]
    assert [r.rung for r in before([prompt, tune], api.usd_per_1000, few)] == ["prompt"]
    assert [r.rung for r in before([prompt, tune], api.usd_per_1000, many)] == ["prompt", "sft"]
    more = replace(tune, rung="preference", order=4, build_s=36.0, upon="sft")
    assert [r.rung for r in in_cost_order([*three, more], few)] == ["prompt", "api", "sft", "preference"]
    on_its_prompt = replace(api, upon="sft")
    assert [r.rung for r in in_cost_order([prompt, tune, on_its_prompt], few)] == ["prompt", "sft", "api"]
    skipped = RungResult(rung="api", order=5, skipped="no key")
    assert [r.rung for r in in_cost_order([prompt, tune, skipped], few)] == ["prompt", "sft", "api"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai:", "names no hosted model"),
        ("anthropic:claude@https://h.example", "names no hosted model"),
        ("openai:x@ftp://h.example/v1", "no http or https URL"),
        (f"openai:x@ftp://me:{KEY}@h.example/v1", "no http or https URL"),
        (f"openai:@https://me:{KEY}@h.example/v1", "names no hosted model"),
        ("openai:@", "names no hosted model"),
        ("openai:@x@", "no http or https URL"),
        (f"openai:x@https://me:{KEY}@h.example/v1", "holds more than a host and a path"),
        (f"openai:x@https://h.example/v1?key={KEY}", "holds more than a host and a path"),
    ],
)
def test_half_a_name_of_a_hosted_model_is_refused_without_showing_a_secret(name, said):
    with pytest.raises(ModelError, match=said) as raised:
        hosted(name)
    assert KEY not in str(raised.value)


def test_the_key_goes_to_a_host_that_the_task_names_and_later_to_one_that_the_variable_names(
    tmp_path, tiny, server, monkeypatch
):
    server.name = server.name.replace("127.0.0.1", "0.0.0.0")  # this machine, and not known as it
    result, run = climb(write_task(tmp_path, tiny, server, label_rows(120)), options(tmp_path / "run"), Log())
    assert of(result).failed is None and set(server.keys) == {f"Bearer {KEY}"}
    with load(run / "rungs" / "api" / "system") as system:
        with pytest.raises(EngineError, match="set RUNG_API_HOST="):
            system("the parcel is late")
        monkeypatch.setenv("RUNG_API_HOST", server.name.partition("@")[2])
        assert system("the parcel is late") == "delivery"


def test_a_providers_key_goes_to_no_other_host():
    assert hosted("openai:gpt-5-mini").key_variable == "OPENAI_API_KEY"
    assert hosted("anthropic:claude-haiku-4-5").url == "https://api.anthropic.com/v1"
    assert hosted("openai:m@https://h.example/v1").key_variable == "RUNG_API_KEY"
    assert hosted("smollm2-135m") is None and hosted("hf:org/name") is None


def test_a_models_own_name_may_begin_with_the_sign_that_parts_it_from_its_url():
    found = hosted("openai:@cf/meta/llama-3.2-1b@https://h.example/v1")
    assert (found.model, found.url) == ("@cf/meta/llama-3.2-1b", "https://h.example/v1")
    assert found.key_variable == "RUNG_API_KEY"
    assert hosted("openai:@cf/meta/llama-3.2-1b").model == "@cf/meta/llama-3.2-1b"


def test_listed_prices_are_those_that_providers_publish_and_unknown_models_have_none():
    found = listed_price("gpt-5-mini", "https://api.openai.com/v1")
    assert found == TokenPrice(input_usd_per_m=0.25, output_usd_per_m=2.0, cached_input_usd_per_m=0.025)
    assert listed_price("claude-haiku-4-5", "https://api.anthropic.com/v1").output_usd_per_m == 5.0
    assert listed_price("oracle", "http://127.0.0.1:8000/v1") is None


def test_what_is_put_into_a_cache_has_the_price_that_providers_publish_for_it():
    later = listed_price("gpt-5.6-sol", "https://api.openai.com/v1")
    assert later.cache_write_usd_per_m == pytest.approx(1.25 * later.input_usd_per_m)
    claude = listed_price("claude-haiku-4-5", "https://api.anthropic.com/v1")
    assert claude.cache_write_usd_per_m == pytest.approx(1.25 * claude.input_usd_per_m)
    assert Prices(input_usd_per_m=2.0, output_usd_per_m=8.0).per_token == TokenPrice(
        input_usd_per_m=2.0, output_usd_per_m=8.0, cached_input_usd_per_m=2.0, cache_write_usd_per_m=2.5
    )
