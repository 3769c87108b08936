"""Decisions: what two wire shapes ask of a label System, answered from its labels' probabilities. Pure.

`/v1/decisions` is OpenAI's shape, `/v1/systemone` TypeSafe's and llama.cpp's. A System answers one question,
the one that it was made for: `instructions` and descriptions aren't read. Questions only say which of its
labels they are about.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rung.records import Json
from rung.serve.decision_wire import (
    MOST_CHOICES,
    MOST_LEVELS,
    Answer,
    Choice,
    ChoiceAnswer,
    ChoiceProbability,
    ChoiceValue,
    Decision,
    DecisionRequest,
    Predicate,
    PredicateAnswer,
    Question,
    ScoreAnswer,
    ScoreProbability,
    SystemOneAnswer,
    SystemOneChoice,
    SystemOneDecision,
    SystemOneNoul,
    SystemOneQuestion,
    SystemOneRequest,
    SystemOneScore,
    SystemOneUsage,
    Usage,
)
from rung.task.outputs import shown

YES_NO = (
    ("yes", "no"),
    ("true", "false"),
    ("1", "0"),
    ("y", "n"),
    ("t", "f"),
    ("positive", "negative"),
    ("pos", "neg"),
    ("on", "off"),
)
"""Pairs of labels that read as yes and no, in any case."""
SHOWN_LABELS = 20

Asked: TypeAlias = Callable[[Sequence[Json]], str]
"""A System's input text from messages {"role", "content"}. Raises ValueError for what it can't read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A System's labels and, in the same order, their calibrated probabilities for one input."""

    labels: Sequence[str]
    probabilities: Sequence[float]

    def among(self, chosen: Sequence[str]) -> list[float]:
        """The probabilities of these labels alone: they sum to one."""
        of = dict(zip(self.labels, self.probabilities, strict=True))
        total = sum(of[label] for label in chosen)
        return [of[label] / total if total > 0 else 1 / len(chosen) for label in chosen]

    def of(self, label: str) -> float:
        """The probability of one label."""
        return float(self.probabilities[list(self.labels).index(label)])


def input_text(given: Json, asked: Asked) -> str:
    """The System's input text from OpenAI's `input` or System One's `state`.

    A text is taken as it is; a list with messages in it, bare or as {"messages": …}, by `asked`; any other
    JSON is written out. Raises ValueError for what `asked` can't read.
    """
    if isinstance(given, str):
        return given
    turns = given["messages"] if isinstance(given, dict) and set(given) == {"messages"} else given
    if isinstance(turns, list) and any(isinstance(turn, dict) and "role" in turn for turn in turns):
        return asked(turns)
    return json.dumps(given, ensure_ascii=False)


def check_questions(questions: Sequence[Question], labels: Sequence[str]) -> None:
    """Raise the ValueError of `answers` before anything is asked."""
    answers(questions, labels, [1 / len(labels)] * len(labels))


def check_systemone(questions: Mapping[str, SystemOneQuestion], labels: Sequence[str]) -> None:
    """Raise the ValueError of `systemone_answers` before anything is asked."""
    systemone_answers(questions, labels, [1 / len(labels)] * len(labels))


def answers(
    questions: Sequence[Question], labels: Sequence[str], probabilities: Sequence[float]
) -> list[Answer]:
    """An answer to each question of OpenAI's shape, from probabilities that run parallel to the labels.

    Raises ValueError, with the System's labels in its message, for a question that isn't about them.
    """
    known = Known(labels=labels, probabilities=probabilities)
    return [
        _answer(question, known, f"questions.{number}" + (f" ({question.name!r})" if question.name else ""))
        for number, question in enumerate(questions)
    ]


def decision(
    request: DecisionRequest, labels: Sequence[str], probabilities: Sequence[float], input_tokens: int
) -> Decision:
    """What POST /v1/decisions answers. Raises ValueError as `answers` does."""
    return Decision(
        model=request.model,
        answers=answers(request.questions, labels, probabilities),
        usage=Usage(input_tokens=input_tokens, total_tokens=input_tokens),
    )


def systemone_answers(
    questions: Mapping[str, SystemOneQuestion], labels: Sequence[str], probabilities: Sequence[float]
) -> dict[str, SystemOneAnswer]:
    """An answer to each question of System One's shape, by name. Raises ValueError as `answers` does."""
    known = Known(labels=labels, probabilities=probabilities)
    return {name: _systemone(name, question, known) for name, question in questions.items()}


def systemone_decision(
    request: SystemOneRequest, labels: Sequence[str], probabilities: Sequence[float], input_tokens: int
) -> SystemOneDecision:
    """What POST /v1/systemone answers. Raises ValueError as `answers` does."""
    return SystemOneDecision(
        model=request.model,
        answers=systemone_answers(request.questions, labels, probabilities),
        usage=SystemOneUsage(input_tokens=input_tokens),
    )


def choice_confidence(probabilities: Sequence[float]) -> float:
    """How far the likeliest of n options is above 1 / n: 0 where all are alike, 1 where it has all.

    (p - 1 / n) / (1 - 1 / n), as TypeSafe and llama.cpp's server have it.
    """
    uniform = 1 / len(probabilities)
    return min(1.0, max(0.0, (max(probabilities) - uniform) / (1 - uniform)))


def score_confidence(probabilities: Sequence[float]) -> float:
    """How near the levels are to the likeliest one: 1 where it has all, 0 where they are as far as if all
    were alike around the middle.

    1 - (mean distance to it) / (mean distance to the middle of n levels that are alike), as llama.cpp's
    server has it.
    """
    n, top = len(probabilities), max(range(len(probabilities)), key=probabilities.__getitem__)
    mean = sum(p * abs(level - top) for level, p in enumerate(probabilities))
    alike = sum(abs(level - (n - 1) / 2) for level in range(n)) / n
    return min(1.0, max(0.0, 1 - mean / alike))


def _answer(question: Question, known: Known, where: str) -> Answer:
    if isinstance(question, Predicate):
        label = _truth(question.name, known.labels, where)
        return PredicateAnswer(name=question.name, probability=known.of(label))
    if isinstance(question, Choice):
        values = [option.value for option in question.choices]
        found = known.among(_options(values, known.labels, where))
        return ChoiceAnswer(
            name=question.name,
            choice=values[found.index(max(found))],
            confidence=choice_confidence(found),
            probabilities=[
                ChoiceProbability(value=value, probability=p) for value, p in zip(values, found, strict=True)
            ],
        )
    names = [level.label for level in question.levels]
    found = known.among(_levels(names, known.labels, where))
    return ScoreAnswer(
        name=question.name,
        score=_expected(found),
        confidence=score_confidence(found),
        probabilities=[
            ScoreProbability(label=name, value=value, probability=p)
            for value, (name, p) in enumerate(zip(names, found, strict=True))
        ],
    )


def _systemone(name: str, question: SystemOneQuestion, known: Known) -> SystemOneAnswer:
    where, criteria = f"questions.{name}", question.criteria
    if question.type == "noul":
        if criteria is not None and not isinstance(criteria, dict):
            raise ValueError(f"{where}: criteria of a noul are an object; got {shown(criteria)}")
        return SystemOneNoul(noul=known.of(_truth(name, known.labels, where)))
    if question.type == "choice":
        if not isinstance(criteria, dict) or not 2 <= len(criteria) <= MOST_CHOICES:
            raise ValueError(
                f"{where}: criteria of a choice are an object of 2 to {MOST_CHOICES} options; got "
                f"{shown(criteria)}"
            )
        options = list(criteria)
        found = known.among(_options(options, known.labels, where))
        return SystemOneChoice(
            choice=options[found.index(max(found))],
            confidence=choice_confidence(found),
            probabilities=dict(zip(options, found, strict=True)),
        )
    if not isinstance(criteria, list) or not 2 <= len(criteria) <= MOST_LEVELS:
        raise ValueError(
            f"{where}: criteria of a score are a list of 2 to {MOST_LEVELS} levels; got {shown(criteria)}"
        )
    found = known.among(_levels([_spelled(level) for level in criteria], known.labels, where))
    return SystemOneScore(
        score=_expected(found),
        legend={str(value): level for value, level in enumerate(criteria)},
        probabilities={str(value): p for value, p in enumerate(found)},
        confidence=score_confidence(found),
    )


def _expected(probabilities: Sequence[float]) -> float:
    return sum(level * p for level, p in enumerate(probabilities))


def _spelled(level: Json) -> str:
    """A level as a label would be spelled."""
    return level if isinstance(level, str) else json.dumps(level, ensure_ascii=False)


def _truth(name: str | None, labels: Sequence[str], where: str) -> str:
    """The label whose probability a yes/no question asks for: the one of its name, or the one for yes."""
    if name is not None and (named := _label(name, labels)) is not None:
        return named
    pair = _yes_no(labels)
    if pair is None:
        raise ValueError(
            f"{where}: a yes/no question needs a System of two labels that read as yes and no, or the name "
            f"of the label that it asks about; {_said(labels)}"
        )
    return pair[0]


def _options(values: Sequence[ChoiceValue], labels: Sequence[str], where: str) -> list[str]:
    """The labels that the options of a choice stand for. Raises ValueError unless each has one of its own."""
    pair = _yes_no(labels)
    found = []
    for value in values:
        if isinstance(value, bool):
            label = None if pair is None else pair[0 if value else 1]
        else:
            label = _label(value, labels)
        if label is None:
            raise ValueError(f"{where}: the option {shown(value)} is no label; {_said(labels)}")
        if label in found:
            raise ValueError(f"{where}: two options stand for the label {label!r}; {_said(labels)}")
        found.append(label)
    return found


def _levels(names: Sequence[str], labels: Sequence[str], where: str) -> list[str]:
    """The labels that the levels of a score stand for, in the levels' order.

    Levels that aren't labels stand for labels that are numbers, as many of them, in the order of their value.
    """
    found = [_label(name, labels) for name in names]
    if all(label is not None for label in found):
        return _options(names, labels, where)
    numbers = {label: number for label in labels if (number := _number(label)) is not None}
    if not any(found) and len(numbers) == len(labels) == len(names):
        return sorted(labels, key=numbers.__getitem__)
    missing = names[found.index(None)]
    raise ValueError(
        f"{where}: the level {shown(missing)} is no label, and {len(names)} levels don't stand for numbers; "
        f"{_said(labels)}"
    )


def _label(name: str, labels: Sequence[str]) -> str | None:
    """The label of that name: spelled just so, else the only one that differs in case and outer blanks."""
    if name in labels:
        return name
    alike = [label for label in labels if label.strip().casefold() == name.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def _yes_no(labels: Sequence[str]) -> tuple[str, str] | None:
    """The labels for yes and for no, where there are two that read so."""
    of = {label.strip().casefold(): label for label in labels}
    if len(labels) != 2 or len(of) != 2:
        return None
    return next(((of[yes], of[no]) for yes, no in YES_NO if yes in of and no in of), None)


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _said(labels: Sequence[str]) -> str:
    """The System's labels for a message."""
    more = f" and {len(labels) - SHOWN_LABELS:,} more" if len(labels) > SHOWN_LABELS else ""
    return "the System's labels are " + ", ".join(map(repr, labels[:SHOWN_LABELS])) + more
