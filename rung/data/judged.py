"""Answers that somebody judged to be bad, each beside the part of the rows that it may be learned with."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rung.data.near import rows_alike_in
from rung.data.splits import SHARES_BESIDE_TEST, question
from rung.records import Example, SplitName, Splits
from rung.task.outputs import canonical


def with_undesirable(splits: Splits, undesirable: Sequence[Example], seed: int) -> Splits:
    """The splits with these answers beside train and dev.

    An answer goes where a row has its question, nearly its question or its group: to dev before train, and
    nowhere where that row is the test's, or was removed for a given test. One that no part knows goes to
    train or dev by its question, in their usual shares. The digest is that of all of these answers, too.
    """
    places = [
        *(("test", row) for row in (*splits.test, *splits.removed)),
        *(("dev", row) for row in splits.dev),
        *(("train", row) for row in splits.train),
    ]
    home: dict[object, str] = {}
    for name, row in places:
        for key in _keys(row):
            home.setdefault(key, name)
    like = rows_alike_in(undesirable, [row for _, row in places])
    kept: dict[str, list[Example]] = {"test": [], "dev": [], "train": []}
    for place, row in enumerate(undesirable):
        near = [places[like[place]][0]] if place in like else []
        known = {*near, *(home[key] for key in _keys(row) if key in home)} or {_drawn(row, seed)}
        kept[next(name for name in kept if name in known)].append(row)
    return replace(
        splits,
        undesirable=_in_order(kept["train"]),
        dev_undesirable=_in_order(kept["dev"]),
        digest=_digest(splits.digest, undesirable),
    )


def _keys(row: Example) -> Iterator[object]:
    yield question(row)
    if row.group is not None:
        yield row.group


def _drawn(row: Example, seed: int) -> SplitName:
    """Train or dev, the same for one question or group wherever it stands in the file."""
    unit = row.group if row.group is not None else "\n".join(question(row))
    digest = hashlib.sha256(f"{seed}:judged:{unit}".encode()).digest()
    return "dev" if int.from_bytes(digest[:8]) < SHARES_BESIDE_TEST["dev"] * 2**64 else "train"


def _in_order(rows: Sequence[Example]) -> tuple[Example, ...]:
    """By question and answer, whatever their order in the file."""
    return tuple(sorted(rows, key=lambda row: (row.id, canonical(row.output))))


def _digest(splits: str, undesirable: Sequence[Example]) -> str:
    spelled = sorted(canonical([e.input, e.context, e.group, canonical(e.output)]) for e in undesirable)
    return hashlib.sha256("\n".join([splits, *spelled]).encode()).hexdigest()
