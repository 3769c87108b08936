"""Several hosted models in one climb: each is a candidate of its own, and more or fewer of them later."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rung.checks.rows import prepare
from rung.climb import beside
from rung.climb.again import rows_again
from rung.climb.below import task_of
from rung.climb.climb import Options, climb
from rung.climb.hosted import PAID_FILE
from rung.climb.options import config_of
from rung.climb.ordering import in_cost_order
from rung.climb.rebudget import name_of
from rung.climb.rivals import RIVALS, named_rivals
from rung.climb.steps import steps_of
from rung.climb.stored import load_climb
from rung.compare.sides import side
from rung.errors import RunError, TaskError
from rung.records import RungResult
from rung.report.html import report_html
from rung.report.plain import in_plain_words
from rung.report.summary import rows
from rung.report.volume import volume_svg, volumes
from rung.rungs import LADDER
from rung.rungs.api import Api
from rung.runs import read_json
from rung.system import System
from rung.task import DataFiles, Task, load_task
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import of, options, paid
from tests.climb.test_models import model
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.fixtures_hosted import KEY, PRICES
from tests.fixtures_rivals import CHEAP, DEAR, DEV_ROWS, each, written
from tests.report.climb_fixture import measurement


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)


@dataclass
class Counted(Always):
    """A local rung that counts how often it is built."""

    name: str = "one"
    built: list[str] = field(default_factory=list)

    def build(self, context):
        self.built.append(context.folder.name)
        return super().build(context)


def test_two_rivals_are_asked_the_same_rows_and_each_is_billed_at_its_own_price(
    good, poor, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Api())
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)
    both = replace(options(tmp_path / "run"), rungs=names)
    result, run = climb(task, both, Log())
    assert [r.rung for r in result.results] == ["one", good.candidate, poor.candidate]
    better, worse = of(result, good.candidate), of(result, poor.candidate)
    assert (better.dev.n, better.dev.score, better.dev.failures) == (DEV_ROWS, 1.0, 0)
    assert worse.dev.n == DEV_ROWS and 0.5 < worse.dev.score < 0.9
    assert better.usd_per_1000 == pytest.approx(10 * worse.usd_per_1000, rel=0.1)
    assert better.price.input_usd_per_m == 1.0 and worse.price.input_usd_per_m == 0.1
    lines = [json.loads(line) for line in (run / PAID_FILE).read_text().splitlines()]
    assert {line["model"] for line in lines if line.get("rung") == good.candidate} == {"good"}
    assert {line["model"] for line in lines if line.get("rung") == poor.candidate} == {"poor"}
    assert result.paid_usd == pytest.approx(paid(run)), "one cap is for both"
    for rival in (good, poor):
        system = System.load(run / "rungs" / rival.candidate / "system")
        assert system.spec.model.source == rival.given and system.spec.rung == "api"
    ordered = [r.rung for r in in_cost_order(result.results, load_task(task))]
    assert ordered == ["one", poor.candidate, good.candidate]
    pairs = {(c.cheaper, c.dearer) for c in result.dev_decision.comparisons}
    assert {("one", poor.candidate), ("one", good.candidate)} <= pairs
    assert result.decision.chosen == good.candidate and of(result, good.candidate).test.score == 1.0
    assert good.asked == 2 * DEV_ROWS and poor.asked == DEV_ROWS, "the verdict needs no other test score"
    log = Log()
    assert climb(task, both, log)[0] == result and "is complete" in log.text
    assert side(f"{run}:{poor.candidate}").system.digest == worse.system
    assert rows_again(run).task.models == load_task(task).models


def test_the_report_has_each_rival_with_its_name_its_line_and_its_break_even(
    good, poor, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Always("two", label="login"), Api())
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)
    result, run = climb(task, replace(options(tmp_path / "run"), rungs=names), Log())
    models = [good.candidate.removeprefix("api@"), poor.candidate.removeprefix("api@")]
    assert [row.model for row in rows(result)] == ["tiny", "tiny", *models]
    assert in_plain_words(result).startswith(f"A hosted model ({good.candidate}) is right on 100 of 100 test")
    assert [(one.rung, one.hosted) for one in volumes(result)] == [
        (rung, rival.candidate) for rival in (good, poor) for rung in ("one", "two")
    ]
    page, svg = report_html(result, run), volume_svg(result, 560)
    assert f"costs less than {good.candidate} or {poor.candidate}, building" in page
    assert page.count(f'<td class="l">{poor.candidate}</td>') == 2
    assert '<th scope="col" class="l">against' in page
    assert svg.count('stroke="var(--accent') == 2, "a line for each"
    named = svg.partition("</desc>")[2]
    assert good.candidate in named and poor.candidate in named


def test_a_rival_that_is_named_later_adds_a_step_and_builds_no_other_again(
    good, poor, third, tiny, tmp_path, monkeypatch
):
    one = Counted()
    names = with_ladder(monkeypatch, one, Api())
    asked = replace(options(tmp_path / "run"), rungs=names)
    alone, run = climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    assert [r.rung for r in alone.results] == ["one", "api"] and good.asked == 2 * DEV_ROWS
    priced = each((good, DEAR), (poor, CHEAP))
    task, log = written(tmp_path / "task", tiny, priced, good, poor), Log()
    two, _ = climb(task, asked, log)
    said = f"{run} was begun beside other hosted models and goes on beside {good.given}, {poor.given}"
    assert said in log.text
    assert [r.rung for r in two.results] == ["one", good.candidate, poor.candidate]
    assert one.built == ["one"] and good.asked == 2 * DEV_ROWS and poor.asked == DEV_ROWS
    before, after = of(alone), of(two, good.candidate)
    assert (after.dev, after.system, after.test.score) == (before.dev, before.system, 1.0)
    assert (after.build_s, after.took_s) == (before.build_s, before.took_s), "it isn't built anew"
    assert after.folder == f"rungs/{good.candidate}/system" and two.openings == 1
    priced |= each((third, CHEAP))
    task = written(tmp_path / "task", tiny, priced, good, poor, third)
    three, _ = climb(task, asked, Log())
    assert [r.rung for r in three.results] == ["one", *(r.candidate for r in (good, poor, third))]
    assert of(three, poor.candidate).dev == of(two, poor.candidate).dev and third.asked == DEV_ROWS
    assert one.built == ["one"] and good.asked == 2 * DEV_ROWS and poor.asked == DEV_ROWS
    log = Log()
    assert climb(task, asked, log)[0] == three and "is complete" in log.text


def test_a_rival_that_is_named_no_more_leaves_the_verdict_and_comes_back_without_being_asked(
    good, poor, tiny, tmp_path, monkeypatch
):
    one = Counted()
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, one, Api()))
    priced = each((good, DEAR), (poor, CHEAP))
    two, _ = climb(written(tmp_path / "task", tiny, priced, good, poor), asked, Log())
    alone, _ = climb(written(tmp_path / "task", tiny, each((good, DEAR)), good), asked, Log())
    assert [r.rung for r in alone.results] == ["one", "api"] and alone.decision.chosen == "api"
    assert of(alone).dev == of(two, good.candidate).dev
    again, _ = climb(written(tmp_path / "task", tiny, priced, good, poor), asked, Log())
    assert again.decision == two.decision and len(again.results) == 3
    assert one.built == ["one"] and (good.asked, poor.asked) == (2 * DEV_ROWS, DEV_ROWS)


def test_another_model_that_is_called_the_same_has_no_result_of_the_one_before(
    good, poor, tiny, tmp_path, monkeypatch
):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    climb(written(tmp_path / "task", tiny, DEAR, good, poor), asked, Log())
    other, poor.server.reports = replace(poor, path="/beta/v1"), "poor-2027"
    result, run = climb(written(tmp_path / "task", tiny, DEAR, good, other), asked, Log())
    assert other.given != poor.given and of(result, poor.candidate).what.startswith(f"{other.given}, ")
    system = System.load(run / "rungs" / poor.candidate / "system")
    assert system.spec.model.source == other.given and poor.asked >= 2 * DEV_ROWS


@pytest.mark.parametrize(("budget_s", "so_far"), [(600, "."), (900, "earlier/10m00s")])
def test_a_start_that_is_killed_while_a_rival_is_added_is_made_good_by_the_next(
    budget_s, so_far, good, poor, tiny, tmp_path, monkeypatch
):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Counted(), Api()))
    alone, run = climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)

    def killed(path, value):
        raise KeyboardInterrupt

    more = replace(asked, budget_s=budget_s)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(beside, "write_json", killed)
        climb(task, more, Log())
    assert RIVALS not in read_json(run / "run.json")
    kept = side(f"{run / so_far}:api")
    assert kept.system.digest == of(alone).system, "the climb so far can be used still"
    two, _ = climb(task, more, Log())
    assert of(two, good.candidate).dev == of(alone).dev and of(two, poor.candidate).dev.n == DEV_ROWS
    assert good.asked == 2 * DEV_ROWS


def test_with_a_longer_budget_and_another_rival_the_climb_so_far_is_put_aside_as_it_was(
    good, poor, tiny, tmp_path, monkeypatch
):
    one = Counted()
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, one, Api()))
    alone, run = climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)
    two, _ = climb(task, replace(asked, budget_s=900), Log())
    assert [r.rung for r in two.results] == ["one", good.candidate, poor.candidate]
    assert one.built == ["one", "one"] and good.asked == 2 * DEV_ROWS
    kept = run / "earlier" / "10m00s"
    assert load_climb(kept) == alone and side(f"{kept}:api").system.digest == of(alone).system
    assert RIVALS not in read_json(kept / "run.json") and read_json(run / "run.json")["budget_s"] == 900
    log = Log()
    assert climb(task, replace(asked, budget_s=900), log)[0] == two and "is complete" in log.text
    shorter = replace(asked, budget_s=300)
    assert climb(written(tmp_path / "task", tiny, DEAR, good), shorter, Log())[0].decision.chosen == "api"
    assert read_json(run / "run.json")["budget_s"] == 900, "a finished climb keeps its budget"


def test_another_price_is_reckoned_with_and_no_answer_is_paid_again(good, poor, tiny, tmp_path, monkeypatch):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    first, run = climb(
        written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor), asked, Log()
    )
    spent = paid(run)
    second, _ = climb(
        written(tmp_path / "task", tiny, each((good, DEAR), (poor, DEAR)), good, poor), asked, Log()
    )
    before, after = of(first, poor.candidate), of(second, poor.candidate)
    assert after.usd_per_1000 == pytest.approx(10 * before.usd_per_1000)
    assert after.dev.score == before.dev.score and paid(run) == spent
    assert (good.asked, poor.asked) == (2 * DEV_ROWS, DEV_ROWS)


def test_one_of_two_without_a_price_is_skipped_for_that_and_asked_once_it_has_one(
    good, poor, tiny, tmp_path, monkeypatch
):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    result, _ = climb(written(tmp_path / "task", tiny, each((good, DEAR)), good, poor), asked, Log())
    skipped = of(result, poor.candidate).skipped
    assert f"the price of {poor.given} isn't known" in skipped
    assert f'prices: {{"{poor.given}": {{input_usd_per_m: …' in skipped
    assert result.decision.chosen == good.candidate and poor.asked == 0
    assert len(volumes(result)) == 1 and [row.model for row in rows(result)][2] in poor.candidate
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)
    result, _ = climb(task, asked, Log())
    assert of(result, poor.candidate).dev.n == DEV_ROWS and good.asked == 2 * DEV_ROWS


def test_one_of_two_that_is_down_fails_alone_and_is_tried_again(good, poor, tiny, tmp_path, monkeypatch):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), poor, good)
    poor.server.faults = [(503, {"error": {"message": "down"}}, {})] * 200
    result, run = climb(task, asked, Log())
    assert "503" in (of(result, poor.candidate).failed or "")
    assert result.decision.chosen == good.candidate
    poor.server.faults.clear()
    count, log = good.asked, Log()
    result, _ = climb(task, asked, log)
    assert f"going on with {run}: {poor.candidate} is tried again" in log.text
    assert of(result, poor.candidate).dev.n == DEV_ROWS and good.asked == count


def test_a_rival_that_does_not_fit_what_the_others_left_of_the_cap_is_skipped(
    good, poor, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Always("one"), Api())
    beyond = {name: 1000 * usd for name, usd in DEAR.items()}
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, beyond)), good, poor)
    result, run = climb(task, replace(options(tmp_path / "run"), rungs=names), Log())
    assert of(result, good.candidate).dev.n == DEV_ROWS and 0 < paid(run) < 1
    said = f"{poor.given} would cost about $"
    assert (of(result, poor.candidate).skipped or "").startswith(said) and poor.asked == 0
    assert "of $1 are left to pay; raise --api-usd" in of(result, poor.candidate).skipped


def task_with(*models: str, **keys) -> Task:
    return Task(data=DataFiles(train=Path("rows.jsonl").absolute()), models=("smollm2-135m", *models), **keys)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ((), []),
        (("openai:gpt-5-mini",), ["api"]),
        (("openai:gpt-5-mini", "anthropic:claude-haiku-4-5"), ["api@gpt-5-mini", "api@claude-haiku-4-5"]),
        (
            ("openai:a/B@https://openrouter.ai/api/v1", "openai:b@http://localhost:8001/v1"),
            ["api@a-b@openrouter.ai", "api@b@localhost-8001"],
        ),
    ],
)
def test_a_rival_is_called_by_its_model_and_where_it_is_asked_where_there_are_several(models, names):
    assert list(named_rivals(task_with(*models))) == names


def test_two_rivals_that_would_be_called_the_same_are_told_apart_by_a_digest():
    models = ("openai:a@https://h/one/v1", "openai:a@https://h/two/v1", "openai:gpt-5-mini")
    first, second, plain = named_rivals(task_with(*models))
    assert first != second and plain == "api@gpt-5-mini"
    assert all(name.startswith("api@a-") and len(name) == len("api@a-123456") for name in (first, second))
    backwards = list(named_rivals(task_with(*reversed(models))))
    assert backwards == [plain, second, first]
    (long, _) = named_rivals(task_with(f"openai:{'x' * 300}", "openai:gpt-5-mini"))
    assert len(long) < 80


def test_one_hosted_model_named_twice_is_refused():
    same = task_with("openai:a@http://h:1/v1", "openai:a@http://h:1/v1/")
    with pytest.raises(
        TaskError, match="'openai:a@http://h:1/v1' and 'openai:a@http://h:1/v1/' are the same"
    ):
        named_rivals(same)


def test_each_step_of_a_rival_has_a_task_that_names_that_one_alone():
    task = task_with("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")
    steps = steps_of(list(enumerate(LADDER)), [model("a", 1), model("b", 2)], task)
    assert [s.order for s in steps] == sorted({s.order for s in steps})
    rivals = [s for s in steps if s.rung.name == "api"]
    assert [(s.name, s.rival, s.model) for s in rivals] == [
        ("api@gpt-5-mini", "openai:gpt-5-mini", None),
        ("api@claude-haiku-4-5", "anthropic:claude-haiku-4-5", None),
    ]
    assert [task_of(task, s).models for s in rivals] == [("a", s.rival) for s in rivals]
    alone = steps_of(list(enumerate(LADDER)), [model("a", 1)], task_with("openai:gpt-5-mini"))
    assert [(s.name, s.order) for s in alone] == [(rung.name, at) for at, rung in enumerate(LADDER)]


def settings(folder: Path, models: list[str], prices: dict | None, **keys) -> dict:
    if not (folder / "rows.jsonl").exists():
        write_rows(folder / "rows.jsonl", label_rows(60))
    task = {"data": {"train": "rows.jsonl"}, "models": models, "prices": prices, **keys}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return config_of(prepare(folder, Options()), [], Options())


def test_a_run_goes_by_the_first_rival_at_its_price_and_by_no_other(tmp_path):
    x, y = "openai:x@http://h:1/v1", "openai:y@http://h:2/v1"
    plain = settings(tmp_path, ["m", x], DEAR)
    assert RIVALS not in plain and plain["task"]["models"] == ["m", x] and plain["task"]["prices"] == DEAR
    assert settings(tmp_path, ["m", x], {x: DEAR}) == plain
    for prices in (DEAR, {x: DEAR, y: CHEAP}):
        found = settings(tmp_path, ["m", x, y], prices)
        assert found[RIVALS] == {"models": [y], "prices": prices}
        assert {k: v for k, v in found.items() if k != RIVALS} == plain and name_of(found) == name_of(plain)
    others = [
        settings(tmp_path, ["m", y, x], {x: DEAR, y: CHEAP}),
        settings(tmp_path, ["m", x, y], {x: CHEAP, y: CHEAP}),
        settings(tmp_path, ["m"], None),
    ]
    assert len({name_of(one) for one in (plain, *others)}) == 4
    taught = settings(tmp_path, ["m", x, y], {x: DEAR, y: CHEAP}, teacher=y)
    assert taught["task"]["prices"] == {x: DEAR, y: CHEAP}, "a teacher's price decides, too"


def test_other_settings_are_those_of_another_climb_beside_whichever_rivals(
    good, poor, tiny, tmp_path, monkeypatch
):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    task = written(tmp_path / "task", tiny, DEAR, good, poor)
    with pytest.raises(RunError, match="belongs to another climb: .*task.seed is 0 there and 7") as caught:
        climb(task, replace(asked, seed=7), Log())
    assert RIVALS not in str(caught.value)


def test_several_hosted_results_stand_in_the_order_of_their_bills():
    task = task_with("openai:a", "openai:b", "openai:c", volume="1000000/month")
    dev = measurement("prompt", "dev", 60, 0.9)
    local = RungResult(rung="prompt", order=1, usd_per_1000=0.001, dev=dev)
    priced = [
        RungResult(rung=f"api@{name}", order=9 + at, usd_per_1000=usd, price=PRICES.per_token, dev=dev)
        for at, (name, usd) in enumerate((("a", 3.0), ("b", 1.0), ("c", 1.0)))
    ]
    ordered = in_cost_order([local, *priced], task)
    assert [r.rung for r in ordered] == ["prompt", "api@b", "api@c", "api@a"]


def test_it_is_said_what_several_rivals_cost_and_where_one_price_is_that_of_two(tmp_path):
    x, y = "openai:x@http://h:1/v1", "openai:y@http://h:2/v1"
    settings(tmp_path, ["smollm2-135m", x, y], DEAR)
    cost, price = prepare(tmp_path, Options()).notes
    assert (cost.severity, price.severity) == ("info", "warn")
    assert f"2 hosted models are compared with, {x}, {y}: each is paid for" in cost.message
    assert f"one price is that of {x} and {y}, which no list knows" in price.message
    for models, prices in (([x, y], {x: DEAR, y: CHEAP}), ([x, "openai:gpt-4o"], DEAR)):
        settings(tmp_path, ["smollm2-135m", *models], prices)
        (cost,) = prepare(tmp_path, Options()).notes
        assert cost.severity == "info"
    settings(tmp_path, ["smollm2-135m", x], DEAR)
    assert prepare(tmp_path, Options()).notes == ()
