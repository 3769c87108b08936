"""The words of a prompt: questions, worked examples and answers as text, and what a vector is made of."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from rung.models.chat import Message
from rung.records import Example, Json, OutputKind, Passage
from rung.task.accepted import bare_calls
from rung.task.schemas import local_part

DEEPEST = 20
"""References and options that are followed from one part of a schema."""


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

    JSON comes without white space and with its keys in the schema's order, a whole number without a
    fraction and any other without an exponent, a label as `label_texts` spells it.
    """
    if kind == "label":
        known = dict(zip(labels, label_texts(labels), strict=True))
        return known.get(str(output), str(output))
    if kind == "tool_call":
        return json.dumps(bare_calls(output), ensure_ascii=False, separators=(",", ":"))
    if kind == "json":
        return json.dumps(in_order(output, schema), ensure_ascii=False, separators=(",", ":"))
    if kind == "number" and isinstance(output, float):
        return f"{output:.0f}" if output.is_integer() else format(Decimal(repr(output)), "f")
    return str(output)


def in_order(value: Json, schema: Json) -> Json:
    """A JSON value with its keys as the schema lists them, which is the order constrained decoding keeps."""
    return _in_order(value, schema, schema)


def _in_order(value: Json, part: Json, root: Json) -> Json:
    rules = _rules_for(value, part, root)
    if isinstance(value, list):
        first = rules.get("prefixItems")
        parts = list(first) if isinstance(first, list) else []
        parts += [rules.get("items")] * (len(value) - len(parts))
        return [_in_order(item, rule, root) for item, rule in zip(value, parts, strict=False)]
    if not isinstance(value, dict):
        return value
    named = _object(rules)
    names = [k for k in named if k in value] + [k for k in value if k not in named]
    return {name: _in_order(value[name], named.get(name), root) for name in names}


def _rules_for(value: Json, part: Json, root: Json, depth: int = 0) -> dict[str, Json]:
    """The schema's part for this value: references followed, the first option taken that it fits."""
    rules = part if isinstance(part, dict) else {}
    if depth > DEEPEST:
        return rules
    if isinstance(rules.get("$ref"), str):
        return _rules_for(value, local_part(str(rules["$ref"]), root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        options = rules.get(key)
        if isinstance(options, list):
            found = [_rules_for(value, option, root, depth + 1) for option in options]
            fitting = [one for one in found if _fits(value, one)]
            for one in reversed(fitting if key == "allOf" else fitting[:1]):
                rules = {**one, **rules, "properties": {**_object(one), **_object(rules)}}
    return rules


def _fits(value: Json, rules: dict[str, Json]) -> bool:
    """Whether a list or an object could be meant by these rules, from its keys alone."""
    kind = rules.get("type", [])
    kinds = kind if isinstance(kind, list) else [kind]
    if kinds and isinstance(value, list | dict):
        if ("array" if isinstance(value, list) else "object") not in kinds:
            return False
    if not isinstance(value, dict):
        return True
    required, closed = rules.get("required"), rules.get("additionalProperties") is False
    return set(required if isinstance(required, list) else ()) <= value.keys() and (
        not closed or value.keys() <= _object(rules).keys()
    )


def _object(rules: dict[str, Json]) -> dict[str, Json]:
    found = rules.get("properties")
    return found if isinstance(found, dict) else {}
