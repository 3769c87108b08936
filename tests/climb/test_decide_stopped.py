"""What the verdict makes of rungs that were stopped on the way."""

from dataclasses import replace

import pytest

from rung.climb.decide import to_beat
from rung.records import Stopped
from tests.climb.test_decide import candidate, classes, right, verdict


def halted(order, scores, *, of, rival="head", worse=True):
    """A rung that was stopped after these row scores."""
    stopped = Stopped(rows=len(scores), of=of, rival=rival, worse=worse)
    return replace(candidate(order, scores), stopped=stopped)


def test_a_rung_that_was_stopped_cannot_win_and_is_compared_with_none():
    found = verdict(candidate(0, right(500, (0, 400))), halted(1, right(64, (0, 64)), of=500))
    assert (found.kind, found.chosen, found.best, found.comparisons) == ("clear_winner", "head", "head", ())
    assert found.sentence == (
        "Ship head: .800 on 500 test rows; prompt was stopped after 64 dev rows: it can't beat head."
    )


def test_rungs_that_the_same_one_stopped_are_told_of_together():
    found = verdict(
        candidate(0, right(500, (0, 400))),
        halted(1, right(32, (0, 8)), of=500),
        candidate(2, right(500, (0, 410))),
        halted(3, right(64, (0, 8)), of=500),
        halted(4, right(96, (0, 8)), of=500, rival="few_shot"),
        replace(halted(4, right(128, (0, 8)), of=500), rung="preference", order=5),
    )
    assert found.sentence.endswith(
        "; prompt was stopped after 32, sft after 64 and preference after 128 dev rows: none of them can "
        "beat head; distill was stopped after 96 dev rows: it can't beat few_shot."
    )


def test_one_that_was_stopped_for_gaining_too_little_is_no_clear_loser():
    found = verdict(candidate(0, right(500, (0, 400))), halted(1, right(64, (0, 50)), of=500, worse=False))
    assert (found.kind, found.chosen) == ("tie", "head")


def test_holm_counts_a_rung_that_was_stopped():
    pair = [candidate(0, right(200, (0, 140))), candidate(3, right(200, (5, 155)))]
    alone = verdict(*pair)
    beside = verdict(*pair, halted(1, right(64, (0, 20)), of=200), halted(2, right(96, (0, 40)), of=200))
    (before,), (after,) = alone.comparisons, beside.comparisons
    assert (after.p, after.p_holm) == (before.p, pytest.approx(3 * before.p))
    assert after.smallest_detectable_gain > before.smallest_detectable_gain
    assert before.wins and not after.wins


def test_a_rung_that_was_stopped_above_the_current_one_alone_counts():
    pair = [candidate(1, right(200, (0, 140))), candidate(3, right(200, (4, 156)))]
    (comparison,) = verdict(*pair, halted(0, right(64), of=200)).comparisons
    assert comparison.p_holm == comparison.p


def test_the_broken_calls_of_a_rung_that_was_stopped_put_no_other_out():
    """The same rows break in each, one of 14: 36 of 500, and 5 of the 64 that the stopped rung was asked."""
    base, lead = (
        [None if at % 14 == 0 else s for at, s in enumerate(right(500, (0, n)))] for n in (250, 450)
    )
    stopped = halted(1, [None if at % 14 == 0 else 0.0 for at in range(64)], of=500)
    pair = [candidate(0, base), candidate(3, lead)]
    for ladder in (pair, [*pair, stopped]):
        found = verdict(*ladder)
        assert (found.kind, found.chosen) == ("clear_winner", "sft") and "out:" not in found.sentence


def test_no_verdict_says_that_what_was_not_stopped_is_over_the_limits():
    found = verdict(candidate(0, right(200), over_limits=("p95",)), halted(1, right(64), of=200))
    assert "No verdict: every rung is over the limits or was stopped (head: p95; prompt: stopped)" in (
        found.sentence
    )


def test_the_margin_takes_zero_shot_on_the_rows_that_it_was_asked():
    whole = [candidate(0, right(400, (0, 320))), candidate(1, right(400, (0, 300)))]
    cut = [whole[0], halted(1, right(100, (0, 96)), of=400)]
    assert verdict(*whole).margin == pytest.approx(0.0125)
    assert verdict(*cut).margin == pytest.approx(0.01)


def test_the_rung_to_beat_is_the_best_that_can_still_win():
    ladder = [
        candidate(0, right(200, (0, 190)), over_limits=("p95",)),
        halted(1, right(64, (0, 64)), of=200),
        candidate(2, right(200, (0, 150))),
        candidate(3, [*[None] * 11, *right(189, (0, 189))]),
        candidate(4, right(200, (0, 140))),
    ]
    targets = {row.example_id: "a" for row in ladder[0].measurement.predictions}
    found = to_beat(ladder, targets)
    assert found is not None and found[0].rung == "few_shot"
    assert found[1] == pytest.approx(0.02)
    assert to_beat(ladder[:2], targets) is None
    assert to_beat([candidate(0, right(49, (0, 49)))], targets) is None


def test_a_set_metric_can_win_among_however_many_rungs():
    """Of 999 swaps no p is under .001, which among 56 rungs would be .056."""
    targets = ["rare"] * 30 + ["often"] * 90
    head, sft = (classes(0, ["often"] * 120, targets), classes(3, targets, targets))
    others = [
        replace(
            head, rung=f"few_shot {at}", order=at, stopped=Stopped(rows=120, of=120, rival="head", worse=True)
        )
        for at in range(1, 56)
    ]
    wanted = {f"r{at:04}": value for at, value in enumerate(targets)}
    found = verdict(head, *others, replace(sft, order=60), targets=wanted)
    assert (found.kind, found.chosen) == ("clear_winner", "sft")
    assert found.comparisons[0].p_holm == pytest.approx(56 / (40 * 56 + 1))
