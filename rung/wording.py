"""The words of a prompt: questions, worked examples and answers as text, and what a vector is made of."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from rung.models.chat import Message
from rung.records import Example, Json, OutputKind, Passage
from rung.task.accepted import bare_calls
from rung.task.order import in_order

_EXPONENT = re.compile(r"\de[-+]\d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One worked example of the prompt."""

    input: str
    output: str


def messages(instruction: str | None, example: Example, shots: Sequence[Shot] = ()) -> list[Message]:
    """The conversation that ends where the answer begins."""
    turns = [Message(role="system", content=instruction)] if instruction else []
    for shot in shots:
        turns.append(Message(role="user", content=shot.input))
        turns.append(Message(role="assistant", content=shot.output))
    return [*turns, Message(role="user", content=question(example))]


def question(example: Example) -> str:
    """The user's turn: the context, where the row has one, then the input."""
    return f"{example.context}\n\n{example.input}" if example.context else example.input


def with_passages(example: Example, passages: Sequence[Passage]) -> Example:
    """The row with passages before its context, the best one last, next to the question."""
    if not passages:
        return example
    parts = [passage_text(one) for one in reversed(passages)]
    return replace(example, context="\n\n".join([*parts, example.context] if example.context else parts))


def passage_text(passage: Passage) -> str:
    """A passage as it is searched and shown: under its title, without the headings that are part of that."""
    rest = passage.text
    while rest.startswith("#"):
        line, _, after = rest.partition("\n")
        if not after.strip() or line.strip("# \t") not in passage.title:
            break
        rest = after.lstrip()
    return f"{passage.title}\n{rest}" if passage.title else passage.text


def embedded_text(example: Example) -> str:
    """What a sentence vector is made of: the input first, since a vector sees the first 256 tokens only."""
    return f"{example.input}\n\n{example.context}" if example.context else example.input


def label_texts(labels: Sequence[str]) -> list[str]:
    """Labels as words a model knows: underscores become spaces, unless that makes two labels the same."""
    plain = [label.replace("_", " ").strip() for label in labels]
    counts = Counter(plain)
    return [text if counts[text] == 1 else label for text, label in zip(plain, labels, strict=True)]


def answer_text(output: Json, kind: OutputKind, *, labels: Sequence[str] = (), schema: Json = None) -> str:
    """A target as the text that a model should write.

    JSON comes without white space, with its keys in the schema's order and without exponents, a number
    without one too, and a whole one without a fraction, a label as `label_texts` spells it.
    """
    if kind == "label":
        known = dict(zip(labels, label_texts(labels), strict=True))
        return known.get(str(output), str(output))
    if kind == "tool_call":
        return _compact(bare_calls(output))
    if kind == "json":
        return _compact(in_order(output, schema))
    return _decimal(output) if kind == "number" and isinstance(output, float) else str(output)


def _compact(value: Json) -> str:
    """JSON without white space, its numbers without exponents: a grammar of bounded numbers has none."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(value, list | dict):
        return _decimal(value) if isinstance(value, float) and _EXPONENT.search(text) else text
    if not _EXPONENT.search(text):
        return text
    if isinstance(value, list):
        return f"[{','.join(map(_compact, value))}]"
    return "{" + ",".join(f"{_compact(key)}:{_compact(part)}" for key, part in value.items()) + "}"


def _decimal(number: float) -> str:
    return f"{number:.0f}" if number.is_integer() else format(Decimal(repr(number)), "f")
