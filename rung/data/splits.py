"""Train, dev and test: rows that belong together stay together, whatever their order in the file."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from rung.data.sketches import distinct
from rung.errors import DataError
from rung.records import Example, SplitName, Splits
from rung.task.draws import connected, first_places, question
from rung.task.outputs import canonical

SHARES: dict[SplitName, float] = {"train": 0.6, "dev": 0.2, "test": 0.2}
SHARES_BESIDE_TEST: dict[SplitName, float] = {"train": 0.8, "dev": 0.2}
FEWEST_WRITTEN = 20
"""Dev rows that people wrote: too few to choose by, so that beside a given test dev has others, too."""

Block: TypeAlias = list[Example]
"""Rows that must stay on one side."""


def split(
    examples: Sequence[Example],
    *,
    test: Sequence[Example] | None,
    seed: int,
    stratify: bool,
    dev_rows: int | None = None,
    near: Sequence[Sequence[str]] = (),
) -> Splits:
    """60/20/20 train/dev/test, or 80/20 train/dev beside a given `test`, which is kept as it is.

    With `dev_rows`, dev takes about so many rows at most and train the rest: no more are scored, and
    a row that is never scored teaches more. The test is the same for any number of them. Rows of one group,
    rows with the same normalised input and context, and the rows (by id) of each group in `near` land on one
    side. With `stratify`, outputs keep their shares as well as the groups allow, and one that only few rows
    have is in train. Rows that a model made, and what lands on one side with them, are in train alone: the
    others are parted as if these weren't there. Beside a given test, where the others would leave dev under
    `FEWEST_WRITTEN` rows, the mark counts for nothing. The result depends on the rows and the seed, not on
    the order of the rows. DataError when a part would be empty.
    """
    if test is not None and not test:
        raise DataError("the test file holds no rows; leave it out to have a test carved from the others")
    sealed = {question(example) for example in test or ()}
    kept, removed = list(examples), []
    if sealed:
        kept, removed = [], []
        for example in examples:
            (removed if question(example) in sealed else kept).append(example)
    blocks = _in_order(_blocks(kept, near), seed)
    written = [block for block in blocks if not _made(block)]
    if test is not None and sum(map(len, written)) * SHARES_BESIDE_TEST["dev"] < FEWEST_WRITTEN:
        written = blocks
    placed: dict[SplitName, list[Example]] = {
        name: [example for block in part for example in block]
        for name, part in _parts(written, stratify, dev_rows, carve=test is None).items()
    }
    if written is not blocks:
        placed["train"] += [example for block in blocks if _made(block) for example in block]
    for name, rows in placed.items():
        if not rows:
            apart = sum(map(len, blocks)) - sum(map(len, written))
            raise DataError(f"no rows are left for {name}: {_too_few(examples, removed, blocks, apart)}")
    parts: dict[SplitName, tuple[Example, ...]] = {
        name: tuple(sorted(rows, key=lambda example: (example.id, canonical(example.output))))
        for name, rows in placed.items()
    }
    parts["test"] = tuple(test) if test is not None else parts["test"]
    return Splits(
        **parts,
        test_given=test is not None,
        digest=_digest(parts),
        removed=tuple(sorted(removed, key=lambda example: example.id)),
    )


def _too_few(
    examples: Sequence[Example], removed: Sequence[Example], blocks: Sequence[Block], apart: int
) -> str:
    """Why rows don't make all parts, and what to do; so many of them are `apart` in train for a mark."""
    rows = f"{len(examples):,} rows" + (f", {len(removed):,} of them in the given test" if removed else "")
    if len({question(example) for example in examples}) == 1:
        return f"{rows}, all with the same input; give rows that ask different things"
    if not blocks:
        return f"{rows}; give rows that the test doesn't hold"
    if apart:
        return (
            f"{rows}, {apart:,} of them marked as made by a model or of one group, or nearly one question, "
            "with such: these are in train alone; give more rows that people wrote, or take the mark "
            "(`synthetic`, `source`, `generator`) off rows that they did"
        )
    one = f"{len(blocks):,} group{'' if len(blocks) == 1 else 's'}"
    return (
        f"{rows}, and they make {one} that can't be parted, by their `group` or by inputs that are the same "
        "or nearly; give more rows or finer groups"
    )


def _made(block: Block) -> bool:
    """Whether a model made a row of it: a score on such rows would be one of imitating that model."""
    return any(example.synthetic for example in block)


def first_asked(examples: Sequence[Example]) -> np.ndarray:
    """For each row the place of the first one with its question: [rows]."""
    asked = ("\n".join(question(example)) for example in examples)
    places, which = distinct(asked, len(examples))
    return places[which]


def _digest(parts: dict[SplitName, tuple[Example, ...]]) -> str:
    """The SHA-256 of a line for each row, in order; a million rows' lines are never held together."""
    digest, between = hashlib.sha256(), b""
    for name in sorted(parts):
        lines = sorted(
            json.dumps(
                [name, e.id, e.input, e.context, e.group, canonical(e.output)]
                + ([] if e.rejected is None else [e.rejected])
            )
            for e in parts[name]
        )
        for line in lines:
            digest.update(between + line.encode())
            between = b"\n"
    return digest.hexdigest()


def _blocks(examples: Sequence[Example], near: Sequence[Sequence[str]] = ()) -> list[Block]:
    """The connected components of "same group, question or near group"."""
    near_group = {row: number for number, group in enumerate(near) for row in group}
    roots = connected(
        first_asked(examples).tolist(),
        first_places(example.group for example in examples),
        first_places(near_group.get(example.id) for example in examples),
    )
    members: dict[int, Block] = defaultdict(list)
    for root, example in zip(roots, examples, strict=True):
        members[root].append(example)
    return list(members.values())


def _in_order(blocks: Iterable[Block], seed: int) -> list[Block]:
    """Largest first, since small ones can even out what large ones upset; equal ones shuffled by hash.

    A hash of seed and id, not a shuffle: it is the same for any order of the rows, and a new row
    leaves the order of the others alone.
    """

    def place(block: Block) -> tuple[int, bytes]:
        key = f"{seed}:{min(example.id for example in block)}"
        return -len(block), hashlib.sha256(key.encode()).digest()

    return sorted(blocks, key=place)


def _parts(
    blocks: Sequence[Block], stratify: bool, dev_rows: int | None, *, carve: bool
) -> dict[SplitName, list[Block]]:
    """The blocks of train and dev, and of the test where it is to be carved.

    Where dev is to be smaller, the test is placed first, as if it weren't, and then the others anew: a row
    that is in the test with one number of dev rows is never learned from with another.
    """
    shares = SHARES if carve else SHARES_BESIDE_TEST
    if dev_rows is None or not blocks or dev_rows / sum(map(len, blocks)) >= shares["dev"]:
        return _place(blocks, shares, stratify)
    test = _place(blocks, shares, stratify)["test"] if carve else []
    sealed = {id(block) for block in test}
    rest = [block for block in blocks if id(block) not in sealed]
    dev = dev_rows / sum(map(len, rest))
    placed = _place(rest, {"train": 1 - dev, "dev": dev}, stratify)
    return {**placed, "test": test} if carve else placed


def _place(
    blocks: Sequence[Block], shares: Mapping[SplitName, float], stratify: bool
) -> dict[SplitName, list[Block]]:
    """Give each block to the part that it brings nearest to the wanted shares (chi-square distance).

    The last block that can bring an output into train goes there.
    """
    totals: Counter[str] = Counter()
    for block in blocks:
        totals.update(_strata(block, stratify))
    placed: dict[SplitName, list[Block]] = {name: [] for name in shares}
    held: dict[SplitName, Counter[str]] = {name: Counter() for name in shares}

    def gain(name: SplitName, counts: Counter[str]) -> float:
        change = 0.0
        for stratum, count in counts.items():
            wanted = shares[name] * totals[stratum]
            change += count * (2 * (wanted - held[name][stratum]) - count) / wanted
        return change

    unplaced = Counter(totals)
    for block in blocks:
        counts = _strata(block, stratify)
        unplaced.subtract(counts)
        last = any(not held["train"][stratum] and not unplaced[stratum] for stratum in counts)
        to = "train" if last else max(shares, key=lambda name: round(gain(name, counts), 9))
        placed[to].append(block)
        held[to].update(counts)
    return placed


def _strata(block: Block, stratify: bool) -> Counter[str]:
    counts = Counter({"all": len(block)})
    if stratify:
        counts.update("=" + canonical(example.output) for example in block)
    return counts
