"""Candidates for texts that are alike: MinHash with locality-sensitive hashing, held in arrays."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from hashlib import blake2b
from itertools import islice, pairwise
from typing import TypeAlias

import numpy as np

SHINGLE = 5
"""Characters of a shingle."""
PERMUTATIONS = 128
WEIGHTS = (0.1, 0.9)
"""How much a false candidate weighs, and a missed one: a false one costs a look, no more."""
AT_ONCE = 1024
"""Texts that are sketched between two calls of `progress`."""
CROWD = 200
"""Candidates of a text: with more it is in a crowd, such as log lines of one template, and not all of them
are looked at."""
MANY = 50_000
"""With more texts already those that have over `LIKELIEST` candidates are in a crowd."""
LIKELIEST = 32
"""Candidates of a text in a crowd: those with which it shares the most bands."""
LATEST = 64
"""Of the texts in one band: those among which the candidates of a text in a large crowd are sought."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (texts done, texts)."""


def no_progress(done: int, total: int) -> None:
    """The progress callback of a caller that doesn't want any."""


def distinct(texts: Iterable[str], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `count` texts the places of those that equal none before, and for each text which of them it is.

    Two arrays of whole numbers, [distinct] and [texts]. Texts are told apart by 128 bits of their hash.
    """
    hashes = np.fromiter((blake2b(text.encode(), digest_size=16).digest() for text in texts), "S16", count)
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first))
    return first[order], rank[which]


def bands(texts: Iterable[str], count: int, threshold: float, progress: Progress = no_progress) -> np.ndarray:
    """Hashes of the bands of `count` texts' MinHashes: uint64 [bands, texts].

    Two texts with a band in common are candidates (Broder 1997; Leskovec et al., "Mining of Massive
    Datasets", 3.4); the bands' number and size are the best ones for this threshold of the Jaccard
    similarity.
    """
    from datasketch import MinHash

    number, size = _shape(threshold)
    # A band's hashes as one number: odd factors, drawn once, and sums that run over.
    factors = np.random.default_rng(0).integers(0, 2**63, size, np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty((number, count), np.uint64)
    made = MinHash.generator(map(shingles, texts), num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    for start in range(0, count, AT_ONCE):
        some = np.stack([sketch.hashvalues[: number * size] for sketch in islice(made, AT_ONCE)])
        found[:, start : start + len(some)] = (some.reshape(len(some), number, size) * factors).sum(2).T
        progress(start + len(some), count)
    return found


def shingles(text: str) -> set[bytes]:
    """Every run of five characters; the text itself where it has no more."""
    if len(text) <= SHINGLE:
        return {text.encode()}
    return {text[start : start + SHINGLE].encode() for start in range(len(text) - SHINGLE + 1)}


def earlier(banded: np.ndarray) -> Iterator[tuple[int, list[int]]]:
    """By their place, in order, the texts that share a band with one before them, and the places of those.

    `banded` [bands, texts] is as `bands` makes it.
    """
    most = _most(banded)
    members, places, starts, ends = [], [], [], []
    offset = 0
    for band in banded:
        order = np.argsort(band, kind="stable").astype(np.int32)
        opens = np.flatnonzero(np.append(True, np.diff(band[order]) != 0))
        sizes = np.diff(np.append(opens, len(order)))
        shared = np.repeat(sizes > 1, sizes)
        members.append(order[shared])
        sizes = sizes[sizes > 1]
        here = np.arange(offset, offset + int(sizes.sum()), dtype=np.int32)
        first = np.repeat(here[np.cumsum(sizes) - sizes], sizes)
        later = here > first
        places.append(members[-1][later])
        starts.append(first[later])
        ends.append(here[later])
        offset += len(here)
    flat, whose = np.concatenate(members), np.concatenate(places)
    begin, end = np.concatenate(starts), np.concatenate(ends)
    turn = np.argsort(whose, kind="stable")
    for low, high in _runs(whose[turn]):
        some = turn[low:high]
        yield int(whose[some[0]]), _likeliest([flat[begin[at] : end[at]] for at in some], most)


def among(asked: np.ndarray, stored: np.ndarray) -> Iterator[list[int]]:
    """For each asked text the places of the stored ones that share a band with it, in order.

    `asked` [bands, asked] and `stored` [bands, stored] are as `bands` makes them.
    """
    most = _most(stored)
    orders, begin, end = [], [], []
    for band, known in zip(asked, stored, strict=True):
        order = np.argsort(known, kind="stable").astype(np.int32)
        inside = known[order]
        begin.append(np.searchsorted(inside, band, "left").astype(np.int32))
        end.append(np.searchsorted(inside, band, "right").astype(np.int32))
        orders.append(order)
    for place in range(asked.shape[1]):
        parts = [
            order[low[place] : high[place]]
            for order, low, high in zip(orders, begin, end, strict=True)
            if high[place] > low[place]
        ]
        yield _likeliest(parts, most) if parts else []


def _most(banded: np.ndarray) -> int:
    """How many candidates a text may have before it is in a crowd."""
    return LIKELIEST if banded.shape[1] > MANY else CROWD


def _likeliest(parts: Sequence[np.ndarray], most: int) -> list[int]:
    """The places in a text's bands without repeats and in order; in a crowd those in most of the bands."""
    crowded = sum(map(len, parts)) > most * len(parts)
    looked = [part[-LATEST:] for part in parts] if crowded else parts
    found, times = np.unique(np.concatenate(looked), return_counts=True)
    if crowded or len(found) > most:
        found = np.sort(found[np.argsort(-times, kind="stable")[:LIKELIEST]])
    return found.tolist()


@cache
def _shape(threshold: float) -> tuple[int, int]:
    """How many bands of how many hashes."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=WEIGHTS)
    return index.b, index.r


def jaccard(one: set[bytes], other: set[bytes]) -> float:
    """Of all shingles of two texts, the share that both have."""
    return len(one & other) / len(one | other)


def as_groups(roots: Sequence[int]) -> list[list[int]]:
    """Places with one root, by group in the order of their first; those that are alone are left out."""
    of = np.asarray(roots, dtype=np.int64)
    order = np.argsort(of, kind="stable")
    return sorted(order[low:high].tolist() for low, high in _runs(of[order]) if high - low > 1)


def _runs(ordered: np.ndarray) -> Iterator[tuple[int, int]]:
    """From where to where the same value stands."""
    if len(ordered):
        cuts = np.flatnonzero(np.diff(ordered)) + 1
        yield from pairwise((0, *cuts.tolist(), len(ordered)))
