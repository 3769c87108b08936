"""Names of a list in a text: whole names first, then their parts, whatever their case and accents."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rung.data.spots import Kind, Spot

NAME = Kind(name="NAME", said="name of the list")
PARTICLES = frozenset("al bin da das de del den der di do dos du el la le van vom von zu zum zur".split())
"""Parts of names that are words of their own."""
CERTAIN = 3
"""Letters from which on a part counts however it is written; shorter ones, such as `An`, with a capital."""

_WORD = re.compile("[^\\W\\d_](?:[^\\W\\d_]|[\u0300-\u036f])*")
_GAP = re.compile(r"[\s.,_\-'\u2019\u02bc]{1,3}")
Folded: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A spot and whose name it is: the name as the list has it, or the part that several of it share."""

    spot: Spot
    name: str


class Roster:
    """The names of a list, one a line, made ready to be looked for."""

    def __init__(self, names: Sequence[str]) -> None:
        owners: dict[Folded, dict[str, None]] = defaultdict(dict)
        for name in names:
            for part in _parts(name):
                owners[part][name] = None
        self._names: dict[Folded, str] = {}
        self._by_first: dict[str, list[Folded]] = defaultdict(list)
        for part, whose in owners.items():
            self._names[part] = next(iter(whose)) if len(whose) == 1 else " ".join(part)
            self._by_first[part[0]].append(part)
        for parts in self._by_first.values():
            parts.sort(key=lambda part: (-len(part), part))

    def find(self, text: str) -> Iterator[Named]:
        """Where a name or a part of one stands, the longest at each place; not inside of longer words."""
        words = list(_WORD.finditer(text))
        folded = [_fold(word[0]) for word in words]
        place = 0
        while place < len(words):
            part = next(
                (p for p in self._by_first.get(folded[place], ()) if self._here(text, words, p, place)), None
            )
            if part is None:
                place += 1
                continue
            end = words[place + len(part) - 1].end()
            yield Named(spot=Spot(kind=NAME, start=words[place].start(), end=end), name=self._names[part])
            place += len(part)

    def _here(self, text: str, words: Sequence[re.Match[str]], part: Folded, place: int) -> bool:
        here = words[place : place + len(part)]
        if tuple(_fold(word[0]) for word in here) != part:
            return False
        if len(part) == 1 and len(part[0]) < CERTAIN and not here[0][0][0].isupper():
            return False
        return all(_GAP.fullmatch(text, a.end(), b.start()) for a, b in zip(here, here[1:], strict=False))


def _parts(name: str) -> list[Folded]:
    """A name, its parts between blanks, and every word of it that has some letters."""
    whole = tuple(_fold(word[0]) for word in _WORD.finditer(name))
    parts = [whole]
    for piece in name.split():
        words = tuple(_fold(word[0]) for word in _WORD.finditer(piece))
        parts += [words, *((word,) for word in words if len(word) >= CERTAIN or len(words) == 1)]
    return [part for part in dict.fromkeys(parts) if len("".join(part)) > 1 and not _particle(part)]


def _particle(part: Folded) -> bool:
    return len(part) == 1 and part[0] in PARTICLES


def _fold(word: str) -> str:
    """Without accents and case."""
    plain = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold()
