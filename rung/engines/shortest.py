"""The shortest way from anywhere within a JSON text to its end under a grammar, in few tokens.

A best-first search over bytes. Where a string, a number, an array or an object may end it ends: more of it
would never be less. At every other place the bytes that may come next are tried, of like ones a few. Two
ways that lead to the same place in the text, with the same bytes allowed next, are one: the cheaper.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rung.engines.schema import END
from rung.engines.spelling import Spelling, Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

MOST_WORK = 200_000
"""Bytes of all ways that a search makes, and WAY_WORK for each, before it gives up."""
WAY_WORK = 100
"""Bytes of a text that cost as much as all else about a way."""
MOST_BYTES = 8192
"""Of a way to the end: under a schema that only ever asks for more there is none."""
BYTE_COST = 1 / 16
"""Of a token: of ways with about as many tokens the shorter one comes first."""
CHOICE_COST = 1 / 2
"""Of a token, for a byte of a string that nothing asked for, where a pattern asks for some."""
FREE = 48
"""Of more bytes than these that may come next letters are taken to be all alike, and digits."""
ALIKE = 3
"""How many bytes of a string are tried of those after which the same may follow: tokens hold runs of some."""
QUOTE, ESCAPE, COMMA, COLON = b'"\\,:'
PLAIN = bytes(byte for byte in range(32, 127) if byte != ESCAPE and not chr(byte).isalnum()) + b"0aA1"
FIRST_INSIDE = b" 1-=0a_.A*"
"""The bytes of a string to try first: a 0 might stand for the year 0, which is no date."""
FIRST_OUTSIDE = b'"0'
_Group: TypeAlias = list[tuple[int, int]]
"""(rank, byte) of bytes after which the same may follow."""
NOTHING: frozenset[bytes] = frozenset()


class Place(NamedTuple):
    """Where in a JSON text a beginning of it ends.

    `counts`: commas so far in each open array and object. `length`: bytes of the open string or number.
    """

    counts: tuple[int, ...] = ()
    inside: bool = False
    escaped: bool = False
    length: int = 0

    def after(self, text: bytes) -> "Place":
        """The place behind more of the text."""
        counts, inside, escaped, length = self
        for byte in text:
            length += 1
            if inside:
                inside = escaped or byte != QUOTE
                escaped = byte == ESCAPE and not escaped
                length *= inside
            elif byte == QUOTE:
                inside, length = True, 0
            elif byte in b"{[":
                counts, length = (*counts, 0), 0
            elif byte in b"}]":
                counts, length = counts[:-1], 0
            elif byte == COMMA:
                counts, length = (*counts[:-1], counts[-1] + 1), 0
            elif byte == COLON:
                length = 0
        return Place(counts, inside, escaped, length)


class Known:
    """An end that was found before, with the places in it where a value is over, by how deep they lie."""

    def __init__(self, spelling: Spelling, place: Place) -> None:
        """`place` is where the text of `spelling` goes on from."""
        self.spelling = spelling
        self.joints: dict[int, list[int]] = {}
        for index in range(len(spelling.text)):
            byte = spelling.text[index : index + 1]
            if not place.inside and byte in b",]}":
                self.joints.setdefault(len(place.counts), []).append(index)
            place = place.after(byte)

    def rest(self, matcher: "LLMatcher", place: Place) -> Spelling | None:
        """The shortest part of it that completes the grammar from here."""
        if place.inside:
            return None
        for index in reversed(self.joints.get(len(place.counts), ())):
            if completes(matcher, self.spelling.text[index:]):
                return self.spelling.after(index)
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """What a search needn't find out by itself.

    `known` is the end of an earlier place of the same text. `endings` are strings that the schema's
    patterns, formats and lengths take, from each of their bytes to the quote, the shortest first.
    `literals` are what a pattern spells out: after a part of it the same bytes may come next as after
    anything else, so a search that goes by those alone wouldn't find the rest.
    """

    known: Known | None = None
    endings: tuple[bytes, ...] = ()
    literals: tuple[bytes, ...] = ()


def shortest(
    vocabulary: Vocabulary,
    matcher: "LLMatcher",
    place: Place,
    *,
    limit: int,
    hints: Hints,
    work: int = MOST_WORK,
) -> Spelling | None:
    """A text of at most `limit` tokens that completes the grammar; None where the search finds none.

    `matcher`, of llguidance's vocabulary of bytes, is left as it is.
    """
    return _Search(vocabulary, limit, hints).run(matcher, place, work)


def completes(matcher: "LLMatcher", text: bytes) -> bool:
    """Whether `text` is allowed and may be the end."""
    return matcher.validate_tokens([*text, END]) == len(text) + 1


def allows(matcher: "LLMatcher", text: bytes) -> bool:
    """Whether `text` may come next."""
    return matcher.validate_tokens([*text]) == len(text)


@dataclass(order=True, slots=True)
class _Way:
    """A beginning of a way. `rank` is lower the more of its bytes were first choice.

    `costs` holds the fewest tokens for each beginning of `text`, `spelt` the literals in the open
    string. One that leads to the end has that `end`, and no matcher.
    """

    cost: float
    rank: int
    number: int
    chosen: int = field(compare=False)
    text: bytes = field(compare=False)
    costs: list[int] = field(compare=False)
    place: Place = field(compare=False)
    spelt: frozenset[bytes] = field(compare=False)
    matcher: "LLMatcher | None" = field(compare=False)
    end: Spelling | None = field(compare=False, default=None)


@dataclass(frozen=True, slots=True)
class _Step:
    """Bytes to go on with, and what choosing them says of the way."""

    text: bytes
    rank: int = 0
    chosen: int = 0
    spelt: frozenset[bytes] = NOTHING


class _Search:
    """One search: its open ways, and what the cheapest way to each place cost."""

    def __init__(self, vocabulary: Vocabulary, limit: int, hints: Hints) -> None:
        self.vocabulary, self.limit, self.hints = vocabulary, limit, hints
        self.open: list[_Way] = []
        self.best: dict[tuple, tuple[float, int]] = {}
        self.free: dict[int, list[_Group]] = {}
        self.made = self.work = 0

    def run(self, matcher: "LLMatcher", place: Place, work: int) -> Spelling | None:
        """The cheapest way to the end, if it is found with so much work."""
        self._go(_Way(0, 0, 0, 0, b"", [0], place, NOTHING, matcher), _Step(b""))
        while self.open and self.work < work:
            way = heapq.heappop(self.open)
            if way.end is not None:
                return way.end
            self._look(way)
        return None

    def _look(self, way: _Way) -> None:
        """Go on from where a way has led."""
        assert way.matcher is not None, "it isn't at the end"
        allowed = mask_of(way.matcher)
        if allowed >> END & 1:
            self._end(way, None)
        elif (rest := self._known(way.matcher, way.place)) is not None:
            self._end(way, rest)
        else:
            steps = self._inside if way.place.inside else self._outside
            for step in steps(way, way.matcher, allowed):
                self._go(way, step)

    def _known(self, matcher: "LLMatcher", place: Place) -> Spelling | None:
        known = self.hints.known
        return None if known is None else known.rest(matcher, place)

    def _end(self, way: _Way, rest: Spelling | None) -> None:
        end = self.vocabulary.spell(way.text, rest)
        if end.count <= self.limit:
            self.made += 1
            cost = end.count + len(end.text) * BYTE_COST + way.chosen * CHOICE_COST
            done = _Way(cost, way.rank, self.made, 0, end.text, [], way.place, NOTHING, None, end)
            heapq.heappush(self.open, done)

    def _outside(self, way: _Way, matcher: "LLMatcher", allowed: int) -> Iterator[_Step]:
        """What a value or a key may begin with, and digits: from 704 on a 9 leads to fewer than a 1.

        Where one byte is a whole value nothing else is less but an empty string, whose quotes share tokens.
        """
        groups = _alike(matcher, allowed, FIRST_OUTSIDE)
        whole = [group for group in groups if _ends_after(matcher, group[0][1], way.place)]
        for group in groups:
            for rank, byte in dict.fromkeys((group[0], group[-1])):
                if not whole or group in whole or byte == QUOTE:
                    yield _Step(bytes([byte]), rank)

    def _inside(self, way: _Way, matcher: "LLMatcher", allowed: int) -> Iterator[_Step]:
        """How a string may go on that can't end yet: beside an example, only by bytes unlike all others."""
        ending = next((text for text in self.hints.endings if allows(matcher, text)), None)
        if ending is not None:
            yield _Step(ending)
        free = allowed.bit_count() > FREE
        groups = self.free.get(allowed) if free else None
        if groups is None and not (free and ending):
            groups = _alike(matcher, allowed, FIRST_INSIDE)
            if free:
                self.free[allowed] = groups
        charge = int(bool(self.hints.literals))
        for group in groups or ():
            for rank, byte in group[:ALIKE] if ending is None or len(group) == 1 else ():
                yield _Step(bytes([byte]), rank, charge, way.spelt)
        for literal in self.hints.literals:
            if allows(matcher, literal):
                yield _Step(literal, spelt=way.spelt | {literal})

    def _go(self, way: _Way, step: _Step) -> None:
        """The way that goes on with a step, with all that must follow it, and by ending what may end."""
        assert way.matcher is not None, "it isn't at the end"
        self.work += WAY_WORK + len(way.text)
        matcher, place, text, more = way.matcher.deep_copy(), way.place, way.text, step.text
        while True:
            matcher.consume_tokens([*more])
            forced = matcher.compute_ff_bytes()
            if len(text) + len(more) + len(forced) > MOST_BYTES:
                return
            matcher.consume_tokens([*forced])
            place, text = place.after(more + forced), text + more + forced
            more = _over(mask_of(matcher), place)
            if not more or self._known(matcher, place) is not None:
                break
        costs = self.vocabulary.extend(way.costs, text)
        if costs[-1] > self.limit:
            return
        spelt = step.spelt if place.inside else NOTHING
        value = text[-place.length :] if place.length else b""
        key = (place, mask_of(matcher), value[:1], value[-1:], spelt)
        rank, chosen = way.rank + step.rank, way.chosen + step.chosen
        cost = costs[-1] + len(text) * BYTE_COST + chosen * CHOICE_COST
        if key in self.best and self.best[key] <= (cost, rank):
            return
        self.best[key] = (cost, rank)
        self.made += 1
        heapq.heappush(self.open, _Way(cost, rank, self.made, chosen, text, costs, place, spelt, matcher))


def mask_of(matcher: "LLMatcher") -> int:
    """The bytes that may come next, and END, as the bits of a number."""
    return int.from_bytes(matcher.compute_bitmask(), "little")


def _alike(matcher: "LLMatcher", allowed: int, first: bytes) -> list[_Group]:
    """The bytes that may come next, in groups of those after which the same may follow."""
    options = [byte for byte in range(256) if allowed >> byte & 1]
    if len(options) > FREE:
        options = [byte for byte in options if byte in PLAIN] or options[:FREE]
    options.sort(key=lambda byte: first.find(byte) if byte in first else 256 + byte)
    groups: dict[tuple[int, bytes], _Group] = {}
    for rank, byte in enumerate(options):
        matcher.consume_token(byte)
        groups.setdefault((mask_of(matcher), matcher.compute_ff_bytes()), []).append((rank, byte))
        matcher.rollback(1)
    return [*groups.values()]


def _ends_after(matcher: "LLMatcher", byte: int, place: Place) -> bool:
    """Whether a byte may be all of a value."""
    matcher.consume_token(byte)
    allowed = mask_of(matcher)
    matcher.rollback(1)
    return bool(_over(allowed, place.after(bytes([byte])))) or bool(allowed >> END & 1)


def _over(allowed: int, place: Place) -> bytes:
    """The byte that ends what is open, or that goes on behind it, where one may come."""
    if place.inside:
        return b'"' if not place.escaped and allowed >> QUOTE & 1 else b""
    return next((bytes([byte]) for byte in b"}],:" if allowed >> byte & 1), b"")
