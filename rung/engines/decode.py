"""Batched decoding in torch: a step for all rows at a time, finished rows dropped, JSON Schema as a mask."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rung.engines.base import Completion, Request
from rung.engines.closing import Closings
from rung.engines.grammar import Grammars, end_tokens, load_tokenizer
from rung.engines.held import HeldRows, empty_rows
from rung.engines.logits import exact_near_top, next_logits
from rung.engines.packed import Packed
from rung.engines.rows import Network, Rows

if TYPE_CHECKING:
    from llguidance import LLMatcher


@dataclass(kw_only=True)
class _Answer:
    """An answer as it grows."""

    request: Request
    limit: int
    ends: tuple[int, ...]
    matcher: "LLMatcher | None"
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0
    done: bool = False
    truncated: bool = False
    failure: str | None = None


class Decoder:
    """Completes batches of requests with one model. Holds its tokenizer and the grammars met so far."""

    def __init__(self, model: Network, folder: Path | None, packed: Packed | None = None) -> None:
        """`folder` holds tokenizer.json. Raises EngineError without it."""
        self.model, self.packed = model, packed
        self.tokenizer = load_tokenizer(folder)
        self.width: int = model.lm_head.weight.shape[0]
        self.grammars = Grammars(self.tokenizer, self.width, end_tokens(model.config))
        self.closings = Closings(self.grammars.spellings)
        self._before = self.tokenizer.encode("a", add_special_tokens=False).ids
        self._taken = len(self.tokenizer.decode(self._before))

    def check(self, requests: Sequence[Request]) -> None:
        """Raise EngineError, before anything runs, where no answer could be kept to its schema."""
        for request in requests:
            self.grammars.matcher(request)
        self.closings.check(requests)

    @torch.inference_mode()
    def run(
        self, requests: Sequence[Request], context: int, memory: Rows | HeldRows | None = None, skip: int = 0
    ) -> list[Completion]:
        """Answer all requests together. `memory` holds the first `skip` tokens, which all prompts share.

        A prompt that several requests have, as where answers are drawn, is read once.
        `latency_s` is the time from the start of the batch to the end of the answer.
        """
        start = time.perf_counter()
        answers = [self._begin(request, context) for request in requests]
        places: dict[tuple[int, ...], int] = {}
        reads = [places.setdefault(request.prompt, len(places)) for request in requests]
        rows = memory.spread(len(places)) if memory else empty_rows(self.model, self.packed, len(places))
        rows.feed([prompt[skip:] for prompt in places])
        if len(places) < len(reads):
            rows.keep(reads)
        live = answers
        while True:
            going = [place for place, answer in enumerate(live) if not answer.done]
            if len(going) < len(live):
                for answer in live:
                    answer.seconds = time.perf_counter() - start
                live = [live[place] for place in going]
                rows.keep(going)
            if not live:
                return [self._completion(answer, context) for answer in answers]
            if live[0].tokens:
                rows.feed([answer.tokens[-1:] for answer in live])
            self._step(live, rows.last)

    def _begin(self, request: Request, context: int) -> _Answer:
        limit = min(request.max_tokens, context - len(request.prompt))
        return _Answer(
            request=request,
            limit=limit,
            ends=self.grammars.ends(request),
            matcher=self.grammars.matcher(request),
            generator=torch.Generator().manual_seed(request.seed),
            done=limit <= 0,
            truncated=limit <= 0,
        )

    def _step(self, live: list[_Answer], hidden: torch.Tensor) -> None:
        """The next token of every row, with its log-probability under the unconstrained model."""
        logits = next_logits(self.model, hidden)
        allowed = self.grammars.allowed([answer.matcher for answer in live], self.width)
        total = logits.logsumexp(-1)
        if allowed is not None:
            mask = torch.from_numpy(allowed).to(logits.device)
            logits = exact_near_top(self.model, hidden, logits.masked_fill_(~mask, -math.inf))
        tokens = logits.argmax(-1)
        if hot := [place for place, answer in enumerate(live) if answer.request.temperature > 0]:
            some = logits if len(hot) == len(live) else logits[hot]
            tokens[hot] = torch.tensor(drawn(some, [live[place] for place in hot]), device=tokens.device)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
        for answer, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            self._take(answer, token, logprob)

    def _take(self, answer: _Answer, token: int, logprob: float) -> None:
        """Add a token to the answer, and see whether that ends it."""
        answer.drawn.append(token)
        if token in answer.ends:
            answer.done = True
            return
        answer.tokens.append(token)
        answer.logprobs.append(logprob)
        if answer.matcher is not None:
            answer.matcher.consume_token(token)
            if answer.matcher.is_error():
                answer.failure = f"generate: the grammar broke: {answer.matcher.get_error()}"
            answer.done = answer.matcher.is_stopped()
        if not answer.done and answer.request.stop:
            answer.done = self._cut(answer)
        if not answer.done and len(answer.tokens) >= answer.limit:
            answer.done = answer.truncated = True

    def _cut(self, answer: _Answer) -> bool:
        """Cut the answer before its first stop string, to the fewest tokens that spell what is left."""
        text = self._text(answer.tokens)
        places = [place for stop in answer.request.stop if stop and (place := text.find(stop)) >= 0]
        if not places:
            return False
        size = next(
            k for k in range(len(answer.tokens) + 1) if len(self._text(answer.tokens[:k])) >= min(places)
        )
        answer.text = text[: min(places)]
        del answer.tokens[size:], answer.logprobs[size:]
        return True

    def _text(self, tokens: Sequence[int]) -> str:
        """What tokens spell behind others: of a whole text, some decoders take the first blank away."""
        return self.tokenizer.decode([*self._before, *tokens], skip_special_tokens=True)[self._taken :]

    def _completion(self, answer: _Answer, context: int) -> Completion:
        completion = Completion(
            text=answer.text or self._text(answer.tokens),
            tokens=tuple(answer.tokens),
            logprob=math.fsum(answer.logprobs),
            prompt_tokens=len(answer.request.prompt),
            latency_s=answer.seconds,
            truncated=answer.truncated,
            failure=answer.failure,
            drawn=tuple(answer.drawn),
        )
        room = context - len(answer.request.prompt)
        return self.closings.close(
            answer.request, completion, room, lambda own: math.fsum(answer.logprobs[:own])
        )


def drawn(logits: torch.Tensor, answers: Sequence[_Answer]) -> list[int]:
    """A token for each row of `logits` [rows, vocabulary], at its request's temperature, from its nucleus.

    The cumulative distribution is inverted at one number of the row's own generator, so that what a row draws
    hangs on no other's. A call to multinomial for each row took an eighth of the time of a batch.
    """
    # Not torch's default type: another thread that loads a model sets that for the whole process meanwhile.
    temperatures = [answer.request.temperature for answer in answers]
    heat = torch.tensor(temperatures, dtype=torch.float32, device=logits.device)
    weights = (logits.float() / heat[:, None]).softmax(-1)
    for own, answer in zip(weights, answers, strict=True):
        if answer.request.top_p < 1:
            _keep_nucleus(own, answer.request.top_p)
    reached = weights.cumsum(-1, dtype=torch.float64)
    dice = [torch.rand(1, dtype=torch.float64, generator=answer.generator) for answer in answers]
    places = torch.stack(dice).to(logits.device) * reached[:, -1:]
    return torch.searchsorted(reached, places, right=True).clamp_(max=logits.shape[1] - 1)[:, 0].tolist()


def _keep_nucleus(weights: torch.Tensor, share: float) -> None:
    """Zero all but the fewest tokens that hold this share of the weights [vocabulary]."""
    ranked, places = weights.sort(descending=True)
    # One is in while those before it hold less.
    weights[places[ranked.cumsum(0) - ranked >= share]] = 0.0
