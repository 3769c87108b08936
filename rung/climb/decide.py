"""The verdict: which rung to ship, decided from Measurements alone.

1. Walk up. Start at the cheapest rung inside the limits. Compare all dearer ones with it (one-sided,
   paired, Holm over them) and move to the cheapest that wins: p at most .05 and a gain of at least two
   points. Repeat from there.
2. Step back. The best is the rung with the highest score, calls that broke counted as wrong. Ship the
   cheapest rung, no dearer than where the walk ended and not beaten on it, that is shown to be at most a
   margin worse than the best.
3. If no rung is shown to be that, the verdict is undecided, and says about how many rows would settle it.

Two points are 0.02 of a metric that is a share; of a metric in units, 2 % of the targets' range.

A rung that was stopped on the way (`to_beat`) is compared with none and can't win; Holm counts it with p = 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rung.climb.names import rung_of
from rung.climb.sentence import Facts, is_between, no_verdict, verdict
from rung.records import Candidate, Comparison, Decision, Json, VerdictKind
from rung.scoring import paired, stats
from rung.scoring.scorers import SCORERS, worst_error

MIN_ROWS = 50
ALPHA = 0.05
MIN_GAIN = 0.02
MOST_BROKEN = 0.05
"""A rung whose calls break on this share of the rows more than another's can't win: the rows that it does
answer are the easy ones."""
ZERO_SHOT = "prompt"


def decide(  # noqa: PLR0913 (all that a verdict rests on)
    candidates: Sequence[Candidate],
    *,
    targets: Mapping[str, Json],
    groups: Mapping[str, str] | None,
    seed: int,
    split: str,
    margin: float | None = None,
    test_given: bool = True,
) -> Decision:
    """Decide between rungs that were measured on the same rows.

    `targets` gives the expected output of each row by its id, `groups` what each row that is drawn with
    others is drawn with (`task.draws`); `margin`, in the metric's units, is worked out from the scores where
    it isn't given. Without `test_given` the test was carved from the rows, so that one row more for it takes
    several.

    Kinds: `clear_winner`, the rung won its way up (or, as the cheapest, is clearly better than all
    others) and none is better by more than the margin; `tie`, a cheaper rung is as good as the best;
    `undecided`, a dearer rung scores higher but neither is its gain proven nor ruled out; `no_verdict`,
    under 50 rows or no rung inside the limits, with nothing chosen. ValueError without candidates.
    """
    if not candidates:
        raise ValueError("no candidates to decide between")
    ladder = sorted(candidates, key=lambda one: (one.order, one.rung))
    rows = {row.example_id for one in ladder if not one.stopped for row in one.measurement.predictions}
    assert all(len(one.measurement.predictions) == len(rows) for one in ladder if not one.stopped)
    assert len({one.measurement.metric for one in ladder}) == 1
    ladder = _without_broken(ladder, len(rows))
    bench = _Bench(
        targets=targets,
        groups=groups,
        seed=seed,
        min_gain=_min_gain(ladder[0], [targets[row] for row in rows]),
        stopped=[one.order for one in ladder if one.stopped],
        made={},
    )
    pool = [one for one in ladder if _in_the_running(one)]
    if not pool:
        return no_verdict(ladder, split=split, rows=len(rows), min_rows=MIN_ROWS)
    path = _walk_up(pool, bench)
    best = max((one for one in pool if one not in path[:-1]), key=lambda one: _goodness(one, targets))
    if margin is None:
        margin = _margin(ladder, best, bench.min_gain, targets)
    shipped = _step_back(pool, path, best, bench, margin)
    facts = Facts(
        ladder=ladder,
        pool=pool,
        path=path,
        best=best,
        shipped=shipped or path[-1],
        margin=margin,
        least=bench.least,
        split=split,
        draws=_draws(sorted(rows), groups),
        test_given=test_given,
    )
    kind, comparison = _kind(facts, settled=shipped is not None, bench=bench)
    for passed in pool[: pool.index(facts.shipped)]:
        if passed not in path:
            _compare(passed, facts.shipped, bench)
    rows_needed, between = None, False
    if kind == "undecided" and comparison is not None:
        rows_needed = _rows_needed(facts, comparison, bench)
        between = is_between(facts, comparison)
    return Decision(
        kind=kind,
        chosen=facts.shipped.rung,
        best=best.rung,
        comparisons=tuple(bench.made.values()),
        margin=margin,
        sentence=verdict(facts, kind, comparison, rows_needed),
        rows_needed=rows_needed,
        between=between,
    )


def to_beat(candidates: Sequence[Candidate], targets: Mapping[str, Json]) -> tuple[Candidate, float] | None:
    """The best of the rungs so far and how much a dearer one has to gain over it, in the metric's units.

    That is the margin: a rung whose gain is less can't win, and isn't missed as the best. None where no rung
    is sure to stay in the running to the end.
    """
    sure = [
        one
        for one in candidates
        if _in_the_running(one) and one.measurement.failures <= MOST_BROKEN * len(one.measurement.predictions)
    ]
    if not sure:
        return None
    best = max(sure, key=lambda one: _goodness(one, targets))
    return best, _margin(candidates, best, _min_gain(best, list(targets.values())), targets)


def _in_the_running(one: Candidate) -> bool:
    """Whether a rung may win, as far as it alone tells."""
    return not one.over_limits and not one.stopped and one.measurement.n >= MIN_ROWS


def breaks_more(failures: int, least: int, rows: int) -> bool:
    """Whether so many broken calls of so many rows are too many beside the rung of which the least broke."""
    return failures - least > MOST_BROKEN * rows


def _without_broken(ladder: Sequence[Candidate], rows: int) -> list[Candidate]:
    """The ladder, with what broke on many more rows than another rung over the limits.

    One that was stopped was asked other rows, and is neither held against the others nor out for that.
    """
    least = min((one.measurement.failures for one in ladder if not one.stopped), default=0)
    return [
        replace(one, over_limits=(*one.over_limits, f"{one.measurement.failures:,} of {rows:,} calls broke"))
        if not one.stopped and breaks_more(one.measurement.failures, least, rows)
        else one
        for one in ladder
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """What every comparison needs, and the comparisons `made` so far by (cheaper, dearer).

    `stopped` holds the places on the ladder of the rungs that were stopped.
    """

    targets: Mapping[str, Json]
    groups: Mapping[str, str] | None
    seed: int
    min_gain: float
    stopped: Sequence[int]
    made: dict[tuple[str, str], Comparison]

    @property
    def least(self) -> float:
        """The least gain that wins: one of 2 points may come out as 0.0199999."""
        return self.min_gain * (1 - 1e-9)


def _walk_up(pool: Sequence[Candidate], bench: _Bench) -> list[Candidate]:
    """The rungs stood on, from the cheapest to the one that no dearer rung beats."""
    path = [pool[0]]
    while True:
        dearer = pool[pool.index(path[-1]) + 1 :]
        winner = next((one for one in _family(path[-1], dearer, bench) if one[1].wins), None)
        if winner is None:
            return path
        path.append(winner[0])


def _family(
    current: Candidate, dearer: Sequence[Candidate], bench: _Bench
) -> list[tuple[Candidate, Comparison]]:
    """Compare each dearer rung with the current one, Holm over all of them, and keep the comparisons.

    A rung that shares fewer than 50 answered rows with the current one isn't compared. One that was stopped
    has no p-value, having been looked at often; it counts as one more hypothesis that stands.
    """
    pairs = [(one, _pair(current, one, bench)) for one in dearer]
    pairs = [(one, pair) for one, pair in pairs if pair.n >= MIN_ROWS]
    stopped = sum(order > current.order for order in bench.stopped)
    hypotheses = len(pairs) + stopped
    raw = [paired.p_value(pair, bench.seed, hypotheses) for _, pair in pairs]
    adjusted = stats.holm([*raw, *[1.0] * stopped])[: len(raw)]
    family = []
    for (one, pair), p, p_holm in zip(pairs, raw, adjusted, strict=True):
        gain = paired.gain(pair)
        interval = paired.gain_interval(pair, bench.seed)
        wins = p_holm <= ALPHA and gain >= bench.least
        comparison = Comparison(
            cheaper=current.rung,
            dearer=one.rung,
            n=pair.n,
            gain=gain,
            interval=interval,
            discordant=paired.discordant_share(pair),
            p=p,
            p_holm=p_holm,
            smallest_detectable_gain=stats.smallest_detectable_gain(
                pair.n, paired.spread(pair, interval), alpha=2 * ALPHA / hypotheses
            ),
            wins=wins,
            decisive=paired.decisive(pair),
        )
        bench.made[current.rung, one.rung] = comparison
        family.append((one, comparison))
    return family


def _compare(cheaper: Candidate, dearer: Candidate, bench: _Bench) -> Comparison | None:
    """The comparison of two rungs, made now, as a family of one that can't win, if it wasn't before."""
    key = (cheaper.rung, dearer.rung)
    if key not in bench.made:
        for _, comparison in _family(cheaper, [dearer], bench):
            bench.made[key] = replace(comparison, wins=False)
    return bench.made.get(key)


def _step_back(
    pool: Sequence[Candidate], path: Sequence[Candidate], best: Candidate, bench: _Bench, margin: float
) -> Candidate | None:
    """The cheapest rung up to the path's end, not beaten on it, shown to be as good as the best, if any."""
    for one in pool[: pool.index(path[-1]) + 1]:
        if one in path[:-1]:
            continue
        if one is best:
            return one
        if _compare(one, best, bench) is None:
            continue
        pair = _pair(one, best, bench)
        if stats.non_inferior(paired.gain_interval(pair, bench.seed, level=0.9), margin):
            return one
    return None


def _kind(facts: Facts, *, settled: bool, bench: _Bench) -> tuple[VerdictKind, Comparison | None]:
    """The kind of verdict, and the comparison that its sentence should quote."""
    shipped, path, best = facts.shipped, facts.path, facts.best
    if not settled:
        return "undecided", _compare(shipped, best, bench)
    if shipped is not path[-1]:
        rival = best if best is not shipped else path[-1]
        return "tie", _compare(shipped, rival, bench)
    if len(path) > 1:
        return "clear_winner", bench.made[path[-2].rung, shipped.rung]
    rivals = [bench.made.get((shipped.rung, one.rung)) for one in facts.pool[1:]]
    compared = [one for one in rivals if one is not None]
    nearest = max(compared, key=lambda one: one.gain, default=None)
    stopped = [one.stopped for one in facts.ladder if one.stopped]
    if best is not shipped:
        return "tie", _compare(shipped, best, bench)
    clear = all(one.interval.high < 0 for one in compared) and all(one.worse for one in stopped)
    return "clear_winner" if clear else "tie", nearest


def _rows_needed(facts: Facts, comparison: Comparison, bench: _Bench) -> int | None:
    """How many more rows would settle it, were the gain what it seems to be.

    They are rows like these, with as many to a draw. A gain that is worth having is proven; one that isn't is
    shown to be under the margin. None where it's neither, or all rows are one draw.
    """
    pair = _pair(facts.shipped, facts.best, bench)
    if paired.units(pair) < 2 or is_between(facts, comparison):
        return None
    tests = len(facts.pool) - 1 - facts.pool.index(facts.shipped)
    tests += sum(order > facts.shipped.order for order in bench.stopped)
    ways = []
    if comparison.gain < facts.margin:
        ways.append(paired.rows_for_sameness(pair, bench.seed, facts.margin))
    if comparison.gain >= facts.least:
        effect = max(comparison.gain, bench.min_gain)
        ways.append(paired.rows_for_gain(pair, comparison.interval, effect, ALPHA / tests))
    return max(min(ways) - comparison.n, 1)


def _draws(rows: Sequence[str], groups: Mapping[str, str] | None) -> int:
    """How many draws the rows are."""
    codes = stats.cluster_codes(rows, groups)
    return len(rows) if codes is None else int(codes.max()) + 1


def _pair(cheaper: Candidate, dearer: Candidate, bench: _Bench) -> paired.Pair:
    """The rows that both rungs answered."""
    return paired.pair_up(cheaper.measurement, dearer.measurement, targets=bench.targets, groups=bench.groups)


def _goodness(candidate: Candidate, targets: Mapping[str, Json]) -> float:
    """The score, turned so that more is better, with broken calls counted as unreadable answers.

    The plain one leaves these rows out, so that those of two rungs may be of unlike rows.
    """
    found = candidate.measurement
    scorer = SCORERS[found.metric]
    sign = 1 if scorer.higher_is_better else -1
    if not found.failures:
        return sign * found.score
    rows = [targets[row.example_id] for row in found.predictions]
    if scorer.of_set is not None:
        answers = [None if row.answer.failure is not None else row.answer.value for row in found.predictions]
        return sign * scorer.summary(answers, rows)
    worst = 0.0 if scorer.higher_is_better else worst_error(rows)
    scores = [worst if row.score is None else row.score for row in found.predictions]
    return sign * math.fsum(scores) / len(scores)


def _min_gain(candidate: Candidate, targets: Sequence[Json]) -> float:
    """Two points, in the metric's units."""
    if SCORERS[candidate.measurement.metric].shares:
        return MIN_GAIN
    return MIN_GAIN * worst_error(targets)


def _margin(
    ladder: Sequence[Candidate], best: Candidate, min_gain: float, targets: Mapping[str, Json]
) -> float:
    """How much worse than the best still counts as good: two points, or ¼ of the best's gain over zero-shot.

    The quarter only counts where that gain is worth having, two points at least: else zero-shot could
    never be shown to be as good as a best that is a hair above it. Of several models' zero-shots it's that
    of the smallest such quarter.
    """
    gains = [_gain_over(one, best, targets) for one in ladder if rung_of(one.rung) == ZERO_SHOT]
    return min([min_gain, *(gain / 4 for gain in gains if gain >= min_gain)])


def _gain_over(one: Candidate, best: Candidate, targets: Mapping[str, Json]) -> float:
    """How much better the best is; on the rows that both answered where a rung was stopped."""
    if not one.stopped:
        return _goodness(best, targets) - _goodness(one, targets)
    scores = {row.example_id: row.score for row in best.measurement.predictions}
    gains = [
        score - row.score
        for row in one.measurement.predictions
        if row.score is not None and (score := scores.get(row.example_id)) is not None
    ]
    sign = 1 if SCORERS[best.measurement.metric].higher_is_better else -1
    return sign * math.fsum(gains) / max(1, len(gains))
