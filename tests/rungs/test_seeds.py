"""More seeds where a gain is small: when, how, and which of them ships."""

import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rung.engines.base import EngineSpec
from rung.errors import EngineError
from rung.records import Answer, Candidate, Example, Interval, Measurement, MetricName, Prediction
from rung.rungs import seeds
from rung.rungs.seeds import repeated, retrained, summed_up, why_more
from rung.rungs.sft import answer_forms, seed_scores
from rung.rungs.tuning import Outcome
from rung.scoring import stats
from rung.scoring.measure import measurement
from rung.scoring.scorers import SCORERS
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows


def measured(scores) -> Measurement:
    rows = tuple(
        Prediction(example_id=str(n), answer=Answer(text="x", value="x"), score=float(score))
        for n, score in enumerate(scores)
    )
    return Measurement(
        system="s",
        split="dev",
        metric="accuracy",
        score=statistics.fmean(scores),
        interval=Interval(low=0, high=1),
        n=len(rows),
        failures=0,
        predictions=rows,
    )


def standing(found: Measurement, dev) -> Any:
    """A context whose best rung so far has this Measurement."""
    best = Candidate(rung="head", system="h", order=0, measurement=found, usd_per_1000=0.0)
    return SimpleNamespace(best=best, dev=dev, seed=0)


def rows(outputs, groups=()) -> list[Example]:
    groups = groups or [None] * len(outputs)
    return [
        Example(id=str(n), input=str(n), output=output, group=group)
        for n, (output, group) in enumerate(zip(outputs, groups, strict=True))
    ]


@pytest.mark.parametrize(
    ("lost", "won", "more"), [(0, 80, False), (5, 15, True), (10, 10, True), (40, 0, False), (0, 12, True)]
)
def test_more_seeds_are_for_gains_under_twice_the_smallest_detectable_one(lost, won, more):
    before = [1] * lost + [0] * (100 - lost)
    after = [0] * lost + [1] * won + [0] * (100 - lost - won)
    gain = (won - lost) / 100
    least = stats.smallest_detectable_gain(100, (won + lost) / 100)
    assert more == (-least < gain < 2 * least)
    said = why_more(standing(measured(before), rows("x" * 100)), measured(after))
    assert (said is not None) == more
    if said:
        assert "over head" in said


def test_without_a_rung_to_beat_or_all_rows_one_seed_is_enough():
    before, after = measured([0, 1] * 50), measured([1, 0] * 50)
    assert why_more(standing(before, rows("x" * 100)), after) is not None
    alone: Any = SimpleNamespace(best=None, dev=rows("x" * 100), seed=0)
    assert why_more(alone, after) is None
    assert why_more(standing(before, rows("x" * 101)), after) is None


AUTHOR = [f"Pray, good sir, hast thou beheld the {n}th raven, that doth wail so?" for n in range(60)]
PLAIN = [f"Sir, did you see the raven number {n}, the one that cries?" for n in range(60)]
LABELS = ["red", "blue", "green"] * 20
NUMBERS = [float(n) for n in range(60)]
SETS: list[tuple[MetricName, list, list]] = [
    ("macro_f1", LABELS, ["red"] * 60),
    ("spearman", NUMBERS, NUMBERS[::-1]),
    ("style", AUTHOR, PLAIN),
]
"""Metrics of a whole set, with targets and with answers that score little."""


@pytest.mark.parametrize(("metric", "targets", "poor"), SETS)
def test_a_metric_of_a_whole_set_has_more_seeds_where_its_gain_is_small(metric, targets, poor):
    assert {one for one, *_ in SETS} == {name for name, scorer in SCORERS.items() if scorer.of_set}
    dev = rows(targets)

    def found(answers) -> Measurement:
        given = [Answer(text=str(value), value=value) for value in answers]
        return measurement(system="s", split="dev", metric=metric, examples=dev, answers=given)

    bad, good = found(poor), found(targets)
    few = found([targets[at] if at % 20 == 0 else poor[at] for at in range(60)])
    context = standing(bad, dev)
    assert why_more(context, good) is None, "a large gain is no matter of luck"
    for close in (bad, few):
        assert "over head is under twice the smallest detectable gain" in (why_more(context, close) or "")
    assert why_more(standing(good, dev), bad) is None, "nor is a large loss"


def test_rows_of_few_groups_make_a_gain_less_sure():
    before, after = [0] * 100, [1] * 40 + [0] * 60
    assert why_more(standing(measured(before), rows("x" * 100)), measured(after)) is None
    groups = [str(n // 20) for n in range(100)]
    assert why_more(standing(measured(before), rows("x" * 100, groups)), measured(after)) is not None
    alone = rows("x" * 100, ["one"] * 100)
    assert why_more(standing(measured(before), alone), measured(after)) is None, "one group tells nothing"


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_median_seed_is_chosen(scores):
    found = summed_up(scores, scores)
    assert scores[found.chosen] == statistics.median(scores)
    errors = summed_up(scores, [-score for score in scores])
    assert scores[errors.chosen] == statistics.median(scores)
    assert found.mean == pytest.approx(statistics.fmean(scores))


def outcome(**changes) -> Outcome:
    made = Outcome(
        form="words",
        rate=1e-3,
        batch=4,
        step=6,
        decay=(4, 8),
        again_s=1.0,
        adapter=None,  # pyright: ignore[reportArgumentType]
        what="",
        passes=1.0,
        cut_short=False,
        trials=(),
        notes=(),
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_seeds_differ_from_each_other_and_are_the_same_again(tiny, tmp_path, monkeypatch):
    data = write_rows(tmp_path / "topics.jsonl", label_rows(160))
    runs, found = [], []
    real = seeds.Tune.run

    def seen(self, arm, until, decay=None):
        assert self.batch == 8, "as many rows a step as the first seed had"
        runs.append((self.plan.seed, until, decay))
        return real(self, arm, until, decay)

    monkeypatch.setattr(seeds.Tune, "run", seen)
    for name in ("one", "two"):
        with opened(tiny, data, tmp_path / name) as context:
            spec = answer_forms(context)["words"]
            adapters, why = retrained(context, spec, outcome(batch=8), "close")
            assert why == "close" and len(adapters) == 2
            found.append([load_file(a / "adapter_model.safetensors") for a in adapters])
            if name == "two":
                again, _ = retrained(context, spec, outcome(batch=8), "close")
                assert again == adapters
    assert runs[:4] == [(1, 4, None), (1, 6, (4, 8)), (2, 4, None), (2, 6, (4, 8))]
    key = next(iter(found[0][0]))
    assert all((one[key] == two[key]).all() for one, two in zip(*found, strict=True))
    assert not (found[0][0][key] == found[0][1][key]).all()


def test_without_time_one_seed_stays_and_that_is_said(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(160)), tmp_path) as context:
        spec = answer_forms(context)["words"]
        adapters, why = retrained(context, spec, outcome(again_s=1e6), "it is close")
        assert adapters == () and "one seed only: it is close" in why
        again, same = retrained(context, spec, outcome(again_s=0.0), "it is close")
        assert again == () and same == why, "a climb that is taken up again takes the same choice"


def test_another_seed_finds_no_engine_open_and_one_that_breaks_leaves_the_first(tiny, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", label_rows(60))
    seen = []

    def again(number):
        seen.append((number, list(context.pool.engines)))
        raise EngineError("the memory is used up")

    with opened(tiny, data, tmp_path) as context:
        context.pool.engine(EngineSpec(engine="fake"))
        found = repeated(context, "close", 1.0, again)
    assert found == ((), "one seed only: another one broke (the memory is used up)")
    assert seen == [(1, [])]


def test_each_seed_is_scored_as_a_system_of_its_own(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(160)), tmp_path) as context:
        spec = answer_forms(context)["words"].model_copy(update={"engine": "torch"})
        from rung.rungs.learned_files import torch_files
        from rung.system import save

        adapters, _ = retrained(context, spec, outcome(), "close")
        first = save(context.work / "first", spec, torch_files(context, adapters[0]))
        whole = context.measure(first, context.dev, "first")
        found = seed_scores(context, first, whole, adapters)
        assert len(found.scores) == 3 and found.scores[0] == found.scores[1] == whole.score
