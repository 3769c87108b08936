"""Holm's correction in the verdict: ladders of up to eight rungs whose p-values are worked out by hand.

Where a dearer rung is right on b rows more than the cheapest, and wrong on none more, the exact one-sided
McNemar test has p = 1 / 2^b.
"""

import pytest

from tests.climb.test_decide import candidate, right, verdict


def ladder(*more):
    """The cheapest, right on 100 of 200 rows, and dearer rungs that are right on so many more."""
    return [
        candidate(order, right(200, (0, 100 + b)), rung=f"rung {order}") for order, b in enumerate((0, *more))
    ]


def test_a_gain_that_would_ship_alone_does_not_ship_as_the_best_of_seven_dearer_rungs():
    alone, among = verdict(*ladder(7)), verdict(*ladder(0, 0, 0, 7, 0, 0, 0))
    assert (alone.kind, alone.chosen) == ("clear_winner", "rung 1")
    assert (among.kind, among.chosen, among.best) == ("undecided", "rung 0", "rung 4")
    for found, hypotheses in ((alone, 1), (among, 7)):
        lead = next(one for one in found.comparisons if one.dearer == found.best)
        assert (lead.p, lead.p_holm) == pytest.approx((1 / 128, hypotheses / 128))


def test_the_second_smallest_p_is_held_against_one_rung_less():
    """1 / 128 of seven would be over .05, of six it isn't; 1 / 32 of four isn't under 1 / 32 of five."""
    found = verdict(*ladder(1, 3, 2, 7, 5, 5, 9))
    steps = [one.p_holm for one in found.comparisons if one.cheaper == "rung 0"]
    assert steps == pytest.approx([1 / 2, 3 / 8, 2 / 4, 6 / 128, 5 / 32, 5 / 32, 7 / 512])
    wins = [one.dearer for one in found.comparisons if one.cheaper == "rung 0" and one.wins]
    assert wins == ["rung 4", "rung 7"]
    assert (found.chosen, found.best) == ("rung 4", "rung 7")
