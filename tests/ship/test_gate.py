"""The gate's rule, on answers that are made up: when it passes, and what it says when it doesn't."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rung.errors import EngineError
from rung.records import Answer, Example, Json
from rung.scoring.stats import bonett_price, wilson
from rung.ship.parity import LEAST_AGREEMENT, MARGIN, ROWS, Asked, Seen, judge

SEEN = Seen(engines=("torch", "llama"), way="as_served", prompts_same=0, same=0, compared=1, tokens=False)


def asked(n: int, metric="accuracy", outputs: Sequence[Json] = ()) -> Asked:
    rows = [Example(id=str(i), input=str(i), output=outputs[i] if outputs else "a") for i in range(n)]
    return Asked(examples=tuple(rows), metric=metric, told="rows")


def said(values: Sequence[Json]) -> list[Answer]:
    return [Answer(text=str(value), value=value) for value in values]


def gate(n: int, lost: int = 0, won: int = 0, other: int = 0, metric="accuracy"):
    """`lost` rows are right before only, `won` after only, `other` are wrong in another way."""
    before = ["a"] * lost + ["b"] * won + ["b"] * other + ["a"] * (n - lost - won - other)
    after = ["b"] * lost + ["a"] * won + ["c"] * other + ["a"] * (n - lost - won - other)
    same = n - lost - won - other
    return judge(asked(n, metric), said(before), said(after), replace(SEEN, same=same, compared=n))


def test_the_rule_is_the_documented_one():
    assert (MARGIN, LEAST_AGREEMENT, ROWS) == (0.05, 0.90, 200)


@pytest.mark.parametrize(
    ("n", "lost", "passes"),
    [(44, 0, False), (45, 0, True), (50, 0, True), (50, 1, False), (200, 5, True), (200, 6, False)],
)
def test_so_many_lost_rows_pass_of_so_many(n, lost, passes):
    found = gate(n, lost=lost)
    assert found.passed == passes
    assert found.loss_bound == pytest.approx(-bonett_price(0, lost, n, 0.9).low)
    assert bool(found.faults) == (not passes)
    if not passes:
        assert "a fall of the score by .050 can't be ruled out" in found.faults[0]


@pytest.mark.parametrize(("other", "passes"), [(11, True), (12, False)])
def test_other_answers_count_also_where_the_score_stays(other, passes):
    found = gate(200, other=other)
    assert found.gain == 0 and found.passed == passes
    assert found.agreement == wilson(200 - other, 200)
    if not passes:
        assert found.faults == (
            f"188 of 200 answers are the same, which may be {100 * found.agreement.low:.1f} % of all; "
            "at least 90 % have to be",
        )


def test_rows_that_ask_the_same_thing_are_one_draw():
    """Fifty right answers to ten questions leave more in doubt than to fifty."""
    fifty, seen = asked(50), replace(SEEN, same=50, compared=50)
    rows = [
        replace(row, input=f"{'Which' if n % 2 else 'which '} {n // 5}?")
        for n, row in enumerate(fifty.examples)
    ]
    found = judge(replace(fifty, examples=tuple(rows)), said(["a"] * 50), said(["a"] * 50), seen)
    assert gate(50).passed and not found.passed
    assert found.loss_bound > 2 * gate(50).loss_bound


def test_a_gain_and_a_loss_that_cancel_out_are_less_certain_than_none():
    assert gate(200).loss_bound < gate(200, lost=3, won=3).loss_bound < gate(200, lost=3).loss_bound


def test_the_difference_is_signed_as_the_score_is():
    found = gate(100, lost=2)
    assert (found.before.score, found.after.score) == (1.0, 0.98)
    assert found.gain == pytest.approx(-0.02)
    assert found.gain_interval == bonett_price(0, 2, 100)


def test_a_call_that_breaks_in_the_export_alone_fails_the_gate():
    after = said(["a"] * 199) + [Answer(text="", failure="generate: too long")]
    found = judge(asked(200), said(["a"] * 200), after, replace(SEEN, same=199, compared=200))
    assert found.broken == 1 and found.faults == ("1 calls broke that the System answers",)
    both = judge(asked(200), after, after, replace(SEEN, same=199, compared=200))
    assert both.passed and (both.broken, both.same_answers) == (0, 199)


def test_an_export_that_answers_nothing_is_an_error_and_no_number():
    broken = [Answer(text="", failure="gone")] * 60
    with pytest.raises(EngineError, match="all 60 calls"):
        judge(asked(60), said(["a"] * 60), broken, replace(SEEN, same=0, compared=60))


def test_an_error_is_measured_in_the_tasks_own_units_and_its_margin_too():
    outputs = [float(i) for i in range(201)]  # a range of 200
    near = [value + 1 for value in outputs]
    far = [value + 30 for value in outputs]
    seen = replace(SEEN, same=160, compared=160, tokens=True)
    found = judge(asked(201, "mae", outputs), said(outputs), said(near), seen)
    assert found.margin == pytest.approx(10) and found.passed
    assert found.gain == pytest.approx(-1) and found.after.score == pytest.approx(1)
    worse = judge(asked(201, "mae", outputs), said(outputs), said(far), seen)
    assert not worse.passed and "a fall of the score by 10 can't be ruled out" in worse.faults[0]


def test_written_answers_are_judged_by_their_tokens():
    answers = said([{"x": i} for i in range(60)])
    rows = asked(60, "field_f1", [{"x": i} for i in range(60)])
    seen = replace(SEEN, same=130, compared=160, tokens=True)
    found = judge(rows, answers, answers, seen)
    assert found.same_answers == 60
    assert [fault for fault in found.faults if "130 of 160 next tokens" in fault]
    assert judge(rows, answers, answers, replace(seen, same=158)).passed


def test_prompts_of_other_tokens_are_told_of_a_gate_that_is_passed():
    found = [
        judge(
            asked(60), said(["a"] * 60), said(["a"] * 60), replace(SEEN, same=60, compared=60, prompts_same=n)
        )
        for n in (60, 59, 0)
    ]
    assert all(one.passed and not one.faults for one in found)
    same, *others = (one.notes for one in found)
    assert same == ()
    for (note,), count in zip(others, (1, 60), strict=True):
        assert note.startswith(f"{count} of 60 prompts aren't the System's own, token for token")
