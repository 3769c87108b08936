"""What people said of pairs of answers: the file that a judge is checked by."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rung.data.rows import read_rows
from rung.errors import DataError
from rung.task.outputs import shown

Better: TypeAlias = Literal["answer", "other", "tie"]
BETTER: Mapping[str, Better] = {"answer": "answer", "other": "other", "reference": "other", "tie": "tie"}
TEXTS = ("input", "answer", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A pair of answers to one input, and which of them a person found better.

    `drawn` names the rungs in whose random sample of answers the pair stands, each with the sample's size;
    none where somebody chose the pair.
    """

    input: str
    answer: str
    other: str
    better: Better
    context: str | None = None
    where: str = ""
    drawn: Mapping[str, int] = field(default_factory=dict)


def read_checked(path: Path) -> tuple[tuple[Checked, ...], int]:
    """The pairs that somebody judged, and how many rows aren't filled in yet.

    A row is {"input", "context"?, "answer", "other" or "reference", "drawn"?, "better"}. Raises DataError,
    naming the line, for a row that lacks a text, for another verdict than answer, other or tie, for another
    `drawn` than a sheet has, and for a pair that stands there twice.
    """
    found: dict[tuple[str, str | None, frozenset[str]], Checked] = {}
    empty = 0
    for where, line in read_rows(path):
        if isinstance(line, DataError):
            raise line
        if line.get("better") in (None, ""):
            empty += 1
            continue
        one = _checked(where, line)
        key = (one.input, one.context, frozenset((one.answer, one.other)))
        if key in found:
            raise DataError(f"{where}: the same pair as {found[key].where}; keep one of them")
        found[key] = one
    return tuple(found.values()), empty


def _checked(where: str, line: dict[str, Any]) -> Checked:
    line = {"other": line.get("reference"), **line}
    missing = [name for name in TEXTS if not isinstance(line.get(name), str)]
    if missing:
        raise DataError(f"{where}: {missing[0]!r} is no text: {shown(line.get(missing[0]))}; write one")
    context = line.get("context")
    if context is not None and not isinstance(context, str):
        raise DataError(f"{where}: 'context' is no text: {shown(context)}; write one, or leave it out")
    better = BETTER.get(line["better"]) if isinstance(line["better"], str) else None
    if better is None:
        raise DataError(
            f"{where}: better: {shown(line['better'])} is not one of {', '.join(get_args(Better))}"
        )
    drawn = line.get("drawn") or {}
    if not isinstance(drawn, dict) or not all(type(count) is int and count > 0 for count in drawn.values()):
        raise DataError(f"{where}: drawn: {shown(drawn)} isn't what `rung judge sheet` wrote; leave it out")
    return Checked(
        input=line["input"],
        answer=line["answer"],
        other=line["other"],
        better=better,
        context=context,
        where=where,
        drawn=drawn,
    )


def checked_digest(path: Path | None) -> str:
    """What names the file's bytes; nothing where there is none. Raises DataError where it can't be read."""
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"can't read {str(path)!r}: {error.strerror}; mend that and run it again") from None
