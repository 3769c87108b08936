"""Answers under a JSON Schema that always parse: cut where the rest still fits, and closed.

After each token of an answer the grammar knows what may follow, so a shortest end can be found
(`rung.engines.shortest`). An answer goes on as long as its tokens and those of such an end are
no more than the limit; what doesn't fit is left out and the last end put in its place.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rung.engines.base import Completion, Request
from rung.engines.examples import ONCE, endings_of
from rung.engines.schema import byte_grammar, require_harmless_stops, require_schema, tight
from rung.engines.shortest import Hints, Known, Place, completes, shortest
from rung.engines.spelling import Spelling, Vocabulary
from rung.errors import EngineError
from rung.records import Json

if TYPE_CHECKING:
    from llguidance import LLMatcher

LONGEST_END = 8192
"""Tokens of the smallest answer to a schema, above which it counts as having none."""
KEPT = 64
"""Schemas of which the compiled form is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """An answer that is valid under its schema. The first `own` of its tokens are the model's.

    `own_characters` is how many characters of the text they spell.
    `cut`: the model's answer broke off, and what follows its own tokens was put there to close it.
    `final`: nothing but a token that ends the answer may follow.
    """

    tokens: tuple[int, ...]
    text: str
    own: int
    own_characters: int
    cut: bool
    final: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A schema as a grammar over bytes, with the smallest answer to it and what `endings_of` says."""

    matcher: "LLMatcher"
    endings: tuple[bytes, ...]
    smallest: Spelling


class Closer:
    """One answer as it grows. Tokens that end an answer aren't part of it and aren't to be given.

    What `take` lets through is in the answer whatever follows, so a stream may send it. What it doesn't
    is to be held back until generation is over: the model may still end by itself within the limit.
    Then `Closings.closed` says what the whole answer is.
    """

    def __init__(self, vocabulary: Vocabulary, compiled: Compiled, limit: int) -> None:
        self._vocabulary, self._limit = vocabulary, limit
        self._endings = compiled.endings
        self._over = False
        self._matcher, self._place = compiled.matcher.deep_copy(), Place()
        self._end = compiled.smallest
        self._taken: list[int] = []

    @property
    def taken(self) -> tuple[int, ...]:
        """The tokens let through so far."""
        return tuple(self._taken)

    @property
    def closing(self) -> tuple[int, ...]:
        """Tokens that make an answer of those taken, no more of them than the limit leaves."""
        return self._end.tokens()

    def take(self, token: int) -> bool:
        """Whether a token may be part of the answer. After the first that may not none may."""
        text = self._vocabulary.text_of(token)
        room = min(self._limit - len(self._taken) - 1, LONGEST_END)
        self._over |= not text or room < 0
        if self._over:
            return False
        place = self._place.after(text)
        size = self._matcher.try_consume_tokens([*text])
        end = self._end_after(text, place, room) if size == len(text) else None
        if end is None:
            self._over = True
            return False
        self._place, self._end = place, end
        self._taken.append(token)
        return True

    def _end_after(self, text: bytes, place: Place, room: int) -> Spelling | None:
        """An end of at most `room` tokens after more text: what is left of the last one, it, or a new one."""
        for end in (self._end.after(len(text)), self._end):
            if end.count <= room and completes(self._matcher, end.text):
                return end
        hints = Hints(known=Known(self._end, self._place), endings=self._endings)
        return shortest(self._vocabulary, self._matcher, place, limit=room, hints=hints)


class Closings:
    """The smallest answers and the closings of one vocabulary; a schema is compiled once.

    Any number of threads may use it at once.
    """

    def __init__(self, spellings: Callable[[], Sequence[bytes]]) -> None:
        """`spellings` gives what each token adds to a text, by id; asked for with the first schema."""
        self._spellings = spellings
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._known: dict[str, Compiled] = {}

    def check(self, requests: Sequence[Request]) -> None:
        """Raise EngineError for a schema that can't be kept to and for stop strings that would break it."""
        for request in requests:
            if request.schema is not None:
                require_harmless_stops(request.stop)
                self._compiled(request.schema)

    def least_tokens(self, schema: Json) -> int:
        """How many tokens the smallest answer to a schema has, as far as the search tells.

        Raises EngineError where the schema can't be enforced, or asks for more than LONGEST_END tokens.
        """
        return self._compiled(schema)[1].smallest.count

    def refusal(self, request: Request, room: int) -> str | None:
        """Why no answer fits into the request's limit, or into the `room` that its prompt leaves, if so."""
        if request.schema is None:
            return None
        least = self.least_tokens(request.schema)
        if request.max_tokens < least:
            return (
                f"max_tokens is {request.max_tokens} and the smallest answer to the JSON Schema has {least} "
                f"tokens: raise it to {least} or more"
            )
        if room < least:
            return (
                f"the prompt has {len(request.prompt)} tokens and leaves {room} of the context, and the "
                f"smallest answer to the JSON Schema has {least}: shorten the prompt or raise the context"
            )
        return None

    def close(
        self, request: Request, completion: Completion, room: int, logprob: Callable[[int], float]
    ) -> Completion:
        """What an engine's completion becomes under the request's schema, if it has one.

        `room` is what the prompt leaves of the context, `logprob` gives the sum over the first tokens: the
        closing was never the model's choice and doesn't count.
        """
        if request.schema is None or completion.failure is not None:
            return completion
        closed = self.closed(request.schema, completion.tokens, min(request.max_tokens, room))
        if not closed.cut:
            return replace(completion, truncated=completion.truncated and not closed.final)
        return replace(
            completion,
            tokens=closed.tokens,
            text=closed.text,
            logprob=logprob(closed.own),
            truncated=True,
            own_characters=closed.own_characters,
        )

    def closer(self, schema: Json, limit: int) -> Closer:
        """A Closer for one answer. Raises EngineError where `limit` is under the schema's `least_tokens`."""
        vocabulary, compiled = self._compiled(schema)
        if limit < compiled.smallest.count:
            raise EngineError(
                f"{limit} tokens hold no answer to the JSON Schema: the smallest one has "
                f"{compiled.smallest.count}"
            )
        return Closer(vocabulary, compiled, limit)

    @property
    def knows_words(self) -> bool:
        """Whether the vocabulary was read, which takes a while."""
        return self._vocabulary is not None

    def text_of(self, tokens: Sequence[int]) -> str:
        """What tokens spell; those that steer the model spell nothing, half a character is a U+FFFD."""
        return b"".join(map(self._words().text_of, tokens)).decode(errors="replace")

    def spelled(self, text: str, last: Sequence[int], count: int) -> tuple[int, ...]:
        """`count` tokens that spell what stands in `text` before its `last` ones."""
        vocabulary = self._words()
        ends = b"".join(map(vocabulary.text_of, last))
        return vocabulary.spell_in(text.encode().removesuffix(ends), count)

    def closed(self, schema: Json, tokens: Sequence[int], limit: int) -> Closed:
        """The answer that a model's tokens make: they themselves where they are one, else cut and closed.

        It has `limit` tokens at most. Raises EngineError where that is under the schema's `least_tokens`.
        """
        vocabulary, compiled = self._compiled(schema)
        text = b"".join(map(vocabulary.text_of, tokens))
        matcher = compiled.matcher.deep_copy()
        whole = len(tokens) <= limit and all(map(vocabulary.text_of, tokens))
        if whole and matcher.try_consume_tokens([*text]) == len(text) and matcher.is_accepting():
            return _closed(vocabulary, tokens, len(tokens), final=matcher.is_stopped())
        closer = self.closer(schema, limit)
        for token in tokens:
            if not closer.take(token):
                break
        own = closer.taken
        return _closed(vocabulary, (*own, *closer.closing), len(own), cut=True)

    def _compiled(self, schema: Json) -> tuple[Vocabulary, Compiled]:
        vocabulary, key = self._words(), json.dumps(schema)
        found = self._known.get(key)
        if found is None:
            # Outside the lock: who asks with another schema doesn't wait for this one.
            found = _compile(schema, vocabulary)
            with self._lock:
                self._known[key] = found
                if len(self._known) > KEPT:
                    self._known.pop(next(iter(self._known)))
        return vocabulary, found

    def _words(self) -> Vocabulary:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._spellings())
            return self._vocabulary


def _closed(
    vocabulary: Vocabulary, tokens: Sequence[int], own: int, *, cut: bool = False, final: bool = False
) -> Closed:
    text = b"".join(map(vocabulary.text_of, tokens)).decode()
    # A character that the model began and the closing ended is the closing's.
    mine = b"".join(map(vocabulary.text_of, tokens[:own])).decode(errors="ignore")
    return Closed(tokens=tuple(tokens), text=text, own=own, own_characters=len(mine), cut=cut, final=final)


def _compile(schema: Json, vocabulary: Vocabulary) -> Compiled:
    require_schema(schema)
    form = tight(schema)
    matcher = byte_grammar(form)
    if matcher.is_error():
        raise EngineError(f"the JSON Schema can't be enforced: {matcher.get_error()}; simplify it")
    endings = endings_of(form, vocabulary, LONGEST_END)
    hints = Hints(endings=endings)
    smallest = shortest(vocabulary, matcher, Place(), limit=LONGEST_END, hints=hints, work=ONCE)
    if smallest is None:
        raise EngineError(
            f"no answer to this JSON Schema was found that ends within {LONGEST_END} tokens: see whether a "
            "part of it requires itself without end, ask for fewer items, or write its patterns simpler"
        )
    return Compiled(matcher=matcher, endings=endings, smallest=smallest)
