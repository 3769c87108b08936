"""The best of one and the same answer to every row: what a System that learned anything has to beat."""

from collections import Counter
from collections.abc import Sequence
from statistics import median_low
from typing import TypeVar

from rung.records import Json, MetricName
from rung.scoring.scorers import SCORERS
from rung.task.accepted import bare_calls
from rung.task.outputs import canonical

T = TypeVar("T")

CANDIDATES = 16
ROWS = 256
"""So many outputs are tried as the answer, on so many rows: ROUGE-L of all pairs would take minutes."""

_UNKNOWN: frozenset[MetricName] = frozenset({"style", "judge", "spearman"})
"""One answer has no rank; what it's worth in style, or to a judge, isn't known from the outputs."""
_COMMONEST: frozenset[MetricName] = frozenset({"accuracy", "exact", "macro_f1", "execution"})
"""Of these the commonest output is the best one, or, of queries, the only one worth running."""


def constant_answer(outputs: Sequence[Json], metric: MetricName) -> Json | None:
    """The answer that, given to every row, scores best on these outputs; None where that isn't known.

    The commonest output where answers are right or wrong as a whole, the median of numbers, which no other
    answer has a smaller mean absolute error than; of other metrics the best of the `CANDIDATES` commonest
    outputs, filled up with some from all over the rows, on `ROWS` of them.
    """
    if metric in _UNKNOWN or not outputs:
        return None
    if metric == "mae":
        return median_low([float(value) for value in outputs if isinstance(value, (int, float))])
    answers = [_as_answer(output) for output in outputs]
    by_key = {canonical(answer): answer for answer in answers}
    counted = Counter(map(canonical, answers)).most_common()
    if metric in _COMMONEST:
        return by_key[counted[0][0]]
    common = [key for key, count in counted if count > 1][:CANDIDATES]
    once = [key for key, count in counted if count == 1]
    tried = common + spread(once, CANDIDATES - len(common))
    rows = spread(outputs, ROWS)
    scorer = SCORERS[metric]
    return max((by_key[key] for key in tried), key=lambda answer: scorer.summary([answer] * len(rows), rows))


def spread(values: Sequence[T], count: int) -> list[T]:
    """So many of the values, evenly from the first on; all where there are no more."""
    if len(values) <= count:
        return list(values)
    return [values[at * len(values) // count] for at in range(count)]


def _as_answer(output: Json) -> Json:
    """What a System would have to say: a query without its tables, calls without what else they accept."""
    return str(output) if isinstance(output, str) else bare_calls(output)
