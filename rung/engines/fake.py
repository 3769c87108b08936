"""The fake engine: the whole contract without weights, for tests, docs and dry runs.

Its "model" is a fixed next-token distribution for every context, made by hashing: deterministic,
different for every seed, and exactly normalised over 2²⁰ token ids. An id has three digits (low byte,
next byte, the four bits above), and its logit is the sum of a random number for each digit, so the
distribution is a product of three small ones and needs no sum over a million ids.
"""

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.instance import smallest
from rung.engines.schema import require_harmless_stops
from rung.engines.trie import Search, Trie, log_sum
from rung.errors import EngineError
from rung.records import Json

Tokens = tuple[int, ...]

DIGITS = (256, 256, 16)
CERTAIN = 30.0
"""Added to each digit of a known answer's next token: it then has all but e⁻³⁰ or so of the probability."""
LETTERS = range(ord("a"), ord("z") + 1)
LIKELY = 12.0
"""Added to the digits of plain letters, so that free text reads as text."""
END_SHARE = 0.2


def bytes_of(text: str) -> Tokens:
    """`text` as the fake engine's own tokens: its UTF-8 bytes."""
    return tuple(text.encode())


def text_of(tokens: Tokens) -> str:
    """The inverse of `bytes_of`; ids above 255 are shown as a replacement character."""
    return b"".join(bytes([token]) if token < 256 else b"\xff" for token in tokens).decode(errors="replace")


def _smallest(schema: Json) -> Tokens:
    return bytes_of(json.dumps(smallest(schema), separators=(",", ":")))


class FakeEngine:
    """Answers by hashing. `answers` maps prompts to the tokens of the right answer.

    That answer is what `generate` and `choose` give for a share `accuracy` of these prompts, picked by
    the seed; the others get a random one, which may be right by chance. `decode` turns tokens into text.
    """

    name = "fake"

    def __init__(
        self,
        spec: EngineSpec,
        *,
        seed: int = 0,
        answers: Mapping[Tokens, Tokens] | None = None,
        accuracy: float = 1.0,
        decode: Callable[[Tokens], str] = text_of,
    ):
        """Raises EngineError for an `accuracy` outside 0…1."""
        if not 0.0 <= accuracy <= 1.0:
            raise EngineError(f"the fake engine's accuracy is a share, 0…1; got {accuracy!r}")
        self._context = spec.context
        self._seed = seed
        self._decode = decode
        self._closed = False
        self._answers = {
            tuple(prompt): tuple(answer)
            for prompt, answer in (answers or {}).items()
            if self._random(tuple(prompt), "accuracy").random() < accuracy
        }
        self._known = {
            prompt + answer[:place]: answer[place]
            for prompt, answer in self._answers.items()
            for place in range(len(answer))
        }

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Known answers as they are, smallest instances for schemas, letters for everything else."""
        self._require_open()
        done = []
        for request in requests:
            require_harmless_stops(request.stop if request.schema is not None else ())
        for request in requests:
            done.append(self._complete(request))
            progress(len(done), len(requests))
        return done

    def choose(
        self,
        prompts: Sequence[Tokens],
        candidates: Sequence[Tokens],
        *,
        progress: Progress = no_progress,
        exhaustive: bool = False,
    ) -> list[Choice]:
        """Exact constrained decoding under the hashed distribution."""
        self._require_open()
        trie = Trie(candidates)
        done = []
        for prompt in prompts:
            done.append(self._choose(prompt, Search(trie, exhaustive=exhaustive), trie))
            progress(len(done), len(prompts))
        return done

    def next_logprobs(self, prompts: Sequence[Tokens], token_ids: Sequence[int]) -> list[list[float]]:
        """The hashed distribution's log-probabilities. Raises EngineError for an id of 2²⁰ or more."""
        self._require_open()
        return [self._logprobs(prompt, token_ids) for prompt in prompts]

    def memory_mb(self) -> float:
        """0: there are no weights."""
        return 0.0

    @property
    def closed(self) -> bool:
        """Whether it refuses all work from now on."""
        return self._closed

    def close(self) -> None:
        """Refuse any further call."""
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("this fake engine was closed; start another one")

    def _complete(self, request: Request) -> Completion:
        start = time.perf_counter()
        failure = self._refusal(request.prompt) or self._too_short(request)
        steps, truncated = ([], False) if failure else self._answer(request)
        tokens = tuple(token for token, _ in steps)
        text = self._decode(tokens)
        cut = min((place for stop in request.stop if (place := text.find(stop)) >= 0), default=None)
        if cut is not None:
            text = text[:cut]
            kept = next(size for size in range(len(tokens)) if len(self._decode(tokens[:size])) >= cut)
            steps = steps[:kept]
        return Completion(
            text=text,
            tokens=tuple(token for token, _ in steps),
            logprob=math.fsum(logprob for _, logprob in steps),
            prompt_tokens=len(request.prompt),
            latency_s=time.perf_counter() - start,
            truncated=truncated and cut is None,
            failure=f"generate: {failure}" if failure else None,
        )

    def _answer(self, request: Request) -> tuple[list[tuple[int, float]], bool]:
        """The answer's tokens with their log-probabilities, and whether the limit cut it."""
        planned = self._answers.get(request.prompt)
        limit = self._limit(request)
        cut = request.schema is not None and planned is not None and len(planned) > limit
        if request.schema is not None and (planned is None or cut):
            planned = _smallest(request.schema)
        dice = self._random(request.prompt, f"sample {request.seed}")
        context = request.prompt
        steps: list[tuple[int, float]] = []
        while len(steps) < limit:
            if planned is not None:
                token = planned[len(steps)] if len(steps) < len(planned) else None
            elif steps and self._random(context, "end").random() < END_SHARE:
                token = None
            else:
                token = self._draw(context, request.temperature, dice)
            if token is None or token in request.stop_ids:
                return steps, cut
            steps.append((token, self._logprobs(context, (token,))[0]))
            context += (token,)
        return steps, cut or planned is None or len(planned) > len(steps)

    def _limit(self, request: Request) -> int:
        return min(request.max_tokens, self._context - len(request.prompt))

    def _too_short(self, request: Request) -> str | None:
        """Why no answer to a schema fits, if so."""
        limit = self._limit(request)
        planned = self._answers.get(request.prompt)
        if request.schema is None or planned is not None and len(planned) <= limit:
            return None
        if len(least := _smallest(request.schema)) <= limit:
            return None
        return f"the smallest answer to the JSON Schema has {len(least)} tokens and there's room for {limit}"

    def _draw(self, context: Tokens, temperature: float, dice: random.Random) -> int:
        """The likeliest next token, or one drawn at `temperature`; digits are independent."""
        token = 0
        for place, logits in enumerate(self._digits(context)):
            if temperature > 0:
                top = max(logits)
                weights = [math.exp((logit - top) / temperature) for logit in logits]
                digit = dice.choices(range(len(logits)), weights)[0]
            else:
                digit = max(range(len(logits)), key=logits.__getitem__)
            token += digit << (8 * place)
        return token

    def _choose(self, prompt: Tokens, search: Search, trie: Trie) -> Choice:
        start = time.perf_counter()
        failure = self._refusal(prompt)
        evaluated = 0
        while not failure and (path := search.next()) is not None:
            search.feed(self._logprobs(prompt + path, trie.children(path)))
            evaluated += len(path) or len(prompt)
        index, logprobs = (0, (-math.inf,) * trie.size) if failure else search.result()
        return Choice(
            index=index,
            logprobs=logprobs,
            prompt_tokens=len(prompt),
            evaluated_tokens=evaluated,
            latency_s=time.perf_counter() - start,
            failure=f"choose: {failure}" if failure else None,
        )

    def _refusal(self, prompt: Tokens) -> str | None:
        if not prompt:
            return "the prompt is empty"
        if len(prompt) >= self._context:
            return f"the prompt has {len(prompt)} tokens and the context holds {self._context}: shorten it"
        return None

    def _logprobs(self, context: Tokens, token_ids: Sequence[int]) -> list[float]:
        digits = self._digits(context)
        total = sum(log_sum(logits) for logits in digits)
        outside = next((token for token in token_ids if not 0 <= token < 1 << 20), None)
        if outside is not None:
            raise EngineError(f"token id {outside!r} is outside the fake engine's vocabulary of 2²⁰")
        return [
            sum(logits[token >> (8 * place) & 255] for place, logits in enumerate(digits)) - total
            for token in token_ids
        ]

    def _digits(self, context: Tokens) -> list[list[float]]:
        """The logits of each digit of the next token."""
        dice = self._random(context, "logits")
        digits = [[dice.gauss(0.0, 1.5) for _ in range(size)] for size in DIGITS]
        known = self._known.get(context)
        for place, logits in enumerate(digits):
            if known is not None:
                logits[known >> (8 * place) & 255] += CERTAIN
            else:
                for digit in LETTERS if place == 0 else (0,):
                    logits[digit] += LIKELY
        return digits

    def _random(self, context: Tokens, purpose: str) -> random.Random:
        """Random numbers that depend on the seed, the context and the purpose, and on nothing else."""
        key = f"{self._seed}|{purpose}|{','.join(map(str, context))}"
        return random.Random(blake2b(key.encode(), digest_size=16).digest())
