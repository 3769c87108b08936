import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.guards.forgetting import Said, scored
from rung.guards.items import Item
from rung.guards.limits import judged, perplexity_ratio
from rung.records.guarded import Divergence, Items
from rung.scoring.stats import bonett_price


def items(base: int, won: int, lost: int, n: int = 300) -> Items:
    bounds = bonett_price(won, lost, n, 0.9)
    return Items(
        n=n,
        base=base / n,
        tuned=(base + won - lost) / n,
        won=won,
        lost=lost,
        gain_low=bounds.low,
        gain_high=bounds.high,
        kinds=(),
    )


def moved(kl: float = 0.0, ratio: float = 1.0) -> Divergence:
    return Divergence(tokens=100, kl=kl, base_loss=2.0, tuned_loss=2.0 + math.log(ratio))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((items(200, 15, 15), moved(), moved()), "pass"),
        ((items(200, 60, 60), moved(), moved()), "warn"),
        ((items(200, 5, 40), moved(), moved()), "block"),
        ((items(200, 40, 20), moved(), moved()), "pass"),
        ((items(200, 0, 0), moved(kl=0.1), moved()), "pass"),
        ((items(200, 0, 0), moved(kl=0.11), moved()), "warn"),
        ((items(200, 0, 0), moved(kl=0.51), moved()), "block"),
        ((items(200, 0, 0), moved(), moved(ratio=1.06)), "warn"),
        ((items(200, 0, 0), moved(), moved(ratio=1.21)), "block"),
        ((None, moved(kl=0.51), None), "block"),
        ((items(200, 15, 15), moved(kl=math.nan), moved()), "block"),
        ((items(200, 15, 15), moved(), moved(ratio=math.nan)), "block"),
        ((None, None, moved()), "unknown"),
        ((None, moved(), moved()), "unknown"),
        ((items(200, 15, 15), None, moved()), "unknown"),
        ((None, None, None), "unknown"),
    ],
)
def test_the_gate_blocks_on_clear_harm_and_warns_where_harm_is_not_ruled_out(found, verdict):
    said, reasons = judged(*found)
    assert said == verdict
    assert bool(reasons) == (verdict in ("warn", "block"))


def test_a_loss_of_under_five_points_that_is_clear_passes():
    found = items(250, 0, 7)
    assert found.gain_high < 0 and found.gain_low > -0.05
    assert judged(found, moved(), moved()) == ("pass", ())


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_items_are_counted_in_pairs_and_broken_calls_in_neither(rows):
    asked = [
        Item(kind="knowledge", ask=str(n), check="answers", arguments={"accepted": ["yes"]}, tokens=8)
        for n in range(len(rows))
    ]

    def said(right: bool, broke: bool) -> Said:
        return Said(
            text="" if broke else "Yes." if right else "No.", tokens=(1,), failure="x" if broke else None
        )

    base = [said(before, broke) for before, _, broke in rows]
    tuned = [said(after, False) for _, after, _ in rows]
    found = scored(asked, base, tuned)
    whole = [(before, after) for before, after, broke in rows if not broke]
    if not whole:
        assert found is None
        return
    assert found is not None
    assert (found.n, found.broken) == (len(whole), len(rows) - len(whole))
    assert found.base == pytest.approx(sum(b for b, _ in whole) / len(whole))
    assert found.tuned - found.base == pytest.approx((found.won - found.lost) / found.n)
    assert found.won == whole.count((False, True)) and found.lost == whole.count((True, False))
    assert sum(kind.n for kind in found.kinds) == found.n
    assert sum(kind.tuned for kind in found.kinds) == round(found.tuned * found.n)
    assert found.gain_low <= found.tuned - found.base <= found.gain_high


def test_a_hopeless_tune_has_a_ratio_and_no_overflow():
    assert perplexity_ratio(Divergence(tokens=1, kl=0, base_loss=0.0, tuned_loss=1e6)) > 1e300
