"""How an export is asked: as the System itself is, or in the nearest way that another server has."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from rung.asking import ask, candidates, room_for_answer
from rung.engines.base import Completion, Engine, Request
from rung.engines.tight import closed
from rung.models.chat import Chat
from rung.records import Answer, Json
from rung.runs import storable
from rung.spec import AnswerSpec, Spec
from rung.wording import label_texts

Tokens: TypeAlias = tuple[int, ...]
WayName = Literal["as_served", "written", "listed", "guided"]
Way: TypeAlias = Callable[[Spec, Chat, Engine, Sequence[Tokens]], list[Answer]]

MORE_TOKENS: Final = 16
"""Tokens that quotes, and another spelling in them, may take beside a label's own."""
ROOM_FOR_BLANKS: Final = 2
"""Times the tokens of compact JSON: what JSON may take where a server lets it have white space."""


def label_names(spec: Spec, chat: Chat) -> dict[str, str]:
    """What a server writes for each label, without blanks at its ends, and the label that it stands for.

    Fewer than the labels where two of them can't be told apart.
    """
    if spec.answer.form == "codes":
        return {
            chat.tokens.decode([code]).strip(): label
            for code, label in zip(spec.answer.codes, spec.labels, strict=True)
        }
    return dict(zip(label_texts(spec.labels), spec.labels, strict=True))


def answer_tokens(spec: Spec, chat: Chat) -> int:
    """The most tokens that a written answer gets: one for a code, some more than its own for a label."""
    if spec.answer.form == "codes":
        return 1
    return room_for_answer(spec, chat) + (MORE_TOKENS if spec.answer.form == "words" else 0)


def roomy_tokens(spec: Spec, chat: Chat) -> int:
    """The same of a server that lets JSON have white space, which the System's own answers don't have."""
    return answer_tokens(spec, chat) * (ROOM_FOR_BLANKS if spec.answer.form == "schema" else 1)


def choices(spec: Spec, chat: Chat) -> list[str]:
    """The labels as they follow a prompt: after one that ends without a blank each begins with it."""
    lead = " " if chat.plain and spec.style == "chat" else ""
    return [lead + name for name in label_names(spec, chat)]


def closed_schema(spec: Spec) -> Json:
    """The JSON Schema that the System's answers are held to, in words that every server knows.

    Objects admit no unnamed properties, as with `tight`, but where several schemas hold for one. That white
    space is off stands in a keyword that only llguidance has: it is for each server to be told otherwise.
    """
    return closed(spec.schema_)


def enum_schema(spec: Spec, chat: Chat) -> dict[str, Any]:
    """The JSON Schema of a label as a string."""
    return {"type": "string", "enum": list(label_names(spec, chat))}


def as_served(spec: Spec, chat: Chat, engine: Engine, prompts: Sequence[Tokens]) -> list[Answer]:
    """As the System is asked: labels scored, JSON under its schema, text freely."""
    return ask(spec, chat, engine, prompts)


def written(spec: Spec, chat: Chat, engine: Engine, prompts: Sequence[Tokens]) -> list[Answer]:
    """The label in free text, the likeliest token each time; a code is one token, and means nothing else."""
    most = answer_tokens(spec, chat)
    if spec.answer.form == "codes":
        found = engine.generate([_request(spec, chat, prompt, most) for prompt in prompts])
        names = label_names(spec, chat)
        return [_answer(one, names.get(one.text.strip())) for one in found]
    free = AnswerSpec(form="free", max_tokens=most)
    return ask(spec.model_copy(update={"answer": free}), chat, engine, prompts)


def listed(spec: Spec, chat: Chat, engine: Engine, prompts: Sequence[Tokens]) -> list[Answer]:
    """The label as a JSON string, held to the list of them by a schema."""
    schema = enum_schema(spec, chat)
    requests = [_request(spec, chat, prompt, answer_tokens(spec, chat), schema) for prompt in prompts]
    names = label_names(spec, chat)
    return [_answer(one, names.get(_json_text(one.text))) for one in engine.generate(requests)]


def guided(spec: Spec, chat: Chat, engine: Engine, prompts: Sequence[Tokens]) -> list[Answer]:
    """The label token by token, always the likeliest that leads to one: no search for the likeliest label."""
    options = candidates(spec, chat)
    paths: list[Tokens] = [() for _ in prompts]
    while unfinished := [place for place, path in enumerate(paths) if path not in options]:
        nodes: dict[Tokens, list[int]] = defaultdict(list)
        for place in unfinished:
            nodes[paths[place]].append(place)
        for path, places in nodes.items():
            depth = len(path)
            children = sorted({option[depth] for option in options if option[:depth] == path})
            chosen = [children[0]] * len(places)
            if len(children) > 1:
                found = engine.next_logprobs([(*prompts[place], *path) for place in places], children)
                chosen = [children[row.index(max(row))] for row in found]
            for place, token in zip(places, chosen, strict=True):
                paths[place] = (*path, token)
    labels = [spec.labels[options.index(path)] for path in paths]
    return [
        Answer(text=label, value=label, prompt_tokens=len(prompt), completion_tokens=len(path))
        for label, prompt, path in zip(labels, prompts, paths, strict=True)
    ]


WAYS: Final[Mapping[WayName, Way]] = {
    "as_served": as_served,
    "written": written,
    "listed": listed,
    "guided": guided,
}


def _request(
    spec: Spec, chat: Chat, prompt: Tokens, most: int, schema: dict[str, Any] | None = None
) -> Request:
    return Request(
        prompt=prompt,
        max_tokens=most,
        stop_ids=chat.stop_ids,
        stop=chat.stop_strings(spec.style),
        schema=schema,
    )


def _answer(found: Completion, label: str | None) -> Answer:
    return Answer(
        text=storable(found.text),
        value=label,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=len(found.tokens),
        latency_s=found.latency_s,
        failure=found.failure,
    )


def _json_text(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    return found if isinstance(found, str) else text.strip()
