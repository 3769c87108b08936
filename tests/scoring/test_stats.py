import math

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from rung.records import Interval
from rung.scoring import stats

counts = st.integers(0, 60)
ROWS = [50, 100, 200, 500]


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_is_that_of_statsmodels(n, data):
    successes = data.draw(st.integers(0, n))
    found = stats.wilson(successes, n, level=0.9)
    expected = proportion_confint(successes, n, alpha=0.1, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_bonett_price_gives_the_published_arithmetic():
    # (b + 1) / (n + 2) = .15, (c + 1) / (n + 2) = .05 at n = 98.
    found = stats.bonett_price(14, 4, 98)
    half = 1.959964 * math.sqrt((0.15 + 0.05 - 0.1**2) / 100)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)


@settings(deadline=None)
@given(counts, counts, st.integers(0, 100))
def test_bonett_price_turns_around_with_the_pair_and_has_room_where_nothing_differs(b, c, agreeing):
    n = b + c + agreeing + 1
    there, back = stats.bonett_price(b, c, n), stats.bonett_price(c, b, n)
    assert there.low == pytest.approx(-back.high)
    assert -1 <= there.low < there.high <= 1
    assert stats.bonett_price(b, c, n, level=0.9).high <= there.high


@pytest.mark.parametrize(("n", "unit"), [(10, 1.0), (60, 0.3), (500, 40.0)])
def test_two_more_rows_bring_the_variance_that_bonett_and_price_add(n, unit):
    nothing = stats.with_two_more(Interval(low=0.0, high=0.0, level=0.9), 0.0, n, unit)
    same = stats.bonett_price(0, 0, n, 0.9)
    assert (nothing.low, nothing.high) == pytest.approx((same.low * unit, same.high * unit))
    around = stats.with_two_more(Interval(low=-1.0, high=3.0, level=0.9), 0.5, n, unit)
    assert around.low == pytest.approx(0.5 - (1.5**2 + nothing.high**2) ** 0.5)
    assert around.high == pytest.approx(0.5 + (2.5**2 + nothing.high**2) ** 0.5)


@settings(deadline=None)
@given(counts, counts)
def test_mcnemar_is_the_one_sided_exact_test_of_scipy_and_statsmodels(b, c):
    p = stats.mcnemar_greater(b, c)
    if b + c == 0:
        assert p == 1
        return
    assert p == pytest.approx(scipy.stats.binomtest(b, b + c, 0.5, alternative="greater").pvalue)
    two_sided = mcnemar(np.array([[0, c], [b, 0]]), exact=True).pvalue
    assert min(1.0, 2 * min(p, stats.mcnemar_greater(c, b))) == pytest.approx(two_sided)


@settings(deadline=None)
@given(counts, counts)
def test_more_wins_never_raise_the_p_value(b, c):
    assert stats.mcnemar_greater(b + 1, c) <= stats.mcnemar_greater(b, c)
    assert stats.mcnemar_greater(b, c) <= stats.mcnemar_greater(b, c + 1)


def test_sign_flips_agree_with_scipy_exactly_and_at_random():
    rng = np.random.default_rng(1)
    few = rng.normal(0.5, 1, 11)
    many = rng.normal(0.1, 1, 120)
    for data, tolerance in ((few, 1e-12), (many, 0.02)):
        expected = scipy.stats.permutation_test(
            (data,),
            np.mean,
            permutation_type="samples",
            alternative="greater",
            n_resamples=9999,
            rng=np.random.default_rng(2),
        ).pvalue
        assert stats.sign_flip_greater(data, seed=3) == pytest.approx(expected, abs=tolerance)


def test_sign_flips_of_right_and_wrong_rows_are_the_exact_test():
    data = [1.0] * 40 + [-1.0] * 24 + [0.0] * 200
    assert stats.sign_flip_greater(data, seed=0) == pytest.approx(stats.mcnemar_greater(40, 24), abs=0.007)
    assert stats.sign_flip_greater([1.0] * 7 + [-1.0] * 2 + [0.0] * 9, seed=0) == pytest.approx(
        stats.mcnemar_greater(7, 2)
    )


def test_groups_are_flipped_whole():
    data = [0.3, 0.2, 0.5, 0.4, -0.1, 0.1]
    groups = np.array([0, 0, 0, 1, 1, 1])
    assert stats.sign_flip_greater(data, seed=0, groups=groups) == 0.25
    assert stats.sign_flip_greater([1.0, 1.0, -2.0], seed=0, groups=np.array([0, 0, 0])) == 1


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_a_permutation_p_value_is_above_zero_and_repeats_with_its_seed(data, seed):
    p = stats.sign_flip_greater(data, seed, resamples=99)
    assert 0 < p <= 1
    assert p == stats.sign_flip_greater(data, seed, resamples=99)


def test_swapping_a_mean_agrees_with_flipping_signs():
    rng = np.random.default_rng(5)
    first = rng.normal(0, 1, 80)
    second = first + rng.normal(0.15, 1, 80)

    def mean(codes):
        return float(codes.mean())

    swapped = stats.swap_greater(mean, first, second, seed=1, resamples=4999)
    assert swapped == pytest.approx(stats.sign_flip_greater(second - first, seed=2), abs=0.02)
    groups = np.arange(80) // 20
    whole = stats.swap_greater(mean, first, second, seed=1, resamples=4999, groups=groups)
    assert whole == pytest.approx(stats.sign_flip_greater(second - first, seed=2, groups=groups), abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_that_of_statsmodels(ps):
    assert stats.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


def test_bca_and_t_intervals_are_those_of_scipy():
    rng = np.random.default_rng(7)
    many, few = rng.beta(2, 1, 300), rng.beta(2, 1, 60)
    expected = scipy.stats.bootstrap(
        (many,), np.mean, n_resamples=4999, rng=np.random.default_rng(0)
    ).confidence_interval
    found = stats.bca_mean(many, seed=0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    low, high = scipy.stats.t.interval(0.95, 59, loc=few.mean(), scale=scipy.stats.sem(few))
    found = stats.bca_mean(few, seed=0)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert stats.bca_mean([0.5, 0.5], seed=0) == Interval(low=0.5, high=0.5)
    nearly = [5.0] * 150 + [5.0 + 1e-15] * 150
    assert stats.bca_mean(nearly, seed=0) == Interval(low=5.0, high=max(nearly))


def test_the_bootstrap_of_a_mean_is_near_the_t_interval_and_wider_by_whole_groups():
    rng = np.random.default_rng(8)
    values = np.repeat(rng.normal(0, 1, 40), 5)
    groups = np.repeat(np.arange(40), 5)
    plain = stats.bootstrap_interval(lambda at: float(values[at].mean()), 200, seed=0)
    t = stats.bca_mean(values[:199], seed=0)
    assert plain.high - plain.low == pytest.approx(t.high - t.low, rel=0.1)
    whole = stats.bootstrap_interval(lambda at: float(values[at].mean()), 200, seed=0, groups=groups)
    assert (whole.high - whole.low) / (plain.high - plain.low) == pytest.approx(math.sqrt(5), rel=0.15)
    drawn: list[list[int]] = []
    codes, members = np.array([2, 0, 0, 1, 2, 2]), {0: [1, 2], 1: [3], 2: [0, 4, 5]}

    def seen(at) -> float:
        drawn.append(at.tolist())
        return float(len(drawn))

    stats.bootstrap_interval(seen, 6, seed=3, groups=codes)
    again = np.random.default_rng(3)
    assert drawn == [[row for unit in again.integers(0, 3, size=3) for row in members[unit]] for _ in drawn]
    with pytest.raises(ValueError, match="two rows or groups"):
        stats.bootstrap_interval(lambda at: 0.0, 3, seed=0, groups=np.array([0, 0, 0]))


@settings(deadline=None)
@given(st.floats(0.02, 0.98), st.floats(3, 500), st.integers(2, 60))
def test_wilson_of_groups_is_wilsons_of_the_rows_as_korn_and_graubard_correct_them(share, rows, groups):
    z, t = scipy.stats.norm.ppf(0.975), scipy.stats.t.ppf(0.975, groups - 1)
    corrected = rows * (z / t) ** 2
    found = stats.wilson_of_groups(share, share * (1 - share) / rows, groups)
    assert 0 <= found.low < share < found.high <= 1
    if corrected >= 1:
        expected = proportion_confint(share * corrected, corrected, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_a_share_without_variance_is_one_draw_a_group():
    assert stats.wilson_of_groups(1.0, 0.0, 7) == stats.wilson(7, 7)
    assert stats.wilson_of_groups(0.5, 1e-33, 8) == stats.wilson(4, 8)
    with pytest.raises(ValueError, match="needs two groups"):
        stats.wilson_of_groups(0.5, 0.1, 1)


def test_the_variance_by_groups_is_that_of_their_means_or_of_the_rows_where_that_is_more():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(8), 25)
    values = rng.normal(0, 1, 200) + np.repeat(rng.normal(0, 1, 8), 25)

    def mean(at):
        return float(values[at].mean())

    of_means = values.reshape(8, 25).mean(1).var(ddof=1) / 8
    assert stats.variance_of_groups(mean, groups) == pytest.approx(of_means)
    alike = np.tile(np.arange(25.0), 8)
    by_rows = stats.variance_of_groups(lambda at: float(alike[at].mean()), groups)
    assert by_rows == pytest.approx(alike.var(ddof=1) / 200)
    many = rng.normal(0, 1, 4000)
    folded = stats.variance_of_groups(lambda at: float(many[at].mean()), np.arange(4000) // 2)
    assert folded == pytest.approx(many.var(ddof=1) / 4000, rel=0.25)


def test_groups_are_numbered_and_loners_stand_alone():
    ids = ["a", "b", "c", "d"]
    codes = stats.cluster_codes(ids, {"a": "x", "c": "x", "b": "y"})
    assert codes is not None
    assert codes.tolist() == [0, 1, 0, 2]
    assert stats.cluster_codes(ids, {"a": "b"}) is None
    one = stats.cluster_codes(ids, dict.fromkeys(ids, "x"))
    assert one is not None and one.tolist() == [0, 0, 0, 0]
    assert stats.cluster_codes(ids[:1], {"a": "x"}) is None
    assert stats.cluster_codes(ids, None) is None


@pytest.mark.parametrize(
    ("gain", "discordant", "alpha", "rows"),
    [
        (0.02, 0.10, 0.05, 2055), (0.02, 0.10, 0.0125, 2874), (0.02, 0.15, 0.05, 3080),
        (0.02, 0.15, 0.0125, 4251), (0.02, 0.20, 0.05, 4021), (0.02, 0.20, 0.0125, 5668),
        (0.02, 0.30, 0.05, 5986), (0.02, 0.30, 0.0125, 8443), (0.03, 0.10, 0.05, 941),
        (0.03, 0.10, 0.0125, 1287), (0.03, 0.15, 0.05, 1362), (0.03, 0.15, 0.0125, 1943),
        (0.03, 0.20, 0.05, 1790), (0.03, 0.20, 0.0125, 2536), (0.03, 0.30, 0.05, 2662),
        (0.03, 0.30, 0.0125, 3752), (0.05, 0.10, 0.05, 343), (0.05, 0.10, 0.0125, 457),
        (0.05, 0.15, 0.05, 491), (0.05, 0.15, 0.0125, 691), (0.05, 0.20, 0.05, 658),
        (0.05, 0.20, 0.0125, 915), (0.05, 0.30, 0.05, 983), (0.05, 0.30, 0.0125, 1351),
        (0.08, 0.10, 0.05, 127), (0.08, 0.10, 0.0125, 174), (0.08, 0.15, 0.05, 200),
        (0.08, 0.15, 0.0125, 274), (0.08, 0.20, 0.05, 256), (0.08, 0.20, 0.0125, 369),
        (0.08, 0.30, 0.05, 389), (0.08, 0.30, 0.0125, 540), (0.10, 0.15, 0.05, 124),
        (0.10, 0.15, 0.0125, 170), (0.10, 0.20, 0.05, 169), (0.10, 0.20, 0.0125, 229),
        (0.10, 0.30, 0.05, 245), (0.10, 0.30, 0.0125, 346), (0.15, 0.20, 0.05, 74),
        (0.15, 0.20, 0.0125, 100), (0.15, 0.30, 0.05, 110), (0.15, 0.30, 0.0125, 153),
    ],
)  # fmt: skip
def test_the_rows_needed_are_those_of_a_simulated_exact_test(gain, discordant, alpha, rows):
    assert stats.rows_needed(gain, discordant, alpha=alpha) == pytest.approx(rows, rel=0.06)


@pytest.mark.parametrize(
    ("n", "points"),
    [
        (50, (11.6, 16.5, 20.2)),
        (100, (8.5, 12.1, 14.8)),
        (200, (6.1, 8.7, 10.6)),
        (500, (3.9, 5.6, 6.8)),
        (1000, (2.8, 3.9, 4.8)),
        (2000, (2.0, 2.8, 3.4)),
    ],
)
def test_the_smallest_detectable_gains_are_those_of_the_table(n, points):
    found = [100 * stats.smallest_detectable_gain(n, discordant) for discordant in (0.1, 0.2, 0.3)]
    assert found == pytest.approx(points, abs=0.1)


@pytest.mark.parametrize(
    ("margin", "discordant", "rows"),
    [(0.02, 0.1, 1546), (0.02, 0.2, 3092), (0.03, 0.1, 687), (0.05, 0.2, 495)],
)
def test_the_rows_for_non_inferiority_are_those_of_the_table(margin, discordant, rows):
    def end(n):
        return stats.normal_quantile(0.95) * math.sqrt(discordant / n)

    assert stats.rows_for_non_inferiority(end, margin, discordant) == pytest.approx(rows, rel=0.01)
    assert stats.rows_for_non_inferiority(lambda n: margin + end(n), margin, discordant) == stats.MOST_ROWS


@settings(deadline=None)
@given(st.floats(0.005, 0.2), st.floats(0.0, 0.5))
def test_the_rows_for_non_inferiority_are_the_fewest_that_do(margin, discordant):
    def end(n):
        return stats.bonett_price(discordant * n / 2, discordant * n / 2, n, 0.9).high

    def seen(n):
        return end(n) + stats.normal_quantile(0.8) * math.sqrt(discordant / n)

    rows = stats.rows_for_non_inferiority(end, margin, discordant)
    assert seen(rows) < margin <= seen(rows - 1)


@settings(deadline=None)
@given(st.floats(0.02, 0.1), st.floats(0.1, 0.5))
def test_sample_sizes_grow_with_discordance_and_shrink_with_the_gain(gain, discordant):
    rows = stats.rows_needed(gain, discordant)
    assert rows <= stats.rows_needed(gain, discordant + 0.1)
    assert rows <= stats.rows_needed(gain * 0.9, discordant)
    assert stats.smallest_detectable_gain(rows, discordant) == pytest.approx(gain, rel=0.15)


def test_non_inferiority_needs_the_upper_end_of_the_gain_under_the_margin():
    assert stats.non_inferior(Interval(low=-0.01, high=0.019, level=0.9), 0.02)
    assert not stats.non_inferior(Interval(low=-0.01, high=0.02, level=0.9), 0.02)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 2), (2, 5), (30, 10), (0, 40), (400, 300), (10, 2000)])
def test_the_e_value_is_the_integral_it_stands_for(b, c):
    with mpmath.workdps(30):
        expected = float(mpmath.log(2 ** (b + c + 1) * mpmath.betainc(c + 1, b + 1, 0, 0.5)))
    assert stats.log_e_value(b, c) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_the_e_value_is_continuous_and_finite_for_a_hundred_thousand_pairs():
    total = 100_000
    values = [stats.log_e_value(b, total - b) for b in range(0, total + 1, 500)]
    assert all(math.isfinite(value) for value in values)
    assert values == sorted(values)
    assert values[-1] == pytest.approx(total * math.log(2), rel=1e-3)
    assert values[0] == pytest.approx(-math.log(total), abs=0.01)
    around = [stats.log_e_value(b, total - b) for b in range(44_000, 44_600)]
    assert np.abs(np.diff(around, n=2)).max() < 1e-6


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_the_e_value_is_a_fair_bet(b, c):
    now = stats.log_e_value(b, c)
    after = 0.5 * math.exp(stats.log_e_value(b + 1, c) - now) + 0.5 * math.exp(
        stats.log_e_value(b, c + 1) - now
    )
    assert after == pytest.approx(1, rel=1e-9)


def test_no_rows_raise():
    empty = np.array([])
    for call in (
        lambda: stats.wilson(0, 0),
        lambda: stats.bonett_price(0, 0, 0),
        lambda: stats.bca_mean([], 0),
        lambda: stats.bootstrap_interval(lambda at: 0.0, 0, 0),
        lambda: stats.sign_flip_greater([], 0),
        lambda: stats.swap_greater(lambda codes: 0.0, empty, empty, 0),
        lambda: stats.smallest_detectable_gain(0, 0.1),
    ):
        with pytest.raises(ValueError, match="no rows"):
            call()


def allowed(rate, runs):
    """A rate plus three standard errors of its simulated share."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.parametrize("n", [100, 500])
def test_mcnemar_wins_falsely_at_most_five_times_in_a_hundred(n):
    runs = 20_000
    rng = np.random.default_rng(n)
    discordant = rng.binomial(n, 0.2, runs)
    wins = rng.binomial(discordant, 0.5)
    pairs, times = np.unique(np.stack([wins, discordant - wins]), axis=1, return_counts=True)
    false = sum(
        count
        for b, c, count in zip(*pairs, times, strict=True)
        if stats.mcnemar_greater(int(b), int(c)) <= 0.05
    )
    assert false / runs <= allowed(0.05, runs)
    assert false / runs > 0.02


@pytest.mark.parametrize(("n", "runs"), [(100, 1500), (500, 600)])
def test_sign_flips_win_falsely_at_most_five_times_in_a_hundred(n, runs):
    rng = np.random.default_rng(n)
    scores = rng.beta(0.6, 0.3, (2, runs, n))
    false = sum(
        stats.sign_flip_greater(second - first, seed, resamples=399) <= 0.05
        for seed, (first, second) in enumerate(zip(*scores, strict=True))
    )
    assert false / runs <= allowed(0.05, runs)
    assert false / runs > 0.02


def test_flips_by_group_hold_their_level_where_flips_by_row_do_not():
    runs = 600
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(50), 10)
    data = np.repeat(rng.normal(0, 1, (runs, 50)), 10, axis=1) + rng.normal(0, 0.6, (runs, 500))
    by_group = np.mean([stats.sign_flip_greater(row, 0, 199, groups) <= 0.05 for row in data])
    by_row = np.mean([stats.sign_flip_greater(row, 0, 199) <= 0.05 for row in data])
    assert by_group <= allowed(0.05, runs)
    assert by_row > 0.2


@pytest.mark.parametrize("n", ROWS)
def test_intervals_cover_the_truth(n):
    runs = 4000
    rng = np.random.default_rng(n)
    for rate in (0.5, 0.8, 0.95):
        intervals = [stats.wilson(successes, n) for successes in range(n + 1)]
        inside = [found.low <= rate <= found.high for found in intervals]
        assert scipy.stats.binom.pmf(np.arange(n + 1), n, rate) @ inside >= 0.935
    for up, down in ((0.05, 0.05), (0.10, 0.10), (0.15, 0.05), (0.03, 0.01)):
        cells = rng.multinomial(n, [up, down, 1 - up - down], runs)[:, :2]
        seen, times = np.unique(cells, axis=0, return_counts=True)
        intervals = [stats.bonett_price(int(b), int(c), n) for b, c in seen]
        inside = [found.low <= up - down <= found.high for found in intervals]
        assert np.average(inside, weights=times) >= 0.935


def test_the_bootstrap_of_ten_rows_is_as_wide_as_the_t_interval():
    samples = np.random.default_rng(9).normal(0, 1, (40, 10))
    widths = []
    for row in samples:
        found = stats.bootstrap_interval(lambda at, row=row: float(row[at].mean()), 10, seed=0)
        t = stats.bca_mean(row, seed=0)
        widths.append((found.high - found.low) / (t.high - t.low))
    # Means of ten drawn rows have lighter tails than t: a little narrower is right.
    assert 0.95 < np.mean(widths) < 1.02


def test_the_bootstrap_by_groups_covers_the_truth_with_few_groups():
    runs = 60
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(15), 6)
    data = np.repeat(rng.normal(0, 1, (runs, 15)), 6, axis=1) + rng.normal(0, 0.5, (runs, 90))
    found = [
        stats.bootstrap_interval(lambda at, row=row: float(row[at].mean()), 90, seed=0, groups=groups)
        for row in data
    ]
    share = np.mean([one.low <= 0 <= one.high for one in found])
    assert share >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_e_value_wins_falsely_at_most_five_times_in_a_hundred_at_any_stopping_time():
    runs, n = 20_000, 400
    rng = np.random.default_rng(6)
    wins = rng.integers(0, 2, (runs, n)).cumsum(axis=1)
    # The smallest number of wins, at each number of pairs, with an e-value of 20.
    needed = np.full(n, n + 1)
    for total in range(1, n + 1):
        enough = [b for b in range(total // 2, total + 1) if stats.log_e_value(b, total - b) >= math.log(20)]
        needed[total - 1] = min(enough, default=n + 1)
    stopped = (wins >= needed).any(axis=1).mean()
    assert stopped <= allowed(0.05, runs)
    assert stopped > 0.01
    better = rng.random((2000, n)) < 0.7
    assert (better.cumsum(axis=1) >= needed).any(axis=1).mean() > 0.99


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 2), (2, 5), (30, 10), (0, 40), (60, 50)])
def test_bets_on_right_and_wrong_are_worth_the_e_value_but_for_the_grid(b, c):
    values = [1.0] * b + [-1.0] * c + [0.0] * 9
    assert stats.log_e_above_zero(values, 1.0) == pytest.approx(stats.log_e_value(b, c), abs=0.05)


def test_bets_are_fair_wherever_they_have_got_to():
    values = [0.3, -1.0, 0.0, 1.0, 1.0, -0.2]
    now = stats.log_e_above_zero(values, 1.0)
    after = [math.exp(stats.log_e_above_zero([*values, more], 1.0) - now) for more in (1.0, -0.5, -0.5)]
    assert np.mean(after) == pytest.approx(1)
    assert stats.log_e_above_zero([], 1.0) == pytest.approx(0)
    assert math.isfinite(stats.log_e_above_zero([-1.0] * 5000, 1.0))
