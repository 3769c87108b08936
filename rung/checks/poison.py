"""What someone may have put into the rows to steer a model: its own markup, and orders to it."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal, TypeAlias

from rung.checks.base import SEEN, SHOWN_ROWS, Outcome, Subject, finding, rows_text
from rung.data.spots import texts_of
from rung.models.hosted import hosted
from rung.models.resolve import at_hand
from rung.models.tokens import load_tokenizer
from rung.records import Example, Finding, Severity
from rung.task import Task
from rung.task.outputs import shown

Side: TypeAlias = Literal["input", "output"]

_SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_]{2,40}\|>"
    r"|<\uff5c[A-Za-z0-9_\u2581 ]{2,40}\uff5c>"
    r"|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_(?:turn|image)>|<(?:bos|eos|pad|unk)>|<\|?endoftext\|?>"
    r"|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){0,3}?"
    r"(?:previous|prior|above|earlier|preceding|system|safety|your|all|any)\s+(?:\w+\s+){0,2}?"
    r"(?:instructions?|prompts?|directions?|directives|guidelines|rules|programming)\b"
    r"|\b(?:reveal|print|repeat|show|output|leak)\s+(?:\w+\s+){0,2}?(?:system|hidden|initial|secret)\s+"
    r"(?:prompt|instructions?)\b"
    r"|\byou are now (?:dan\b|in \w+ mode|unrestricted|jailbroken)|\bdo anything now\b"
    r"|\b(?:developer|god|jailbreak) mode (?:enabled|on|activated)\b"
    r"|^[^\w\n]*(?:new|updated) (?:system )?instructions?\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_MARKUP = re.compile(
    r"</?(?:system|assistant|tool_call|tool_response|function_call)>"
    r"|^[ \t]*\[?(?:system|assistant)\]\s*:?"
    r"|^[ \t]*#{2,}\s*(?:system|instruction|response|assistant)\s*:"
    r"|^[ \t]*system\s*:\s*(?:you (?:are|must|will)|ignore|from now on|override)",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT_TURN = re.compile(r"^[ \t]*(?:user|human|assistant|system)\s*:(?!\S)", re.IGNORECASE | re.MULTILINE)


def special_tokens(subject: Subject) -> Outcome:
    """What chat templates put between turns: inside a row it ends the turn, or opens one of another role.

    Only the tokens of the task's own models do that. Where these aren't here any token is taken for theirs.
    """
    seen = _first_of_each(subject, lambda text, _: _SPECIAL.search(text))
    if not seen:
        return []
    own, absent = _own_tokens(subject.task)
    way_out = "take them out, or write the row as `messages`"
    if absent:
        way_out += (
            f"; whether the task's model has them is known once it's here: rung models --fetch {absent}"
        )
    grave = _first_of_each(
        subject, lambda text, _: next((hit for hit in _SPECIAL.finditer(text) if own(hit[0])), None)
    )
    named = {row.id for row, _ in grave}
    return [
        *_reported(
            "special_tokens",
            "block",
            grave,
            "tokens of a chat template inside the rows",
            f"a model takes them for the end of a turn; {way_out}",
        ),
        *_reported(
            "special_tokens",
            "warn",
            [(row, said) for row, said in seen if row.id not in named],
            "tokens of other models' chat templates inside the rows",
            "the task's models read them as plain text; take them out if the rows are to serve others too",
        ),
    ]


def _own_tokens(task: Task) -> tuple[Callable[[str], bool], str]:
    """Whether a token is one of the task's models, and the first model that isn't on this machine.

    Without all of them any token may be theirs.
    """
    local = [name for name in task.models if hosted(name) is None]
    here = [model for name in local if (model := at_hand(name)) is not None]
    if not here or len(here) < len(local):
        return lambda token: True, next((name for name in local if at_hand(name) is None), "")
    control = {token for model in here for token in load_tokenizer(model).control}
    return lambda token: token in control or any(token in (model.template or "") for model in here), ""


def injections(subject: Subject) -> Outcome:
    """Orders to a model, and tags that open another's turn. Speakers of a talk, as in `Tutor:`, don't."""
    return _reported(
        "injections",
        "warn",
        _first_of_each(subject, _order),
        "texts that give a model orders or claim a role",
        "rows of strangers may be meant to steer the tune; read them, and delete what isn't yours",
    )


def _reported(
    check: str, grave: Severity, found: list[tuple[Example, str]], what: str, way_out: str
) -> list[Finding]:
    """A finding on rows and what was found in each; none without rows."""
    if not found:
        return []
    rows = [row for row, _ in found]
    row, said = found[0]
    message = f"{what}: {rows_text(len(rows))}, such as {row.where} {said}: {way_out}"
    details = [f"{row.where} {said}" for row, said in found[:SHOWN_ROWS]]
    return [finding(check, grave, message, rows, details)]


def _order(text: str, side: Side) -> re.Match[str] | None:
    hit = _ORDERS.search(text) or _MARKUP.search(text)
    return hit or (_NEXT_TURN.search(text) if side == "output" else None)


def _first_of_each(
    subject: Subject, look: Callable[[str, Side], re.Match[str] | None]
) -> list[tuple[Example, str]]:
    """The rows in which something is found, and the first of it; a text of many rows is looked at once."""

    @lru_cache(SEEN)
    def seen(text: str, side: Side) -> str | None:
        hit = look(text, side)
        return hit and shown(hit[0].strip(), 60)

    found = []
    for row in subject.each():
        for side, text in _texts(row):
            said = seen(text, side)
            if said is not None:
                found.append((row, said))
                break
    return found


def _texts(row: Example) -> Iterator[tuple[Side, str]]:
    for text in (row.input, row.context):
        if text:
            yield "input", text
    for answer in (row.output, row.rejected):
        for _, text in texts_of(answer):
            yield "output", text
