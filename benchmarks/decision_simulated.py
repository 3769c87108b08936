"""The whole decision in simulation: how often a ladder of eight rungs ships the wrong one.

    python benchmarks/decision_simulated.py --times 400

Right and wrong answers are drawn, what is hard for one rung being hard for all (Gaussian copula, .6). Each
time the rungs go through what a climb does: rungs that can't win are stopped on dev, dev decides, the test
is opened for the rungs that the verdict needs, and the test decides. A false win is a dearer rung that
ships and is truly no better than the cheapest; too dear is one that ships although a cheaper one is truly
as good; too cheap is one that ships, as settled, although another is truly better by more than two points.
An undecided climb ships too, and says that more rows are needed.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
from common import print_machine, table

from rung.climb import sealed
from rung.climb.decide import ALPHA, MIN_GAIN, decide, to_beat
from rung.evaluate import LOOK_ROWS
from rung.records import Answer, Candidate, Decision, Example, RungResult
from rung.rungs.rival import rival
from rung.scoring.measure import measurement

ALIKE = 0.6
TRUTHS = {
    "all equal": (0.80,) * 8,
    "the second and all after it better, and equal": (0.70, *(0.80,) * 7),
    "the fifth better by 10 points": (*(0.75,) * 4, 0.85, *(0.75,) * 3),
    "each a little better than the one before": tuple(0.70 + 0.02 * at for at in range(8)),
    "the dearest alone better by 8 points": (*(0.78,) * 7, 0.86),
}


def main() -> None:
    """Every set of truths with each number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=400, help="climbs of each kind")
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 500], help="of dev, and of the test")
    parser.add_argument("--truth", default="", help="sets of truths whose name holds this alone")
    given = parser.parse_args()
    print_machine()
    rows = []
    for name, truths in TRUTHS.items():
        for count in given.rows if given.truth in name else ():
            dice = np.random.default_rng(0)
            found = [climbed(truths, count, dice) for _ in range(given.times)]
            rows.append((name, f"{count:,}", *shares(truths, found)))
    head = (
        "truth",
        "dev and test rows",
        "cheapest of the best",
        "false win",
        "too dear",
        "too cheap",
        "undecided",
        "dev rows asked",
    )
    table(head, rows)


def climbed(truths: Sequence[float], count: int, dice: np.random.Generator) -> tuple[Decision, float]:
    """The decision of one simulated climb, and the share of the dev answers that it asked for."""
    dev, test = (drawn(truths, count, dice) for _ in range(2))
    rows = [Example(id=f"{i:05d}", input=str(i), output="yes") for i in range(count)]
    targets = {e.id: e.output for e in rows}
    results: list[RungResult] = []
    for order, right in enumerate(dev):
        found = answered(right)
        stopped = None
        bar = to_beat(candidates(results, "dev"), targets) if results else None
        if bar is not None:
            level = ALPHA / (len(truths) * (len(truths) - 1) / 2)
            best = rival(bar[0].rung, bar[0].measurement, rows, needed=bar[1], level=level)
            assert best is not None, "accuracy is no metric of a whole set"
            looks = range(LOOK_ROWS, count, LOOK_ROWS)
            asked = next((n for n in looks if best.beyond(rows[:n], found[:n])), count)
            if asked < count:
                stopped = best.stopped(rows[:asked], found[:asked], count)
                found = found[:asked]
        results.append(
            RungResult(rung=f"rung {order}", order=order, stopped=stopped, dev=scored(rows, found, "dev"))
        )
    asked = sum(len(one.dev.predictions) for one in results if one.dev is not None)
    on_dev = decide(candidates(results, "dev"), targets=targets, groups=None, seed=0, split="dev")
    opened = sealed.to_open(results, on_dev, tuple(rows), everything=False)
    tested = [
        Candidate(
            rung=one.rung,
            system=one.rung,
            order=one.order,
            measurement=scored(rows, answered(test[one.order]), "test"),
            usd_per_1000=0.0,
        )
        for one in results
        if one.rung in opened
    ]
    margin = on_dev.margin if on_dev.chosen is not None else None
    decision = decide(tested, targets=targets, groups=None, seed=0, split="test", margin=margin)
    return decision, asked / (count * len(truths))


def drawn(truths: Sequence[float], count: int, dice: np.random.Generator) -> np.ndarray:
    """Whether each rung is right on each row: [rungs, rows]."""
    from scipy.stats import norm

    mixed = math.sqrt(ALIKE) * dice.normal(size=(1, count)) + math.sqrt(1 - ALIKE) * dice.normal(
        size=(len(truths), count)
    )
    return mixed < norm.ppf(truths)[:, None]


def answered(right: np.ndarray) -> list[Answer]:
    return [Answer(text="", value="yes" if one else "no") for one in right]


def scored(rows: Sequence[Example], answers: Sequence[Answer], split: str):
    return measurement(
        system="s", split=split, metric="accuracy", examples=rows[: len(answers)], answers=answers
    )


def candidates(results: Sequence[RungResult], split: str) -> list[Candidate]:
    return [
        Candidate(
            rung=one.rung,
            system=one.rung,
            order=one.order,
            measurement=one.dev,
            usd_per_1000=0.0,
            stopped=one.stopped,
        )
        for one in results
        if one.dev is not None
    ]


def shares(truths: Sequence[float], found: Sequence[tuple[Decision, float]]) -> tuple[str, ...]:
    """The shares of a row of the table, each with its standard error."""
    best = max(truths)
    ideal = next(at for at, truth in enumerate(truths) if truth >= best - 1e-9)
    picked = false = dear = cheap = undecided = 0
    for decision, _ in found:
        at = int((decision.chosen or "rung -1").split()[1])
        undecided += decision.kind == "undecided"
        picked += at == ideal
        false += at > 0 and truths[at] <= truths[0] + 1e-9
        dear += any(truths[lower] >= truths[at] - 1e-9 for lower in range(at))
        cheap += truths[at] < best - MIN_GAIN - 1e-9 and decision.kind != "undecided"
    return (
        *(share(count, len(found)) for count in (picked, false, dear, cheap, undecided)),
        f"{sum(part for _, part in found) / len(found):.0%}",
    )


def share(count: int, of: int) -> str:
    found = count / of
    return f"{found:.1%} ± {math.sqrt(found * (1 - found) / of):.1%}"


if __name__ == "__main__":
    main()
