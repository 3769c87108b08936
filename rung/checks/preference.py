"""Pairs of a chosen and a rejected answer: whether what sets them apart is worth learning."""

import math
from collections.abc import Sequence
from statistics import mean, variance

from rung.checks.base import Outcome, Subject, finding, rows_text, such_as
from rung.records import Example, Finding
from rung.task.outputs import canonical

LENGTH_WARN, LENGTH_BLOCK = 0.3, 0.8
"""Of Cohen's d; .2, .5 and .8 are its small, medium and large."""
COPIED = 40
"""Characters in a row that stand in the prompt, too."""
COPIED_BLOCK = 0.1


def preferences(subject: Subject) -> Outcome:
    """Answers that don't differ, that differ in length above all, or that repeat the prompt."""
    rows = [row for row in subject.rows if row.rejected is not None]
    found = [_equal(rows), _by_length(rows), _copied(rows)] if rows else []
    return [one for one in found if one is not None]


def _equal(rows: Sequence[Example]) -> Finding | None:
    same = [row for row in rows if " ".join(_chosen(row).split()) == " ".join(_rejected(row).split())]
    if not same:
        return None
    message = (
        f"chosen and rejected answers that are equal: {rows_text(len(same))}, {such_as(same)}; nothing is "
        "preferred there: correct them or delete the rows"
    )
    return finding("preferences", "block", message, same)


def _by_length(rows: Sequence[Example]) -> Finding | None:
    """Cohen's d of the lengths in characters: the difference of means by the pooled standard deviation."""
    effect = cohens_d([len(_chosen(row)) for row in rows], [len(_rejected(row)) for row in rows])
    if abs(effect) < LENGTH_WARN:
        return None
    longer = "longer" if effect > 0 else "shorter"
    message = (
        f"chosen answers are {longer} than rejected ones: {mean(len(_chosen(row)) for row in rows):,.0f} "
        f"against {mean(len(_rejected(row)) for row in rows):,.0f} characters (Cohen's d {effect:+.2f}); "
        f"whoever learns from them learns to write {longer} answers: add pairs of like length"
    )
    return finding("preferences", "block" if abs(effect) >= LENGTH_BLOCK else "warn", message, rows)


def _copied(rows: Sequence[Example]) -> Finding | None:
    hits = [row for row in rows if copies(row.input, _chosen(row))]
    if len(hits) < COPIED_BLOCK * len(rows):
        return None
    message = (
        f"chosen answers with {COPIED} characters and more of their prompt: {rows_text(len(hits))} "
        f"({len(hits) / len(rows):.1%}), {such_as(hits)}; a model would learn to repeat the question: cut "
        "the prompt out of the answers, or go on with --accept preferences"
    )
    return finding("preferences", "block", message, hits)


def cohens_d(one: Sequence[int], other: Sequence[int]) -> float:
    """(mean of one - mean of other) / √(mean of the variances); 0 for fewer than two values each."""
    if min(len(one), len(other)) < 2:
        return 0.0
    difference = mean(one) - mean(other)
    spread = math.sqrt((variance(one) + variance(other)) / 2)
    if not spread:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


def copies(text: str, answer: str, length: int = COPIED) -> bool:
    """Whether `length` characters in a row of the answer stand in the text.

    Such a run covers one of the text's pieces of half that length: only where one is found is more compared.
    """
    half = length // 2
    places: dict[str, list[int]] = {}
    for start in range(0, len(text) - half + 1, half):
        places.setdefault(text[start : start + half], []).append(start)
    for at in range(len(answer) - half + 1):
        for start in places.get(answer[at : at + half], ()):
            back = 0
            while back < min(at, start, half) and answer[at - back - 1] == text[start - back - 1]:
                back += 1
            run = answer[at - back : at - back + length]
            if len(run) == length and text.startswith(run, start - back):
                return True
    return False


def _chosen(row: Example) -> str:
    return row.output if isinstance(row.output, str) else canonical(row.output)


def _rejected(row: Example) -> str:
    assert row.rejected is not None, "only rows with a pair are looked at"
    return row.rejected
