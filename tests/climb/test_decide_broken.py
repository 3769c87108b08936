"""Decisions where calls broke, and what is compared beside the way up."""

from tests.climb.test_decide import candidate, right, verdict


def test_the_best_is_so_with_broken_calls_as_wrong_answers():
    head = candidate(0, right(500, (0, 400)))
    broken = candidate(3, [1.0] * 398 + [0.0] * 78 + [None] * 24)
    better = candidate(4, right(500, (18, 425)))
    found = verdict(head, broken, better)
    assert (found.kind, found.chosen, found.best) == ("undecided", "head", "distill")
    # On the rows that both answered it may still be ahead: the verdict doesn't deny it.
    ahead = candidate(3, right(480, (0, 386)) + [None] * 20)
    cheapest = candidate(0, right(480, (0, 380)) + [1.0] * 20)
    found = verdict(cheapest, ahead)
    assert (found.kind, found.chosen, found.best) == ("tie", "head", "head")
    assert "sft's .804 isn't higher with its broken calls as wrong (+1.2 points" in found.sentence


def test_a_verdict_at_the_cheapest_rung_quotes_the_best_and_not_the_nearest():
    head = candidate(0, right(2000, (0, 1800)))
    broken = candidate(3, [None] * 5 + right(2000, (0, 1808))[5:])
    best = candidate(4, right(2000, (0, 1807)))
    found = verdict(head, broken, best)
    assert (found.kind, found.chosen, found.best) == ("tie", "head", "distill")
    assert "; distill's .903 isn't better by more than 2.0 points (+0.4 points" in found.sentence


def test_the_rungs_that_the_walk_passed_by_are_compared_with_the_one_to_ship():
    prompt, few_shot = candidate(1, right(200, (0, 140))), candidate(2, right(200, (55, 200), (0, 5)))
    sft = candidate(3, right(200, (0, 140), (186, 200)))
    found = verdict(prompt, few_shot, sft)
    assert (found.kind, found.chosen) == ("clear_winner", "sft")
    passed = next(c for c in found.comparisons if (c.cheaper, c.dearer) == ("few_shot", "sft"))
    assert not passed.wins and passed.interval.low < 0 < passed.gain
    assert found.comparisons[0].cheaper == "prompt"


def test_where_broken_calls_alone_make_another_the_best_as_many_rows_are_asked_for_as_show_its_loss():
    """Of the 57 rows that both answered head has two more right; the three on which it broke are sft's."""
    head = candidate(0, [None] * 3 + [1.0] * 46 + [0.0] * 11)
    sft = candidate(3, [1.0] * 40 + [0.0] * 9 + [1.0] * 7 + [0.0] * 4)
    found = verdict(head, sft)
    assert (found.kind, found.chosen, found.best) == ("undecided", "head", "sft")
    assert found.comparisons[0].gain < 0
    assert found.rows_needed is not None and 100 < found.rows_needed < 1000
