"""More seeds where a gain is small: when, how, and which of them ships."""

import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rung.records import Answer, Interval, Measurement, Prediction
from rung.rungs import seeds
from rung.rungs.rival import rival
from rung.rungs.seeds import retrained, summed_up, why_more
from rung.rungs.sft import answer_forms, seed_scores
from rung.rungs.tuning import Outcome
from rung.scoring import stats
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


def standing(scores, dev: int = 100) -> Any:
    best = rival("head", measured(scores), [], needed=0.02, level=0.01)
    return SimpleNamespace(rival=best, dev=range(dev), sign=1)


@pytest.mark.parametrize(
    ("lost", "won", "more"), [(0, 80, False), (5, 15, True), (10, 10, True), (40, 0, False), (0, 12, True)]
)
def test_more_seeds_are_for_gains_under_twice_the_smallest_detectable_one(lost, won, more):
    before = [1] * lost + [0] * (100 - lost)
    after = [0] * lost + [1] * won + [0] * (100 - lost - won)
    gain = (won - lost) / 100
    least = stats.smallest_detectable_gain(100, (won + lost) / 100)
    assert more == (-least < gain < 2 * least)
    said = why_more(standing(before), measured(after))
    assert (said is not None) == more
    if said:
        assert "over head" in said


def test_without_a_rival_or_all_rows_one_seed_is_enough():
    scores = [0, 1] * 50
    assert why_more(SimpleNamespace(rival=None, dev=range(100), sign=1), measured(scores)) is None
    assert why_more(standing(scores, dev=101), measured(scores)) is None


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
