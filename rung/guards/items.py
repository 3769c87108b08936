"""The general items and the general text that come with rung: written for it, and copied from nowhere."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rung.records import Json

ITEMS_FILE = Path(__file__).parent / "general.jsonl"
PROSE_FILE = Path(__file__).parent / "prose.txt"
_BETWEEN = "\n%%\n"
PROMPTS = 100
"""Of the items, whose answers by the base model are read by both models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One general question: its kind, the check of its answer, and how many tokens that may have."""

    kind: str
    ask: str
    check: str
    arguments: dict[str, Json]
    tokens: int


@cache
def general_items() -> tuple[Item, ...]:
    """The items: first instructions, then knowledge, figures, and requests to be declined."""
    rows = [json.loads(line) for line in ITEMS_FILE.read_text(encoding="utf-8").splitlines()]
    return tuple(
        Item(
            kind=row["kind"],
            ask=row["ask"],
            check=row["check"],
            arguments=row["with"],
            tokens=row["tokens"],
        )
        for row in rows
    )


def spread_items() -> tuple[Item, ...]:
    """PROMPTS of the items, evenly over all of them."""
    items = general_items()
    return tuple(items[at * len(items) // PROMPTS] for at in range(PROMPTS))


@cache
def prose() -> tuple[str, ...]:
    """Passages of prose, talk, verse, lists, tables and code: about 2,900 words."""
    text = PROSE_FILE.read_text(encoding="utf-8")
    return tuple(passage.strip("\n") for passage in text.split(_BETWEEN))
