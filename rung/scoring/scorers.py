"""The metrics: one table of pure functions from answers and targets to scores.

A metric is either the mean of its rows' scores or, like macro-F1, a number of the whole set. The second
sort carries its set in arrays of codes, so that resampling it thousands of times is cheap.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rung.records import Json, MetricName, OutputKind
from rung.scoring import fields
from rung.scoring.calls import same_calls, same_names
from rung.scoring.execution import right, runs
from rung.scoring.extract import words
from rung.scoring.fields import spaced
from rung.scoring.leaves import same_value
from rung.scoring.style import passing, placements
from rung.task.accepted import bare_calls

if TYPE_CHECKING:
    import numpy as np

    Codes: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# An error larger than this is cut off, so that squares and sums of errors stay finite.
_MAX_ERROR = 1e100


@dataclass(frozen=True, kw_only=True, slots=True)
class SetMetric:
    """A metric of a whole set: `encode` turns (answers, targets) into arrays, `of_codes` scores those.

    `encode` gives the same codes for the targets whatever the answers are, so two Systems' codes may be
    mixed row by row.
    """

    encode: "Callable[[Sequence[Json], Sequence[Json]], tuple[Codes, Codes]]"
    of_codes: "Callable[[Codes, Codes], float]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A metric: the score of one row, which way is up, and the set metric where the mean won't do.

    `row(answer, target)` is only asked about readable answers. `binary` rows score 0 or 1. Metrics with
    `shares` have 1 at their top, and 0.01 of them is a point; the others are in the task's own units.
    """

    name: MetricName
    kinds: frozenset[OutputKind]
    row: Callable[[Json, Json], float]
    higher_is_better: bool = True
    binary: bool = False
    shares: bool = True
    of_set: SetMetric | None = None

    @property
    def mean_of_rows(self) -> bool:
        """Whether the metric of a set is the mean of its rows' scores."""
        return self.of_set is None

    def rows(self, answers: Sequence[Json], targets: Sequence[Json]) -> list[float]:
        """Score each row; an unreadable answer (None) gets the worst score."""
        worst = 0.0 if self.higher_is_better else worst_error(targets)
        pairs = zip(answers, targets, strict=True)
        return [worst if answer is None else self.row(answer, target) for answer, target in pairs]

    def summary(self, answers: Sequence[Json], targets: Sequence[Json]) -> float:
        """Score the whole set. ValueError without rows."""
        if not targets:
            raise ValueError(f"{self.name} of no rows")
        if self.of_set is not None:
            return self.of_set.of_codes(*self.of_set.encode(answers, targets))
        return math.fsum(self.rows(answers, targets)) / len(targets)


def target_range(targets: Sequence[Json]) -> float:
    """The distance between the smallest and the largest numeric target, in the task's units."""
    values = [_float(target) for target in targets]
    return max(values) - min(values)


def worst_error(targets: Sequence[Json]) -> float:
    """The error that an unreadable answer counts for: the targets' range.

    Where all targets are equal it is their size, or 1 if they are 0, so that silence never scores well.
    """
    return target_range(targets) or max(abs(_float(target)) for target in targets) or 1.0


def secondary(
    metric: MetricName, answers: Sequence[Json], targets: Sequence[Json]
) -> tuple[tuple[str, float], ...]:
    """The other numbers worth showing beside `metric`, as (name, value); the same names for every System.

    `readable` is the share of answers that could be read as the task's kind; `micro_f1` pools the fields of
    all rows; `runs` is the share of answers that hold a query which runs.
    """
    shown: list[tuple[str, float]] = []
    if metric == "exact":
        targets = [bare_calls(target) for target in targets]
    for name in _beside_exact(targets) if metric == "exact" else _BESIDE[metric]:
        if name == "micro_f1":
            shown.append((name, micro_f1(answers, targets)))
        elif name == "names_right":
            pairs = zip(answers, targets, strict=True)
            same = sum(same_names(answer, target) for answer, target in pairs if answer is not None)
            shown.append((name, same / len(targets)))
        elif name == "runs":
            pairs = zip(answers, targets, strict=True)
            ran = sum(runs(answer, target) for answer, target in pairs if answer is not None)
            shown.append((name, ran / len(targets)))
        else:
            shown.append((name, SCORERS[name].summary(answers, targets)))
    readable = sum(answer is not None for answer in answers) / len(targets)
    return (*shown, ("readable", readable))


def micro_f1(answers: Sequence[Json], targets: Sequence[Json]) -> float:
    """F1 over the fields of all rows pooled: long rows weigh more than in `field_f1`."""
    shared = total = 0
    for answer, target in zip(answers, targets, strict=True):
        wanted = fields.parts(target)
        total += fields.count(wanted)
        if answer is not None:
            given = fields.parts(answer)
            shared += fields.shared(given, wanted)
            total += fields.count(given)
    return 2 * shared / total


def _same(answer: Json, target: Json) -> float:
    """1 if the values are equal: 1 is 1.0 but not true; key order, and white space in text, don't count."""
    if isinstance(answer, str) and isinstance(target, str):
        return float(spaced(answer) == spaced(target))
    # The calls of a row may say what else is right, which no answer says; here they alone count.
    return float(same_value(answer, target) or same_value(answer, bare_calls(target)))


def _field_f1(answer: Json, target: Json) -> float:
    """F1 of the (path, value) leaves of one row. Items of a list have no order.

    The objects in a list are matched one to one, so that the F1 is the highest: values that stand in another
    object than they should are wrong.
    The metric of a set is the mean over rows, not the pooled F1, because only a mean can be compared
    row by row between two Systems.
    """
    return micro_f1([answer], [target]) if answer is not None else 0.0


class _Words:
    """The tokenizer that `rouge_score` asks for."""

    def tokenize(self, text: str) -> list[str]:
        """Split `text` into words of any script."""
        return words(text)


@cache
def _rouge() -> Any:
    """The reference implementation of ROUGE-L, with a tokenizer that also knows letters beyond ASCII."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _rouge_l(answer: Json, target: Json) -> float:
    """ROUGE-L F-measure (Lin 2004), 1 where the texts are equal but have no words."""
    given, wanted = str(answer), str(target)
    if spaced(given) == spaced(wanted):
        return 1.0
    return float(_rouge().score(wanted, given)["rougeL"].fmeasure)


def _judged(answer: Json, target: Json) -> float:
    """The judge's verdict, which stands in the answer's place: 1 a win over the target, 0 a loss, .5 else."""
    return _float(answer)


def _absolute_error(answer: Json, target: Json) -> float:
    """|answer - target| in the task's units."""
    return min(abs(_float(answer) - _float(target)), _MAX_ERROR)


def _float(value: Json) -> float:
    """The value as a float; ValueError if it isn't a number, which a checked row can't have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"not a number: {value!r}")
    return float(value)


def _key(value: Json) -> str:
    """One text for what counts as equal, to count and code it by."""
    return json.dumps(spaced(value) if isinstance(value, str) else value, sort_keys=True)


def _encode_classes(answers: Sequence[Json], targets: Sequence[Json]) -> "tuple[Codes, Codes]":
    """Number the targets' classes from 0; one more number is for other answers, and no answer."""
    import numpy as np

    codes = {key: code for code, key in enumerate(sorted(set(map(_key, targets))))}
    given = [len(codes) if answer is None else codes.get(_key(answer), len(codes)) for answer in answers]
    return np.array(given), np.array([codes[_key(target)] for target in targets])


def _macro_f1(answers: "Codes", targets: "Codes") -> float:
    """Mean over the targets' classes of 2·tp / (answered + wanted).

    That is scikit-learn's `f1_score(average="macro", zero_division=0)` with `labels` set to the classes
    among the targets, so two Systems always share a denominator.
    """
    import numpy as np

    wanted = np.bincount(targets)
    given = np.bincount(answers, minlength=wanted.size)[: wanted.size]
    hits = np.bincount(targets[targets == answers], minlength=wanted.size)
    # A resample may lack a class: it has no hits then, and doesn't count.
    return float((2 * hits / np.maximum(wanted + given, 1)).sum() / np.count_nonzero(wanted))


def _encode_numbers(answers: Sequence[Json], targets: Sequence[Json]) -> "tuple[Codes, Codes]":
    """Numbers as floats, an unreadable answer as NaN."""
    import numpy as np

    given = [math.nan if answer is None else _float(answer) for answer in answers]
    return np.array(given, dtype=float), np.array([_float(target) for target in targets], dtype=float)


def _spearman(answers: "Codes", targets: "Codes") -> float:
    """Spearman's rank correlation of the readable answers, times the share that is readable.

    Where it's undefined (fewer than two readable answers, or all answers or all targets equal) it is 0,
    as no order was shown; but 1 if every answer equals its target.
    """
    import numpy as np

    if np.array_equal(answers, targets):
        return 1.0
    readable = ~np.isnan(answers)
    if readable.sum() < 2:
        return 0.0
    given, wanted = _ranks(answers[readable]), _ranks(targets[readable])
    given -= given.mean()
    wanted -= wanted.mean()
    size = math.sqrt(float(given @ given) * float(wanted @ wanted))
    return float(given @ wanted) / size * float(readable.mean()) if size else 0.0


def _ranks(values: "Codes") -> "Codes":
    """The rank of each, equal ones having the mean of theirs; a quarter of the time of scipy's `rankdata`."""
    import numpy as np

    order = np.sort(values)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") + 1) / 2


def _table(*scorers: Scorer) -> Mapping[MetricName, Scorer]:
    """Index the scorers by name."""
    return {scorer.name: scorer for scorer in scorers}


SCORERS: Mapping[MetricName, Scorer] = _table(
    Scorer(name="accuracy", kinds=frozenset({"label", "text"}), row=_same, binary=True),
    Scorer(
        name="macro_f1",
        kinds=frozenset({"label"}),
        row=_same,
        of_set=SetMetric(encode=_encode_classes, of_codes=_macro_f1),
    ),
    Scorer(name="field_f1", kinds=frozenset({"json"}), row=_field_f1),
    Scorer(
        name="exact",
        kinds=frozenset({"label", "json", "text", "number", "tool_call"}),
        row=_same,
        binary=True,
    ),
    Scorer(name="tool_call", kinds=frozenset({"tool_call"}), row=same_calls, binary=True),
    Scorer(name="execution", kinds=frozenset({"text"}), row=right, binary=True),
    Scorer(name="rouge_l", kinds=frozenset({"text"}), row=_rouge_l),
    Scorer(
        name="style",
        kinds=frozenset({"text"}),
        row=_same,
        of_set=SetMetric(encode=placements, of_codes=passing),
    ),
    Scorer(
        name="mae",
        kinds=frozenset({"number"}),
        row=_absolute_error,
        higher_is_better=False,
        shares=False,
    ),
    Scorer(
        name="spearman",
        kinds=frozenset({"number"}),
        row=_same,
        of_set=SetMetric(encode=_encode_numbers, of_codes=_spearman),
    ),
    Scorer(name="judge", kinds=frozenset({"text"}), row=_judged),
)
"""Every metric, by name. Those of a whole set score rows by equality, to show which were right.

`judge` scores verdicts: what asks the model that gives them puts each in its answer's place.
"""

_Shown: TypeAlias = MetricName | Literal["micro_f1", "names_right", "runs"]

_BESIDE: Mapping[MetricName, tuple[_Shown, ...]] = {
    "accuracy": ("macro_f1",),
    "macro_f1": ("accuracy",),
    "field_f1": ("exact", "micro_f1"),
    "rouge_l": ("exact",),
    "style": ("rouge_l",),
    "tool_call": ("names_right",),
    "execution": ("runs", "exact"),
    "mae": ("spearman",),
    "spearman": ("mae",),
    "judge": (),
}


def _beside_exact(targets: Sequence[Json]) -> tuple[_Shown, ...]:
    """What to show beside `exact`, which knows every kind of output: it depends on the targets."""
    if any(isinstance(target, (dict, list)) for target in targets):
        return ("field_f1", "micro_f1")
    if all(isinstance(target, (int, float)) and not isinstance(target, bool) for target in targets):
        return ("mae", "spearman")
    return ()
