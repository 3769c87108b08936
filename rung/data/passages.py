"""Documents cut into passages along headings, paragraphs and sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rung.data.documents import HEADING, Document, heading_words
from rung.errors import DataError
from rung.records import Passage
from rung.scoring.extract import words

WORDS = 160
"""At most so many in a passage: about 210 tokens, of which a sentence vector sees 256."""
CHARACTERS = 8 * WORDS
"""At most so many in a passage, whatever they are: tables and code are many tokens and few words."""
OVERLAP_WORDS = 30
"""Up to so many, in whole sentences, are repeated where a passage ends within a paragraph."""
MAX_PASSAGES = 100_000

_SENTENCE = re.compile(r"\n[ \t]*\n\s*|(?<=[.!?…])[\"'”’)\]]*\s+|[。！？]+[”’」』）】\])]*\s*|\n")
_PIECE = re.compile(r"\S{1,32}\s{0,32}|\s{1,32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of a text from `start` to `end`, and how many words it has; `fresh`: a paragraph begins."""

    start: int
    end: int
    words: int
    fresh: bool = False


def passages_of(documents: Sequence[Document]) -> tuple[Passage, ...]:
    """The passages of all documents, numbered from 1 within each: `handbook.md#3`.

    A document's passages depend on it alone. Every character of it that isn't blank is in one, at least.
    Raises DataError for more than a search by comparing all of them is fit for.
    """
    found: list[Passage] = []
    for document in documents:
        for number, (start, end, heading) in enumerate(cut(document.text), start=1):
            title = document.title if heading in ("", document.title) else f"{document.title}: {heading}"
            text = document.text[start:end].strip()
            found.append(Passage(id=f"{document.id}#{number}", title=title.strip(": "), text=text))
        if len(found) > MAX_PASSAGES:
            raise DataError(
                f"the documents make over {MAX_PASSAGES:,} passages, at {document.id!r}; leave some out"
            )
    return tuple(found)


def cut(text: str) -> list[tuple[int, int, str]]:
    """Where each passage of a text starts and ends, and the heading that it stands under.

    A passage never goes on past a heading; headings that follow each other stay with what comes after. It
    ends with a paragraph where that leaves it half full, else with a sentence, else, in a sentence of more
    than `WORDS` words, between words, else anywhere.
    """
    found = []
    for start, end, heading in _sections(text):
        packed = _packed(list(_spans(text, start, end)))
        found += [(first, last, heading) for first, last in packed if text[first:last].strip()]
    return found


def _sections(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and heading of what stands between headings."""
    start, heading, body = 0, "", 0
    for match in HEADING.finditer(text):
        if text[body : match.start()].strip():
            yield start, match.start(), heading
            start = match.start()
        heading, body = heading_words(match), match.end()
    if text[start:].strip():
        yield start, len(text), heading


def _spans(text: str, start: int, end: int) -> Iterator[Span]:
    """Sentences, whole with the blanks after them; those that fill more than a passage in pieces."""
    fresh = True
    while start < end:
        match = _SENTENCE.search(text, start, end)
        stop = match.end() if match else end
        count = len(words(text[start:stop]))
        if count <= WORDS and stop - start <= CHARACTERS:
            yield Span(start=start, end=stop, words=count, fresh=fresh)
        else:
            yield from _pieces(text, start, stop, fresh=fresh)
        fresh = match is not None and match[0].count("\n") > 1
        start = stop


def _pieces(text: str, start: int, end: int, *, fresh: bool) -> Iterator[Span]:
    """A long sentence in pieces, a quarter of a passage at most, cut between words where it can be."""
    first, held = start, 0
    for match in _PIECE.finditer(text, start, end):
        count = len(words(match[0]))
        full = held + count > WORDS // 4 or match.end() - first > CHARACTERS // 4
        if match.start() > first and full:
            yield Span(start=first, end=match.start(), words=held, fresh=fresh)
            first, held, fresh = match.start(), 0, False
        held += count
    yield Span(start=first, end=end, words=held, fresh=fresh)


def _packed(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Spans put together, as many as a passage holds."""
    first = 0
    while first < len(spans):
        last = _filled(spans, first)
        if last < len(spans) and not spans[last].fresh:
            last = _paragraph_end(spans, first, last) or last
        yield spans[first].start, spans[last - 1].end
        if last == len(spans):
            return
        first = last if spans[last].fresh else _overlapped(spans, first, last)


def _filled(spans: Sequence[Span], first: int) -> int:
    """The span after the last that a passage from `first` on holds; one at least."""
    held, last = 0, first
    while last < len(spans):
        held += spans[last].words
        if last > first and (held > WORDS or spans[last].end - spans[first].start > CHARACTERS):
            break
        last += 1
    return last


def _paragraph_end(spans: Sequence[Span], first: int, last: int) -> int | None:
    """Where the last paragraph begins in the second half of a passage; None where none does."""
    for place in range(last - 1, first, -1):
        if spans[place].fresh and 2 * sum(span.words for span in spans[first:place]) >= WORDS:
            return place
    return None


def _overlapped(spans: Sequence[Span], first: int, last: int) -> int:
    """Where the next passage begins: a few sentences before `last`, if they leave room for what is new."""
    held, place = 0, last
    while place - 1 > first and held + spans[place - 1].words <= OVERLAP_WORDS:
        place -= 1
        held += spans[place].words
    return place if _filled(spans, place) > last else last
