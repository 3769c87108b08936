"""Names of a list in a text: whole names first, then their parts, whatever their case and accents."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from rung.data.spots import Kind, Spot

NAME = Kind(name="NAME", said="name of the list")
PARTICLES = frozenset("al bin da das de del den der di do dos du el la le van vom von zu zum zur".split())
"""Parts of names that are words of their own."""
CERTAIN = 3
"""Letters from which on a part counts however it is written; shorter ones, such as `An`, with a capital."""

_CJK = "\u1100-\u11ff\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f"
_CJK += "\U00020000-\U0003ffff"
_UNSPACED = re.compile(f"[{_CJK}\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff]+")
"""Chinese, Japanese and Korean; Thai, Lao, Burmese and Khmer: names there touch other words."""
_SHORT = re.compile(f"[{_CJK}]{{2,}}")
"""In these scripts two letters are a name."""
_BETWEEN = ("", " ", "\u3000", "\u30fb", "\u00b7")
"""What may stand between the parts of such a name."""
_WORD = re.compile("[^\\W\\d_](?:[^\\W\\d_]|[\u0300-\u036f])*")
_GAP = re.compile(r"[\s.,_\-'\u2019\u02bc]{1,3}")
_ESCAPED = re.compile(
    r"\\{1,4}u(d[89ab][0-9a-f]{2})\\{1,4}u(d[c-f][0-9a-f]{2})|\\{1,4}u([0-9a-f]{4})", re.IGNORECASE
)
"""A letter as JSON escapes it, with more than one backslash for JSON in JSON; some letters take two."""
Folded: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A spot and whose name it is: the name as the list has it, or the part that several of it share.

    `whose` are all names of the list that it may be.
    """

    spot: Spot
    name: str
    whose: tuple[str, ...]


class Roster:
    """The names of a list, one a line, made ready to be looked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        parts: dict[Folded, dict[str, None]] = defaultdict(dict)
        touching: dict[str, dict[str, None]] = defaultdict(dict)
        for name in self.names:
            for part in _parts(name):
                parts[part][name] = None
            for written in _touching(name):
                touching[written][name] = None
        self._whose: dict[Folded, tuple[str, ...]] = {part: tuple(whose) for part, whose in parts.items()}
        self._by_first: dict[str, list[Folded]] = defaultdict(list)
        for part in sorted(parts, key=lambda part: (-len(part), part)):
            self._by_first[part[0]].append(part)
        self._touching = {written: tuple(whose) for written, whose in touching.items()}
        self._by_sign: dict[str, list[str]] = defaultdict(list)
        for written in sorted(touching, key=lambda written: (-len(written), written)):
            self._by_sign[written[0]].append(written)

    def find(self, text: str) -> Iterator[Named]:
        """Where a name or a part of one stands, the longest at each place; not inside of longer words.

        In scripts that have no blanks between words it's found wherever its letters stand. Letters may be
        escaped as JSON does it.
        """
        places = None
        if "\\u" in text:
            text, places = _unescaped(text)
        found = [*self._words(text), *self._inside(text)]
        end = 0
        for named in sorted(found, key=lambda named: (named.spot.start, -named.spot.end)):
            if named.spot.start >= end:
                yield named if places is None else _moved(named, places)
                end = named.spot.end

    def _words(self, text: str) -> Iterator[Named]:
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
            start, end = words[place].start(), words[place + len(part) - 1].end()
            yield _named(start, end, self._whose[part], " ".join(part))
            place += len(part)

    def _inside(self, text: str) -> Iterator[Named]:
        if not self._touching or _UNSPACED.search(text) is None:
            return
        place = 0
        while place < len(text):
            here = (one for one in self._by_sign.get(text[place], ()) if text.startswith(one, place))
            written = next(here, None)
            if written is None:
                place += 1
                continue
            yield _named(place, place + len(written), self._touching[written], written)
            place += len(written)

    def _here(self, text: str, words: Sequence[re.Match[str]], part: Folded, place: int) -> bool:
        here = words[place : place + len(part)]
        if tuple(_fold(word[0]) for word in here) != part:
            return False
        if len(part) == 1 and len(part[0]) < CERTAIN and not here[0][0][0].isupper():
            return False
        return all(_GAP.fullmatch(text, a.end(), b.start()) for a, b in zip(here, here[1:], strict=False))


def _unescaped(text: str) -> tuple[str, list[int]]:
    """The text with the letters that were escaped, and where each of its letters began."""
    letters: list[str] = []
    places: list[int] = []
    end = 0
    for hit in _ESCAPED.finditer(text):
        letters += [text[end : hit.start()], _letter(hit)]
        places += [*range(end, hit.start()), hit.start()]
        end = hit.end()
    return "".join((*letters, text[end:])), [*places, *range(end, len(text) + 1)]


def _letter(hit: re.Match[str]) -> str:
    if hit[3] is not None:
        return chr(int(hit[3], 16))
    return chr(0x10000 + ((int(hit[1], 16) - 0xD800) << 10) + int(hit[2], 16) - 0xDC00)


def _moved(named: Named, places: Sequence[int]) -> Named:
    """The same name where it stands in the text as it's written."""
    spot = replace(named.spot, start=places[named.spot.start], end=places[named.spot.end])
    return replace(named, spot=spot)


def _named(start: int, end: int, whose: tuple[str, ...], part: str) -> Named:
    return Named(
        spot=Spot(kind=NAME, start=start, end=end), name=whose[0] if len(whose) == 1 else part, whose=whose
    )


def _touching(name: str) -> Iterator[str]:
    """The ways to write a name that may touch other words, and its parts."""
    pieces = _UNSPACED.findall(name)
    letters = "".join(pieces)
    written = {piece for piece in pieces if _SHORT.fullmatch(piece) or _letters(piece) >= CERTAIN}
    if len(letters) > 1 and letters == re.sub(r"[\s\u30fb\u00b7]", "", name):
        written |= {between.join(pieces) for between in _BETWEEN}
    for form in ("NFC", "NFD", "NFKC"):
        yield from (unicodedata.normalize(form, one) for one in sorted(written))


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


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
