"""Texts that are nearly the same: by their characters, by their vectors, and by long runs of words."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from rung.data.splits import normalised
from rung.records import Example

SHINGLE = 5
"""Characters of a shingle."""
JACCARD = 0.8
PERMUTATIONS = 128
CANDIDATES = (0.1, 0.9)
"""How much a false candidate weighs, and a missed one: a false one costs a look, no more."""
COSINE = 0.9
AT_ONCE = 1024
"""Rows whose similarities are held at once."""
LONG_RUN, RUN, RUN_SHARE = 13, 8, 0.5
"""Words: one run of 13 in common, or runs of 8 that cover half of a text, are no accident (so GPT-3's and
Tülu 3's decontamination)."""
LONG_TEXT = 26
"""Words from which on a text is judged by its runs: short ones share them because they're about the same."""

Pair: TypeAlias = tuple[int, int]
"""Two places in a list, the lower one first."""
Likes: TypeAlias = tuple[list[int], Callable[[int], bool]]
"""Places of candidates, and whether one of them is truly alike."""


def alike(texts: Sequence[str], threshold: float = JACCARD) -> list[list[int]]:
    """Groups of texts that are held together by pairs with so many of all their character 5-grams in common.

    Case and spaces are folded. Candidates come from MinHash with locality-sensitive hashing (Broder 1997),
    which misses few at the threshold and no equal texts; each one's Jaccard similarity is then computed.
    """
    sketched = _Sketched(threshold)
    joined: list[Pair] = []
    member = list(range(len(texts)))

    def root(place: int) -> int:
        while member[place] != place:
            member[place] = member[member[place]]
            place = member[place]
        return place

    for place, (others, known) in enumerate(sketched.add(texts)):
        for other in others:
            if root(other) != root(place) and known(other):
                member[root(place)] = root(other)
                joined.append((other, place))
    return clusters(joined)


def alike_in(texts: Sequence[str], stored: Sequence[str], threshold: float = JACCARD) -> dict[int, int]:
    """By the place of each text that is like a stored one, the place of the first such: as `alike` has it."""
    sketched = _Sketched(threshold)
    for _ in sketched.add(stored):
        pass
    found = {}
    for place, (others, known) in enumerate(sketched.ask(texts)):
        if (first := next((other for other in others if known(other)), None)) is not None:
            found[place] = first
    return found


def rows_alike(rows: Sequence[Example]) -> list[list[int]]:
    """Groups of rows with like inputs and the very same context, by places."""
    return [
        [places[at] for at in group]
        for places in _by_context(rows).values()
        if len(places) > 1
        for group in alike([rows[place].input for place in places])
    ]


def rows_alike_in(rows: Sequence[Example], stored: Sequence[Example]) -> dict[int, int]:
    """By the place of each row, that of the first stored row with a like input and the very same context."""
    found, known = {}, _by_context(stored)
    for context, places in _by_context(rows).items():
        others = known.get(context, [])
        if others:
            like = alike_in([rows[at].input for at in places], [stored[at].input for at in others])
            found |= {places[at]: others[other] for at, other in like.items()}
    return dict(sorted(found.items()))


def _by_context(rows: Sequence[Example]) -> dict[str | None, list[int]]:
    places: dict[str | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.context].append(place)
    return places


class _Sketched:
    """Texts with their MinHashes; of equal ones the first stands for all."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self.index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=CANDIDATES)
        self.places: dict[str, int] = {}
        self.texts: list[str] = []

    def add(self, texts: Iterable[str]) -> Iterator[Likes]:
        """Each text's candidates among those before it; then it is stored."""
        for text, sketch in self._sketches(texts):
            place = len(self.texts)
            self.texts.append(text)
            if text in self.places:
                yield [self.places[text]], lambda other: True
                continue
            others = self._candidates(sketch)
            yield others, self._likeness(text)
            self.places[text] = place
            self.index.insert(place, sketch)

    def ask(self, texts: Iterable[str]) -> Iterator[Likes]:
        """Each text's candidates among the stored ones."""
        for text, sketch in self._sketches(texts):
            if text in self.places:
                yield [self.places[text]], lambda other: True
            else:
                yield self._candidates(sketch), self._likeness(text)

    def _candidates(self, sketch: Any) -> list[int]:
        """Places of the stored texts with a like sketch, in order."""
        return sorted(place for place in self.index.query(sketch) if isinstance(place, int))

    def _likeness(self, text: str) -> Callable[[int], bool]:
        own = _shingles(text)
        return lambda other: _jaccard(own, _shingles(self.texts[other])) >= self.threshold

    def _sketches(self, texts: Iterable[str]) -> Iterator[tuple[str, Any]]:
        from datasketch import MinHash

        plain = [normalised(text) for text in texts]
        made = MinHash.generator(map(_shingles, plain), num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        yield from zip(plain, made, strict=True)


def like_vectors(vectors: np.ndarray, threshold: float = COSINE) -> list[tuple[float, int, int]]:
    """Pairs of unit vectors [rows, width] with at least this cosine: (cosine, lower, higher), by places."""
    found: list[tuple[float, int, int]] = []
    for first in range(0, len(vectors), AT_ONCE):
        block = vectors[first : first + AT_ONCE] @ vectors[first:].T
        rows, columns = np.nonzero(block >= threshold)
        ahead = columns > rows
        found += [
            (float(block[row, column]), first + int(row), first + int(column))
            for row, column in zip(rows[ahead], columns[ahead], strict=True)
        ]
    return found


def nearest_of(asked: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest cosine of each asked unit vector to a stored one, and that one's place: [asked] each."""
    best, where = [], []
    for first in range(0, len(asked), AT_ONCE):
        block = asked[first : first + AT_ONCE] @ stored.T
        where.append(block.argmax(1))
        best.append(block.max(1))
    return np.concatenate(best), np.concatenate(where)


def known_runs(texts: Sequence[str], known: Iterable[str]) -> list[int]:
    """Places of long texts that share a long run of words with a known one, or are half known runs."""
    long: set[tuple[str, ...]] = set()
    short: set[tuple[str, ...]] = set()
    for text in known:
        words = normalised(text).split()
        long.update(_runs(words, LONG_RUN))
        short.update(_runs(words, RUN))
    found = []
    for place, text in enumerate(texts):
        words = normalised(text).split()
        if len(words) < LONG_TEXT:
            continue
        covered: set[int] = set()
        for start, run in enumerate(_runs(words, RUN)):
            if run in short:
                covered.update(range(start, start + RUN))
        if any(run in long for run in _runs(words, LONG_RUN)) or len(covered) > RUN_SHARE * len(words):
            found.append(place)
    return found


def clusters(pairs: Iterable[Pair]) -> list[list[int]]:
    """The connected components of pairs, each sorted, by their first place."""
    beside: dict[int, list[int]] = defaultdict(list)
    for one, other in pairs:
        beside[one].append(other)
        beside[other].append(one)
    seen: set[int] = set()
    found = []
    for start in sorted(beside):
        if start in seen:
            continue
        seen.add(start)
        reached, open_places = [], [start]
        while open_places:
            place = open_places.pop()
            reached.append(place)
            fresh = [other for other in beside[place] if other not in seen]
            seen.update(fresh)
            open_places += fresh
        found.append(sorted(reached))
    return found


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _shingles(text: str) -> set[bytes]:
    if len(text) <= SHINGLE:
        return {text.encode()}
    return {text[start : start + SHINGLE].encode() for start in range(len(text) - SHINGLE + 1)}


def _jaccard(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)
