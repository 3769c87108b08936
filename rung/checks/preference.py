"""Chosen answers beside rejected ones, or desirable beside undesirable ones: what sets them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, variance

from rung.checks.base import Outcome, Subject, finding, rows_text, such_as
from rung.records import Example, Finding, OutputKind, Severity
from rung.task.accepted import bare_calls
from rung.task.calls import rejected_calls
from rung.task.outputs import canonical

LENGTH_WARN, LENGTH_BLOCK = 0.3, 0.8
"""Of Cohen's d; .2, .5 and .8 are its small, medium and large."""
COPIED = 40
"""Characters in a row that stand in the prompt, too."""
COPIED_BLOCK = 0.1
MINORITY_WARN, MINORITY_BLOCK = 0.2, 0.05
"""Of the judged answers: the share of those judged as fewer are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """The better answers with their rows, in parallel, and the worse ones; `names` say what each are called.

    `unit` is what to add where one side differs.
    """

    names: tuple[str, str]
    unit: str
    rows: Sequence[Example]
    better: Sequence[str]
    worse: Sequence[str]


def preferences(subject: Subject) -> Outcome:
    """Answers that don't differ, that differ in length above all, or that repeat the prompt.

    Where each answer is judged for itself, also hardly any that are desirable, or that aren't.
    """
    found = []
    pairs = [row for row in subject.rows if row.rejected is not None]
    if pairs:
        sides = Sides(
            names=("chosen", "rejected"),
            unit="pairs",
            rows=pairs,
            better=[_answer(row) for row in pairs],
            worse=[_rejected(row, subject.task.output.kind) for row in pairs],
        )
        found += [_equal(sides), _by_length(sides), _copied(sides)]
    if subject.undesirable is not None:
        judged = (*subject.split, *subject.splits.removed)
        sides = Sides(
            names=("desirable", "undesirable"),
            unit="answers",
            rows=judged,
            better=[_answer(row) for row in judged],
            worse=[_answer(row) for row in subject.undesirable],
        )
        found += [_minority(sides, subject.undesirable), _by_length(sides), _copied(sides)]
    return [one for one in found if one is not None]


def _minority(sides: Sides, undesirable: Sequence[Example]) -> Finding | None:
    """The share of the rarer judgement among all, as Soup has it."""
    desired, others = len(sides.better), len(sides.worse)
    share = min(desired, others) / (desired + others)
    if share >= MINORITY_WARN:
        return None
    grave: Severity = "block" if share < MINORITY_BLOCK else "warn"
    rare, rows = ("undesirable", undesirable) if others < desired else ("desirable", sides.rows)
    few = f"{share:.1%} are {rare}" if others else "none is undesirable"
    message = (
        f"{desired:,} desirable answers beside {others:,} undesirable ones: {few}, and a "
        f"model that learns from both learns next to nothing from so few; add {rare} ones up to a fifth"
    )
    if grave == "block":
        message += ", or go on with --accept preferences"
    return finding("preferences", grave, message, rows)


def _equal(sides: Sides) -> Finding | None:
    answers = zip(sides.rows, sides.better, sides.worse, strict=True)
    same = [row for row, one, other in answers if " ".join(one.split()) == " ".join(other.split())]
    if not same:
        return None
    message = (
        f"chosen and rejected answers that are equal: {rows_text(len(same))}, {such_as(same)}; nothing is "
        "preferred there: correct them or delete the rows"
    )
    return finding("preferences", "block", message, same)


def _by_length(sides: Sides) -> Finding | None:
    """Cohen's d of the lengths in characters: the difference of means by the pooled standard deviation."""
    better, worse = [len(one) for one in sides.better], [len(one) for one in sides.worse]
    effect = cohens_d(better, worse)
    if abs(effect) < LENGTH_WARN:
        return None
    longer = "longer" if effect > 0 else "shorter"
    message = (
        f"{sides.names[0]} answers are {longer} than {sides.names[1]} ones: {mean(better):,.0f} "
        f"against {mean(worse):,.0f} characters (Cohen's d {effect:+.2f}); "
        f"whoever learns from them learns to write {longer} answers: add {sides.unit} of like length"
    )
    return finding("preferences", "block" if abs(effect) >= LENGTH_BLOCK else "warn", message, sides.rows)


def _copied(sides: Sides) -> Finding | None:
    answers = zip(sides.rows, sides.better, strict=True)
    hits = [row for row, answer in answers if copies(row.input, answer)]
    if not hits or len(hits) < COPIED_BLOCK * len(sides.rows):
        return None
    message = (
        f"{sides.names[0]} answers with {COPIED} characters and more of their prompt: {rows_text(len(hits))} "
        f"({len(hits) / len(sides.rows):.1%}), {such_as(hits)}; a model would learn to repeat the question: "
        "cut the prompt out of the answers, or go on with --accept preferences"
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


def _answer(row: Example) -> str:
    return row.output if isinstance(row.output, str) else canonical(bare_calls(row.output))


def _rejected(row: Example, kind: OutputKind | None) -> str:
    """The rejected answer, calls as `_answer` spells the chosen ones."""
    calls = rejected_calls(row.rejected or "", row.context) if kind == "tool_call" else None
    return row.rejected or "" if calls is None else canonical(bare_calls(calls))
