"""Characters that don't show, and characters that were damaged on the way here."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

from rung.checks.base import SEEN, SHOWN_ROWS, Outcome, Subject, finding, rows_text
from rung.data.spots import texts_of
from rung.records import Example, Finding
from rung.task.outputs import shown

AROUND = 12
"""Characters of the text that are shown on each side."""

_TRAIL = "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2022\u02dc"
_TRAIL += "\u2122\u0161\u203a\u0153\u017e\u0178"
_QUOTES = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026"
_DAMAGED = re.compile(
    # UTF-8 that was read as Windows-1252: é, £, Latin Extended; quotes and dashes; €; emoji; Cyrillic.
    "\u00c2[\u00a0-\u00bf]"
    f"|[\u00c3-\u00c5][{_TRAIL}]"
    f"|\u00e2\u20ac[{_TRAIL}{_QUOTES}]|\u00e2(?:\u201a\u00ac|\u201e\u00a2)|\u00f0\u0178"
    f"|(?:[\u00d0\u00d1][{_TRAIL}{_QUOTES}]){{3,}}"
    # What a reader puts for bytes that are no text, and controls that are Windows-1252 read as Latin-1.
    "|\ufffd|[\u0080-\u0084\u0086-\u009f]"
    # The two bytes of a pound or euro sign before an amount.
    r"|(?<![\w?])\?\?(?=\d)"
)
_HIDDEN = re.compile(
    "[\u200b\u2060-\u2064\ufeff\u180e\u00ad\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
    "|(?<=[A-Za-z0-9])[\u200c\u200d]+(?=[A-Za-z0-9])"
)
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007f]+")
_DIRECTIONS = re.compile("[\u200e\u200f\u061c\u202a-\u202c\u2066-\u2069]")


def damaged_text(subject: Subject) -> Outcome:
    """Signs that were lost or doubled when a file was read or saved in another encoding than its own."""
    found = list(_rows_with(subject, lambda text: _around(text, _DAMAGED.search(text))))
    if not found:
        return []
    row, part = found[0]
    message = (
        f"damaged characters: {rows_text(len(found))}, such as {row.where} {part}: the file was once read or "
        "saved in another encoding than its own, and what comes to be asked will be written otherwise; "
        "export it again as UTF-8"
    )
    return [_warning("damaged_text", message, found)]


def hidden_characters(subject: Subject) -> Outcome:
    """Characters of no width, and those that turn the direction of what a reader sees."""
    found = list(_rows_with(subject, _hidden))
    if not found:
        return []
    row, part = found[0]
    message = (
        f"characters that don't show: {rows_text(len(found))}, such as {row.where} {part}: a reader sees "
        "another text than the model; take them out"
    )
    return [_warning("hidden_characters", message, found)]


def _warning(check: str, message: str, found: list[tuple[Example, str]]) -> Finding:
    details = [f"{row.where} {part}" for row, part in found[:SHOWN_ROWS]]
    return finding(check, "warn", message, [row for row, _ in found], details)


def _rows_with(subject: Subject, look: Callable[[str], str | None]) -> Iterator[tuple[Example, str]]:
    """The rows with a text in which something is found, and the first such thing."""
    seen = lru_cache(SEEN)(look)
    for row in subject.each():
        answers = (text for answer in (row.output, row.rejected) for _, text in texts_of(answer))
        for text in (row.input, row.context or "", *answers):
            part = None if text.isascii() and "??" not in text else seen(text)
            if part is not None:
                yield row, part
                break


def _hidden(text: str) -> str | None:
    """The first hidden character by its name; marks of direction are right where a script needs them."""
    plain = _FLAG.sub("", text)
    two_ways = any(unicodedata.bidirectional(sign) in ("R", "AL") and sign.isalpha() for sign in plain)
    for hit in _HIDDEN.finditer(plain):
        if two_ways and _DIRECTIONS.match(hit[0]):
            continue
        name = unicodedata.name(hit[0][0], f"U+{ord(hit[0][0]):04X}")
        return f"U+{ord(hit[0][0]):04X} ({name.lower()}) in {_around(plain, hit)}"
    return None


def _around(text: str, hit: re.Match[str] | None) -> str | None:
    """The hit with a few characters on both sides, quoted."""
    if hit is None:
        return None
    return shown(text[max(0, hit.start() - AROUND) : hit.end() + AROUND])
