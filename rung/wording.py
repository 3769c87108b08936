"""The words of a prompt: questions, worked examples and answers as text, and what a vector is made of."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rung.models.chat import Message
from rung.records import Example, Json, OutputKind


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

    JSON comes without white space and with its keys in the schema's order, a whole number without a
    fraction, a label as `label_texts` spells it.
    """
    if kind == "label":
        known = dict(zip(labels, label_texts(labels), strict=True))
        return known.get(str(output), str(output))
    if kind == "json":
        return json.dumps(in_order(output, schema), ensure_ascii=False, separators=(",", ":"))
    if kind == "number" and isinstance(output, float) and output.is_integer():
        return f"{output:.0f}"
    return str(output)


def in_order(value: Json, schema: Json) -> Json:
    """A JSON value with its keys as the schema lists them, which is the order constrained decoding keeps."""
    rules = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        return [in_order(item, rules.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    listed = rules.get("properties")
    parts = listed if isinstance(listed, dict) else {}
    names = [k for k in parts if k in value] + [k for k in value if k not in parts]
    return {name: in_order(value[name], parts.get(name)) for name in names}
