"""Bytes as tokens: the fewest tokens of a vocabulary that spell a text, whichever they are."""

from collections.abc import Sequence

UNSPELT = 1 << 30
"""More tokens than any text needs: there is no way to spell it."""


class Vocabulary:
    """The tokens that add bytes to a text. Where two add the same, the later one stands for both.

    Vocabularies with a token for each single byte have these in front.
    """

    def __init__(self, spellings: Sequence[bytes]) -> None:
        """`spellings` holds what each token adds, by id; nothing for tokens that steer the model."""
        self.spellings = spellings
        self._ids = {text: token for token, text in enumerate(spellings) if text}
        firsts: list[set[int]] = [set() for _ in range(256)]
        lasts: list[set[int]] = [set() for _ in range(256)]
        for text in self._ids:
            firsts[text[0]].add(len(text))
            lasts[text[-1]].add(len(text))
        self._beginning = [tuple(sorted(sizes)) for sizes in firsts]
        self._ending = [tuple(sorted(sizes)) for sizes in lasts]

    def text_of(self, token: int) -> bytes:
        """What a token adds to a text; nothing for one that steers the model and for one that isn't there."""
        return self.spellings[token] if 0 <= token < len(self.spellings) else b""

    def extend(self, costs: list[int], text: bytes) -> list[int]:
        """The fewest tokens for each beginning of `text`, whose first ones, from none on, `costs` holds."""
        costs, ids = [*costs], self._ids
        for end in range(len(costs), len(text) + 1):
            best = UNSPELT
            for size in self._ending[text[end - 1]]:
                if size > end:
                    break
                if costs[end - size] < best - 1 and text[end - size : end] in ids:
                    best = costs[end - size] + 1
            costs.append(best)
        return costs

    def spell(self, text: bytes, tail: "Spelling | None" = None) -> "Spelling":
        """`text`, and `tail` behind it."""
        whole = text + tail.text if tail else text
        counts = [*tail.counts] if tail else [0]
        counts.reverse()  # grows at its end, towards the beginning of the text
        size, ids = len(whole), self._ids
        for begin in range(len(text) - 1, -1, -1):
            best = UNSPELT
            for length in self._beginning[whole[begin]]:
                if begin + length > size:
                    break
                rest = counts[size - begin - length]
                if rest < best - 1 and whole[begin : begin + length] in ids:
                    best = rest + 1
            counts.append(best)
        counts.reverse()
        return Spelling(self, whole, counts)

    def spell_in(self, text: bytes, count: int) -> tuple[int, ...]:
        """`text` in `count` tokens; in as few as can be where none of that many spell it."""
        ways: dict[int, tuple[int, ...]] = {0: ()}
        for _ in range(count):
            ways = {
                at + size: (*before, self._ids[text[at : at + size]])
                for at, before in ways.items()
                if at < len(text)
                for size in self._beginning[text[at]]
                if text[at : at + size] in self._ids and at + size <= len(text)
            }
        found = ways.get(len(text))
        return self.spell(text).tokens() if found is None else found

    def token(self, text: bytes) -> int | None:
        """The token that adds exactly `text`."""
        return self._ids.get(text)

    def sizes(self, first: int) -> tuple[int, ...]:
        """The lengths of the tokens that begin with a byte, the shortest first."""
        return self._beginning[first]


class Spelling:
    """A text with the fewest tokens that each of its endings needs: `counts` [bytes + 1]."""

    def __init__(self, vocabulary: Vocabulary, text: bytes, counts: Sequence[int]) -> None:
        self.vocabulary, self.text, self.counts = vocabulary, text, counts

    @property
    def count(self) -> int:
        """The fewest tokens for the whole text."""
        return self.counts[0]

    def after(self, size: int) -> "Spelling":
        """What is left behind the first bytes."""
        size = min(size, len(self.text))
        return Spelling(self.vocabulary, self.text[size:], self.counts[size:])

    def tokens(self) -> tuple[int, ...]:
        """These fewest tokens; of several ways the one whose tokens are the longest first."""
        found: list[int] = []
        place = 0
        while place < len(self.text):
            for size in reversed(self.vocabulary.sizes(self.text[place])):
                if place + size > len(self.text) or self.counts[place + size] != self.counts[place] - 1:
                    continue
                token = self.vocabulary.token(self.text[place : place + size])
                if token is not None:
                    found.append(token)
                    place += size
                    break
            else:
                raise ValueError(f"no tokens spell {self.text[place:]!r}")
        return tuple(found)
