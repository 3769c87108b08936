"""Texts that are nearly the same: by their characters, by their vectors, and by long runs of words."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain

import numpy as np

from rung.data.sketches import (
    Progress,
    among,
    as_groups,
    bands,
    distinct,
    earlier,
    jaccard,
    no_progress,
    shingles,
)
from rung.records import Example
from rung.task.draws import normalised

JACCARD = 0.8
COSINE = 0.9
AT_ONCE = 1024
"""Rows whose similarities are held at once."""
LONG_RUN, RUN, RUN_SHARE = 13, 8, 0.5
"""Words: one run of 13 in common, or runs of 8 that cover half of a text, are no accident (so GPT-3's and
Tülu 3's decontamination)."""
LONG_TEXT = 26
"""Words from which on a text is judged by its runs: short ones share them because they're about the same."""
_DAY = r"\d\d?(?:st|nd|rd|th|\.)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
MOMENT = re.compile(
    rf"""
    \b(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s)?
    (?:\d{{4}}([-/.])\d\d?\1\d\d? | \d\d?([-/.])\d\d?\2\d{{4}}
       | {_MONTH}\s{_DAY},?\s\d{{4}} | {_DAY}\s(?:of\s)?{_MONTH},?\s\d{{4}})(?!\d)
    (?:(?:t|[,.;]?\s(?:at\s|(?:(?:the|current|local)\s)*time(?:\sis|:)?\s)?)
       \d\d?:\d\d(?::\d\d(?:\.\d+)?)?(?:\s?[ap]m)?(?:z|\sutc|\sgmt|\s?[+-]\d\d:?\d\d)?\b)?
    """,
    re.VERBOSE,
)
"""A date in numbers or English, and the time beside it, in a folded text."""


def alike(
    texts: Sequence[str], threshold: float = JACCARD, *, progress: Progress = no_progress
) -> list[list[int]]:
    """Groups of texts that are held together by pairs with so many of all their character 5-grams in common.

    Case and spaces are folded. Candidates come from MinHash with locality-sensitive hashing, which misses few
    at the threshold and no equal texts; each one's Jaccard similarity is then computed. In a crowd (`CROWD`)
    only the likeliest candidates are looked at.
    """
    places, which = distinct(map(normalised, texts), len(texts))
    first: list[int] = places.tolist()
    member = list(range(len(first)))

    def root(place: int) -> int:
        while member[place] != place:
            member[place] = member[member[place]]
            place = member[place]
        return place

    def parts(place: int) -> set[bytes]:
        return shingles(normalised(texts[first[place]]))

    banded = bands((normalised(texts[at]) for at in first), len(first), threshold, progress)
    for place, others in earlier(banded):
        own: set[bytes] | None = None
        for other in others:
            if root(other) != root(place):
                own = own or parts(place)
                if jaccard(own, parts(other)) >= threshold:
                    member[root(place)] = root(other)
    return as_groups([root(place) for place in which.tolist()])


def alike_in(
    texts: Sequence[str],
    stored: Sequence[str],
    threshold: float = JACCARD,
    *,
    progress: Progress = no_progress,
) -> dict[int, int]:
    """By the place of each text that is like a stored one, the place of the first such: as `alike` has it."""
    count = len(stored)
    first, which = distinct(map(normalised, chain(stored, texts)), count + len(texts))
    kept: list[int] = first[: np.searchsorted(first, count)].tolist()
    found = {at: kept[one] for at, one in enumerate(which[count:].tolist()) if one < len(kept)}
    fresh = [at for at in range(len(texts)) if at not in found]
    if not fresh or not count:
        return found
    known = bands((normalised(stored[at]) for at in kept), len(kept), threshold, progress)
    asked = bands((normalised(texts[at]) for at in fresh), len(fresh), threshold, progress)
    for at, others in zip(fresh, among(asked, known), strict=True):
        own = shingles(normalised(texts[at])) if others else set()
        for other in others:
            if jaccard(own, shingles(normalised(stored[kept[other]]))) >= threshold:
                found[at] = kept[other]
                break
    return dict(sorted(found.items()))


def rows_alike(rows: Sequence[Example], *, progress: Progress = no_progress) -> list[list[int]]:
    """Groups of rows with like inputs and the same context, a moment in it aside (`_setting`), by places."""
    found, seen = [], 0
    for places in _by_context(rows).values():
        if len(places) > 1:
            texts = [rows[place].input for place in places]
            groups = alike(texts, progress=_after(seen, len(rows), progress))
            found += [[places[at] for at in group] for group in groups]
        seen += len(places)
    return found


def rows_alike_in(
    rows: Sequence[Example], stored: Sequence[Example], *, progress: Progress = no_progress
) -> dict[int, int]:
    """By the place of each row, that of the first stored row with a like input and the same context.

    A moment in the context makes no difference (`_setting`).
    """
    found, known, seen = {}, _by_context(stored), 0
    for context, places in _by_context(rows).items():
        others = known.get(context, [])
        if others:
            like = alike_in(
                [rows[at].input for at in places],
                [stored[at].input for at in others],
                progress=_after(seen, len(rows) + len(stored), progress),
            )
            found |= {places[at]: others[other] for at, other in like.items()}
        seen += len(places) + len(others)
    return dict(sorted(found.items()))


def _after(seen: int, total: int, progress: Progress) -> Progress:
    """The progress of a part, told as that of the whole, of which so much was seen before it."""
    return lambda done, _: progress(seen + done, total)


def _by_context(rows: Sequence[Example]) -> dict[bytes, list[int]]:
    settings = {context: _setting(context or "") for context in {row.context for row in rows}}
    places: dict[bytes, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[settings[row.context]].append(place)
    return places


def _setting(context: str) -> bytes:
    """128 bits of a context's hash: case, spaces and a single moment in it make no difference.

    Such a moment is most often the one at which a logged chat was held; of several, each belongs to what is
    asked about.
    """
    folded = normalised(context)
    timeless, moments = MOMENT.subn("<moment>", folded)
    return blake2b((timeless if moments == 1 else folded).encode(), digest_size=16).digest()


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
    asked = {place: words for place, text in enumerate(texts) if len(words := _words(text)) >= LONG_TEXT}
    if not asked:
        return []
    sought = {
        size: {run for words in asked.values() for run in _runs(words, size)} for size in (LONG_RUN, RUN)
    }
    met: dict[int, set[tuple[str, ...]]] = {size: set() for size in sought}
    for text in known:
        words = _words(text)
        for size, runs in sought.items():
            met[size].update(run for run in _runs(words, size) if run in runs)
    found = []
    for place, words in asked.items():
        covered: set[int] = set()
        for start, run in enumerate(_runs(words, RUN)):
            if run in met[RUN]:
                covered.update(range(start, start + RUN))
        if any(run in met[LONG_RUN] for run in _runs(words, LONG_RUN)) or len(covered) > RUN_SHARE * len(
            words
        ):
            found.append(place)
    return found


def _words(text: str) -> list[str]:
    return normalised(text).split()


def _runs(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))
