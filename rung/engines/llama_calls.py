"""What one request asks llama.cpp's server for: generators that yield calls and are sent the answers.

They don't wait for anything themselves, so that a thread of the engine and an event loop that serves
drive the same logic. A call that was refused is thrown into them as `Refused`.
"""

import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

from rung.engines import llama_wire as wire
from rung.engines.base import Choice, Completion, EngineSpec, Request
from rung.engines.closing import Closings
from rung.engines.trie import NO_NUMBERS, Search, Trie
from rung.engines.unchanged import unchanged
from rung.engines.work import Refused
from rung.errors import EngineError
from rung.models.tokens import gguf_tokenizer

R = TypeVar("R")
Tokens = tuple[int, ...]

TOP_FIRST = 32
"""How many likeliest tokens are read before others are asked for by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One POST to the server."""

    path: str
    body: wire.Wire


Steps: TypeAlias = Generator[Call, Mapping, R]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The calls to one model whose slots hold `context` tokens each."""

    context: int
    closings: Closings
    letter: list[int] = field(default_factory=list)

    def complete(self, request: Request, slot: int) -> Steps[Completion]:
        """Text after a prompt; one that is refused has its `failure` set."""
        start = time.perf_counter()
        try:
            room = self.room_for(request)
            answer = yield Call(path="/completion", body=wire.completion_call(request, room, slot))
            return self.read(answer, request, start)
        except Refused as refusal:
            return refused(request, refusal, start)

    def read(self, answer: Mapping, request: Request, start: float) -> Completion:
        """The completion in the server's answer: cut at a stop token, and closed under a schema."""
        tokens = list(answer["tokens"])
        text = answer["content"]
        kept = wire.first_stop(tokens, request.stop_ids)
        if answer["stop_type"] == "word" and kept == len(tokens):
            kept = self._fewest(text, tokens)
        elif answer["stop_type"] in ("word", "eos"):
            if kept < len(tokens) - 1:
                # A stop token that the model goes on after, be it to its end, may be text.
                text = self.closings.text_of(tokens[:kept])
            kept = min(kept, len(tokens) - 1)
        elif kept < len(tokens):
            text = self.closings.text_of(tokens[:kept])
        completion = Completion(
            text=text,
            tokens=tuple(tokens[:kept]),
            logprob=wire.read_logprob(answer, kept),
            prompt_tokens=len(request.prompt),
            latency_s=time.perf_counter() - start,
            truncated=answer["stop_type"] == "limit" and kept == len(tokens),
        )
        room = self.room(request.prompt)
        return self.closings.close(request, completion, room, partial(wire.read_logprob, answer))

    def choose(self, prompt: Tokens, trie: Trie, slot: int, exhaustive: bool = False) -> Steps[Choice]:
        """The likeliest candidate, by best-first search; one that is refused has its `failure` set."""
        start = time.perf_counter()
        search = Search(trie, exhaustive=exhaustive)
        evaluated = 0
        failure = None
        try:
            self.room(prompt)
            while (path := search.next()) is not None:
                logprobs, cost = yield from self._among(prompt + path, trie.children(path), slot)
                search.feed(logprobs)
                evaluated += cost
            index, found = search.result()
        except Refused as refusal:
            index, found, failure = 0, (-math.inf,) * trie.size, f"choose: {refusal}"
        return Choice(
            index=index,
            logprobs=found,
            prompt_tokens=len(prompt),
            evaluated_tokens=evaluated,
            latency_s=time.perf_counter() - start,
            failure=failure,
        )

    def next(self, prompt: Tokens, wanted: Sequence[int], slot: int) -> Steps[dict[int, float]]:
        """Log-probability of each of `wanted`: read off the top, or by its ratio to the top token."""
        if not wanted:
            return {}
        self.room(prompt)
        top, _ = yield from self._top(prompt, TOP_FIRST, slot)
        if all(token in top for token in wanted):
            return {token: top[token] for token in wanted}
        anchor = max(top, key=top.__getitem__)
        group = list(dict.fromkeys([anchor, *wanted]))
        logprobs, _ = yield from self._among(prompt, group, slot)
        return {
            token: value - logprobs[0] + top[anchor] for token, value in zip(group, logprobs, strict=True)
        }

    def text_of(self, tokens: Sequence[int]) -> Steps[str]:
        """What the server makes of token ids, control tokens by name."""
        answer = yield Call(path="/detokenize", body={"tokens": list(tokens)})
        return answer["content"]

    def room_for(self, request: Request) -> int:
        """The same for a request; refuses one whose schema needs more tokens than it may have."""
        room = self.room(request.prompt)
        if refusal := self.closings.refusal(request, room):
            raise Refused(refusal)
        return room

    def room(self, prompt: Tokens) -> int:
        """How many tokens may follow `prompt`; refuses an empty one and one that fills the context."""
        if not prompt:
            raise Refused("the prompt is empty")
        if len(prompt) >= self.context:
            raise Refused(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}: "
                "shorten it or raise the context"
            )
        return self.context - len(prompt)

    def _among(self, prompt: Tokens, token_ids: Sequence[int], slot: int) -> Steps[tuple[list[float], int]]:
        """Log-probabilities of `token_ids`, up to a constant, and how many tokens were evaluated."""
        answer = yield Call(path="/completion", body=wire.among_call(prompt, token_ids, slot))
        cost = answer["timings"]["prompt_n"]
        logprobs = wire.read_among(answer, token_ids)
        if logprobs is None:
            everything, more = yield from self._top(prompt, wire.EVERY_TOKEN, slot)
            logprobs = [everything.get(token, -math.inf) for token in token_ids]
            cost += more
        return _numbers(logprobs), cost

    def _top(self, prompt: Tokens, count: int, slot: int) -> Steps[tuple[dict[int, float], int]]:
        """The `count` likeliest next tokens' log-probabilities, and how many tokens were evaluated."""
        if not self.letter:
            answer = yield Call(path="/tokenize", body={"content": "a", "add_special": False})
            self.letter.extend(answer["tokens"])
        answer = yield Call(path="/completion", body=wire.top_call(prompt, count, slot, self.letter[-1]))
        found = wire.read_top(answer)
        _numbers(found.values())
        return found, answer["timings"]["prompt_n"]

    def _fewest(self, text: str, tokens: Sequence[int]) -> int:
        """How many leading `tokens` spell at least `text`."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if len(self.closings.text_of(tokens[:middle])) >= len(text):
                high = middle
            else:
                low = middle + 1
        return low


def calls_to(spec: EngineSpec) -> Calls:
    """The calls to the model of a spec. Raises EngineError where it names no GGUF file."""
    path = spec.gguf
    if path is None:
        raise EngineError("the llama engine needs a GGUF file; none was given")

    def spellings() -> list[bytes]:
        with unchanged((), spec.base):
            return gguf_tokenizer(path).spellings()

    return Calls(context=spec.context, closings=Closings(spellings))


def _numbers(logprobs: Iterable[float]) -> list[float]:
    """These, which have to be numbers."""
    found = list(logprobs)
    if any(map(math.isnan, found)):
        raise Refused(NO_NUMBERS)
    return found


def refused(request: Request, refusal: Refused, start: float) -> Completion:
    """The completion of a request that the server didn't take; `start` is of `time.perf_counter`."""
    return Completion(
        text="",
        tokens=(),
        logprob=0.0,
        prompt_tokens=len(request.prompt),
        latency_s=time.perf_counter() - start,
        failure=f"generate: {refusal}",
    )
