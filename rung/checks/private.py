"""What a model must not learn to say: personal data, keys and passwords. Messages mask the values."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from rung.checks.base import SEEN, SHOWN_ROWS, Outcome, Subject, finding, rows_text
from rung.data.keys import keys
from rung.data.personal import personal
from rung.data.spots import Spot, masked, texts_of
from rung.records import Example, Finding, Severity

Side: TypeAlias = Literal["input", "output"]
_GRAVITY: dict[tuple[Side, bool], Severity] = {
    ("output", True): "block",
    ("output", False): "warn",
    ("input", True): "warn",
    ("input", False): "info",
}
"""By the side it stands on, and whether it is grave: what stands in an output is learned word for word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A private value of a row, masked."""

    row: Example
    said: str
    value: str
    grave: bool
    side: Side


def personal_data(subject: Subject) -> Outcome:
    """Personal data by patterns and checksums: grave in an output, and worth knowing in an input."""
    found = []
    by_gravity: dict[tuple[Side, bool], list[Hit]] = defaultdict(list)
    for hit in _hits(subject, personal):
        by_gravity[hit.side, hit.grave].append(hit)
    for (side, grave), severity in _GRAVITY.items():
        if hits := by_gravity[side, grave]:
            harm = "a tune learns to say them" if side == "output" else "whoever gets the rows can read them"
            found.append(_finding("personal_data", severity, f"personal data in {side}s", hits, harm))
    return found


def secrets(subject: Subject) -> Outcome:
    """Keys, tokens and passwords, wherever they stand; what only may be a password is said, too."""
    hits = list(_hits(subject, keys))
    sure, perhaps = [hit for hit in hits if hit.grave], [hit for hit in hits if not hit.grave]
    harm = "take them back where they were issued, for the rows have been read"
    found = [_finding("secrets", "block", "keys or passwords", sure, harm)] if sure else []
    if perhaps:
        harm = "look whether they are, for the rows have been read"
        found.append(_finding("secrets", "warn", "short or spoken passwords", perhaps, harm))
    return found


def _finding(check: str, severity: Severity, what: str, hits: list[Hit], harm: str) -> Finding:
    # Files of one name have rows at the same places.
    rows = list({(hit.row.where, hit.row.id): hit.row for hit in hits}.values())
    counts = Counter(said for *_, said in {(hit.row.where, hit.row.id, hit.said) for hit in hits})
    kinds = ", ".join(f"{said} ({count})" for said, count in sorted(counts.items(), key=_commonest))
    first = hits[0]
    message = (
        f"{what}: {kinds} in {rows_text(len(rows))}, such as {first.row.where}: {first.said} "
        f"{first.value}: {harm}; `rung check FILE --redact OUT` writes a copy without them"
    )
    details = [f"{hit.row.where} {hit.side}: {hit.said} {hit.value}" for hit in hits[:SHOWN_ROWS]]
    return finding(check, severity, message, rows, details)


def _commonest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _hits(subject: Subject, look: Callable[[str, str], list[Spot]]) -> Iterator[Hit]:
    """What is found in the rows' texts; a text that many rows share is looked at once."""
    seen = lru_cache(SEEN)(look)
    for row in subject.each():
        for side, name, text in _texts(row):
            for spot in seen(text, name):
                yield Hit(
                    row=row,
                    said=spot.kind.said,
                    value=masked(text[spot.start : spot.end]),
                    grave=spot.kind.grave,
                    side=side,
                )


def _texts(row: Example) -> Iterator[tuple[Side, str, str]]:
    for text in (row.input, row.context):
        if text:
            yield "input", "", text
    for answer in (row.output, row.rejected):
        for name, text in texts_of(answer):
            yield "output", name, text
