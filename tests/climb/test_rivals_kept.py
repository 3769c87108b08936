"""What stays of a climb beside several hosted models when their prices, or who they are, change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rung.checks.rows import prepare
from rung.climb import climb as climbing
from rung.climb.billed import with_bill
from rung.climb.climb import Options, climb
from rung.climb.options import config_of
from rung.climb.rebuilding import forget_moved
from rung.climb.rivals import RIVALS, hosted_models
from rung.climb.stored import RESULT_FILE, RUNGS_FOLDER, WINNER_FOLDER, dump
from rung.compare.sides import side
from rung.hosted import ANOTHER, hosted_ref
from rung.judging import BROKE
from rung.models.hosted import hosted
from rung.records import RungResult, Trial
from rung.rungs.api import Api, prices
from rung.rungs.base import Built
from rung.rungs.teacher import hosted_teacher
from rung.scoring.prices import listed_price
from rung.spec import AnswerSpec, Spec
from rung.system import System, save
from rung.task import Task
from rung.task.model import Prices
from tests.climb.test_billed import Billing
from tests.climb.test_climb import Always, with_ladder
from tests.climb.test_hosted import of, options, paid, write_task
from tests.climb.test_rivals import Counted
from tests.climb.test_stopping import Counts
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.fixtures_hosted import KEY, PRICES
from tests.fixtures_rivals import CHEAP, DEAR, DEV_ROWS, each, written
from tests.report.climb_fixture import measurement

LISTED, CLAUDE = "openai:gpt-4o", "anthropic:claude-haiku-4-5"
LIKE_CLAUDE = {"input_usd_per_m": 1.0, "output_usd_per_m": 5.0, "cached_input_usd_per_m": 0.1}
X, Y, Z = (f"openai:{name}@http://h:{port}/v1" for port, name in enumerate("xyz", start=1))


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)


@pytest.fixture
def read(tmp_path):
    """The task that has these models and prices, as it is read, and what names its run's folder."""
    write_rows(tmp_path / "rows.jsonl", label_rows(60))

    def written(models: list[str], prices: dict | None, **keys) -> tuple[Task, dict]:
        task = {"data": {"train": "rows.jsonl"}, "models": ["m", *models], "prices": prices, **keys}
        (tmp_path / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
        prepared = prepare(tmp_path, Options())
        config = config_of(prepared, [], Options())
        return prepared.task, {key: value for key, value in config.items() if key != RIVALS}

    return written


def costs(task: Task, *others: str) -> dict:
    """What is charged to each hosted model of a task, but to these."""
    out = [(model.url, model.model) for name in others if (model := hosted(name)) is not None]
    return {at: price for at, price in prices(task, hosted_models(task)).items() if at not in out}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # A model that no list knows is added, and given its price, in either form.
        (([LISTED], None), ([LISTED, Y], DEAR)),
        (([LISTED], None), ([LISTED, Y], {Y: DEAR})),
        (([LISTED, Y], DEAR), ([LISTED, Y, Z], {Y: DEAR, Z: CHEAP})),
        (([X], DEAR), ([X, Y], {X: DEAR, Y: CHEAP})),
        (([X], DEAR), ([X, LISTED], DEAR)),
        # One price, of the model that is added, that happens to be the list's of the first one.
        (([CLAUDE], None), ([CLAUDE, Y], LIKE_CLAUDE)),
        (([CLAUDE], LIKE_CLAUDE), ([CLAUDE, Y], {CLAUDE: LIKE_CLAUDE, Y: DEAR})),
        # Beside a teacher.
        (([X], DEAR, LISTED), ([X, Y], {X: DEAR, Y: CHEAP}, LISTED)),
        (([LISTED], None, LISTED), ([LISTED, Y], {Y: CHEAP}, LISTED)),
        (([X], {X: DEAR, Z: CHEAP}, Z), ([X, Z], {X: DEAR, Z: CHEAP}, Z)),
        (([X], DEAR, Z), ([X, Y], DEAR, Z)),
    ],
)
def test_what_another_rival_costs_makes_no_other_run(before, after, read):
    first, later = (
        read(models, given, teacher=next(iter(teacher), None)) for models, given, *teacher in (before, after)
    )
    assert first[1] == later[1]
    added = [name for name in after[0] if name not in before[0]]
    assert costs(first[0], *added) == costs(later[0], *added)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (([X], DEAR), ([X], CHEAP)),
        (([X], DEAR), ([X, Y], {X: CHEAP, Y: DEAR})),
        (([X, Y], {X: DEAR, Y: CHEAP}), ([X, Y], {Y: CHEAP})),
        (([LISTED], None), ([LISTED], {LISTED: DEAR})),
        # Alone it has the price that is given; beside another one it has its list's.
        (([LISTED], DEAR), ([LISTED, Y], DEAR)),
    ],
)
def test_another_price_of_the_first_rival_is_another_run(before, after, read):
    first, later = (read(*one) for one in (before, after))
    assert first[1] != later[1] and costs(first[0], Y) != costs(later[0], Y)


def test_the_price_like_claudes_is_what_the_list_says():
    model = hosted(CLAUDE)
    assert model is not None
    assert listed_price(model.model, model.url) == Prices(**LIKE_CLAUDE).per_token


def desk_of(folder: Path, given: str) -> str:
    """A System that a hosted model answers for."""
    model = hosted(given)
    assert model is not None
    spec = Spec(
        rung="api",
        task="t",
        kind="label",
        labels=("a", "b"),
        engine="endpoint",
        model=hosted_ref(model, model.model),
        answer=AnswerSpec(form="free", max_tokens=16),
        instruction="Sort it.",
    )
    return str(save(folder / "desk", spec, {}).folder)


def test_beside_a_system_that_teaches_one_price_and_one_by_name_are_one_run_only_if_they_cost_the_same(
    read, tmp_path
):
    desk = desk_of(tmp_path, Z)
    plain, by_name = (read([LISTED], given, teacher=desk) for given in (DEAR, {LISTED: DEAR}))
    assert plain[1] != by_name[1] and costs(plain[0]) != costs(by_name[0])
    taught = {X: CHEAP, desk: DEAR}
    found = read([X, Y], {**taught, Y: DEAR}, teacher=desk)
    assert found[1] == read([X], taught, teacher=desk)[1]
    assert {price.input_usd_per_m for price in costs(found[0]).values()} == {0.1, 1.0}


def test_a_price_by_the_name_of_a_system_is_its_models_where_that_is_a_rival_too(read, tmp_path):
    desk = desk_of(tmp_path, X)
    task, _ = read([X], {desk: DEAR}, teacher=desk)
    assert costs(task) == {("http://h:1/v1", "x"): PRICES.per_token}
    teacher = hosted_teacher(task)
    assert teacher is not None and (teacher.given, teacher.named) == (X, desk)
    added, _ = read([Y, X], {desk: DEAR, Y: CHEAP}, teacher=desk)
    assert costs(added)["http://h:1/v1", "x"] == PRICES.per_token


def test_a_price_that_is_put_right_after_a_start_at_a_wrong_one_has_all_systems_there_again(
    good, poor, tiny, tmp_path, monkeypatch
):
    one = Counted()
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, one, Api()))
    priced = each((good, DEAR), (poor, CHEAP))
    first, run = climb(written(tmp_path / "task", tiny, priced, good, poor), asked, Log())
    spent = paid(run)

    def killed(*_):
        raise KeyboardInterrupt

    mistyped = each((good, DEAR), (poor, DEAR))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(climbing, "bring_embedder", killed)
        climb(written(tmp_path / "task", tiny, mistyped, good, poor), asked, Log())
    log, task = Log(), written(tmp_path / "task", tiny, priced, good, poor)
    again, _ = climb(task, asked, log)
    assert "is complete" not in log.text and again.decision == first.decision
    assert side(f"{run}:{poor.candidate}").system.digest == of(first, poor.candidate).system
    assert paid(run) == spent and one.built == ["one"]
    log = Log()
    assert climb(task, asked, log)[0] == again and "is complete" in log.text


def test_a_rival_has_one_folder_once_a_climb_is_finished(good, poor, tiny, tmp_path, monkeypatch):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    alone, run = climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    task = written(tmp_path / "task", tiny, each((good, DEAR), (poor, CHEAP)), good, poor)
    two, _ = climb(task, asked, Log())
    folders = {path.name for path in (run / RUNGS_FOLDER).iterdir()}
    assert folders == {"one", good.candidate, poor.candidate}
    again, _ = climb(written(tmp_path / "task", tiny, DEAR, good), asked, Log())
    folders = {path.name for path in (run / RUNGS_FOLDER).iterdir()}
    assert folders == {"one", "api", poor.candidate}, "one that is left out may come back"
    assert of(again).dev == of(two, good.candidate).dev == of(alone).dev
    assert System.load(run / WINNER_FOLDER).digest == of(alone).system


@pytest.mark.parametrize(("why", "stays"), [("", ["other"]), (BROKE, ["api", "api@x", "other"])])
def test_the_result_of_a_model_that_moved_is_forgotten_under_all_its_names(why, stays, tmp_path):
    found = RungResult(rung="api@x", order=1, system="rung:1")
    for name, system in (("api", "rung:1"), ("api@x", "rung:1"), ("other", "rung:2")):
        dump(tmp_path / RUNGS_FOLDER / name / RESULT_FILE, RungResult, replace(found, system=system))
    forget_moved(tmp_path, found, "a server's fault")
    assert len(list(tmp_path.rglob(RESULT_FILE))) == 3
    forget_moved(tmp_path, found, f"{why}'x' is answered by 'y' now {ANOTHER} 'x'")
    assert sorted(path.parent.name for path in tmp_path.rglob(RESULT_FILE)) == stays


def test_results_stand_in_the_order_of_the_task_that_they_are_climbed_in_now(
    good, poor, third, tiny, tmp_path, monkeypatch
):
    asked = replace(options(tmp_path / "run"), rungs=with_ladder(monkeypatch, Always("one"), Api()))
    of_each = {good: DEAR, poor: CHEAP, third: CHEAP}
    for rivals in ((good, poor, third), (good, third), (good, third, poor)):
        priced = each(*((rival, of_each[rival]) for rival in rivals))
        found, _ = climb(written(tmp_path / "task", tiny, priced, *rivals), asked, Log())
        named = [(r.rung, r.order) for r in found.results]
        assert named == [("one", 0), *((rival.candidate, at) for at, rival in enumerate(rivals, start=1))]


def test_a_hosted_model_that_is_asked_on_is_told_with_all_its_rows_and_their_bill(
    tiny, tmp_path, monkeypatch
):
    with Billing(lambda text, body: json.dumps({"label": "billing"})) as server:
        # What answering here costs is less than was foretold, and more than the nothing that is billed.
        given = {"input_usd_per_m": 1.0, "output_usd_per_m": 0.0, "cached_input_usd_per_m": 0.0}
        task = write_task(tmp_path / "task", tiny, server, label_rows(270), prices=given, volume="1000/month")
        names = with_ladder(monkeypatch, Counts("good"), Api())
        found, _ = climb(task, replace(options(tmp_path / "run"), rungs=names), Log())
    api = of(found)
    assert of(found, "good").dev.score > 0.9 > api.dev.score and api.stopped is None
    (trial,) = api.trials
    assert (trial.stopped, trial.n, trial.score) == (False, DEV_ROWS, api.dev.score)
    assert f"the {DEV_ROWS} dev rows that it was asked cost $0.0000, foretold $0.0" in api.notes[-1]


def test_one_that_is_stopped_is_told_so_and_variants_that_were_not_chosen_stay(tmp_path):
    dev = measurement("api", "dev", 60, 0.9)
    screened = Trial(name="tools", score=0.1, n=8, seconds=1.0, stopped=True)
    chosen = replace(screened, name="json", chosen=True)
    spec = Spec(rung="api", task="t", kind="label", labels=("a", "b"), engine="head", features="tfidf")
    made = Built(system=save(tmp_path / "s", spec, {}), what="x", trials=(screened, chosen))
    assert with_bill(made, dev, None) is made, "nothing is billed here"
    told = with_bill(replace(made, price=PRICES.per_token, foretold_usd=0.5), dev, None)
    assert told.trials[0] == screened
    assert (told.trials[1].stopped, told.trials[1].n, told.trials[1].score) == (False, 60, dev.score)
    assert "the 60 dev rows that it was asked cost $" in told.notes[-1] and "$30.0000" in told.notes[-1]
