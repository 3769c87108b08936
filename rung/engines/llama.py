"""The llama engine: a GGUF model in llama.cpp, in a child process behind loopback HTTP.

Requests run `parallel` at a time, each in the slot whose cache already holds most of its prompt. A
request that the server refuses becomes a failed answer. If the child dies it is started again and what
was in flight is asked once more; a request that sees it die twice ends the batch with an EngineError.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import httpx

from rung.engines import llama_wire as wire
from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.llama_process import Child
from rung.engines.schema import require_schema
from rung.engines.slots import Slots
from rung.engines.trie import Search, Trie
from rung.engines.work import Refused, prefix_order, run_batch
from rung.errors import EngineError

R = TypeVar("R")
Tokens = tuple[int, ...]

DEATH_WAIT_S = 5.0
"""A connection broke: how long a dying process may take to be gone."""
TOP_FIRST = 32
"""How many likeliest tokens are read before others are asked for by name."""


class LlamaEngine:
    """Answers from one GGUF model and at most one GGUF adapter.

    Any number of threads may call it at once. `request_limit_s` bounds each single request.
    """

    name = "llama"

    def __init__(self, spec: EngineSpec, *, request_limit_s: float = 600.0):
        """Start the child and load the model; raises EngineError if that can't be done."""
        if spec.gguf is None:
            raise EngineError("the llama engine needs a GGUF file; none was given")
        for path in (spec.gguf, spec.adapter):
            if path is not None and not path.is_file():
                raise EngineError(f"no such file: {str(path)!r}; the llama engine reads GGUF files")
        self._spec = spec
        self._limit_s = request_limit_s
        self._slots = Slots(spec.parallel)
        self._lock = threading.Lock()
        self._closed = False
        self._letter: list[int] = []
        self._child = Child(spec, request_limit_s=request_limit_s)

    @property
    def pid(self) -> int:
        """Process id of the child that is running now."""
        return self._child.pid

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Complete each prompt, in order.

        Raises EngineError before anything runs if a schema can't be enforced, and when the child dies
        twice over one request. `logprob` is under the unconstrained model; see `wire.read_logprob`.
        A stop id that the model doesn't end on by itself is cut out afterwards.
        """
        seen: list = []
        for request in requests:
            if request.schema is not None and request.schema not in seen:
                require_schema(request.schema)
                seen.append(request.schema)
        return self._run(
            [request.prompt for request in requests], lambda i: self._complete(requests[i]), progress
        )

    def choose(
        self,
        prompts: Sequence[Tokens],
        candidates: Sequence[Tokens],
        *,
        progress: Progress = no_progress,
        exhaustive: bool = False,
    ) -> list[Choice]:
        """Pick the likeliest candidate for each prompt by best-first search of the candidates' trie.

        A failed Choice has no log-probability above -inf. Raises ValueError for candidates of which
        one is a prefix of another, EngineError when the child dies twice over one prompt.
        """
        trie = Trie(candidates)
        return self._run(prompts, lambda i: self._choose(prompts[i], trie, exhaustive), progress)

    def next_logprobs(self, prompts: Sequence[Tokens], token_ids: Sequence[int]) -> list[list[float]]:
        """Full-vocabulary next-token log-probabilities of `token_ids`; -inf under about e⁻¹⁰⁰ of the top.

        Raises EngineError if any prompt fails.
        """
        wanted = list(dict.fromkeys(token_ids))

        def ask(index: int) -> list[float]:
            try:
                found = self._next(prompts[index], wanted)
            except Refused as refusal:
                raise EngineError(f"no log-probabilities after prompt {index}: {refusal}") from None
            return [found[token] for token in token_ids]

        return self._run(prompts, ask, no_progress)

    def memory_mb(self) -> float:
        """Resident memory of the child, in MiB: weights, caches for all slots, and code."""
        return self._child.memory_mb()

    def close(self) -> None:
        """End the child; calls in flight break off."""
        # Not under the lock: whoever holds it may be waiting for a new child to load its model.
        self._closed = True
        self._child.kill()
        self._child.client.close()

    def _run(self, prompts: Sequence[Tokens], call: Callable[[int], R], progress: Progress) -> list[R]:
        if self._closed:
            raise EngineError("this llama engine was closed; start another one")
        return run_batch(
            prefix_order(prompts),
            call,
            workers=self._spec.parallel,
            progress=progress,
            interrupt=self.close,
        )

    def _complete(self, request: Request) -> Completion:
        start = time.perf_counter()
        try:
            room = self._room(request.prompt)
            with self._slots.reserve(request.prompt) as slot:
                answer = self._post("/completion", wire.completion_call(request, room, slot))
                return self._read(answer, request, start)
        except Refused as refusal:
            return Completion(
                text="",
                tokens=(),
                logprob=0.0,
                prompt_tokens=len(request.prompt),
                latency_s=time.perf_counter() - start,
                failure=f"generate: {refusal}",
            )

    def _read(self, answer: Mapping, request: Request, start: float) -> Completion:
        """The completion in the server's answer: without stop tokens and what follows them."""
        tokens = list(answer["tokens"])
        text = answer["content"]
        kept = wire.first_stop(tokens, request.stop_ids)
        if answer["stop_type"] == "word":
            kept = min(kept, self._tokens_of(text, tokens))
        elif answer["stop_type"] == "eos":
            kept = min(kept, len(tokens) - 1)
        elif kept < len(tokens):
            text = self.text_of(tokens[:kept])
        return Completion(
            text=text,
            tokens=tuple(tokens[:kept]),
            logprob=wire.read_logprob(answer, kept),
            prompt_tokens=len(request.prompt),
            latency_s=time.perf_counter() - start,
            truncated=answer["stop_type"] == "limit" and kept == len(tokens),
        )

    def _choose(self, prompt: Tokens, trie: Trie, exhaustive: bool) -> Choice:
        start = time.perf_counter()
        search = Search(trie, exhaustive=exhaustive)
        evaluated = 0
        failure = None
        try:
            self._room(prompt)
            with self._slots.reserve(prompt) as slot:
                while (path := search.next()) is not None:
                    logprobs, cost = self._among(prompt + path, trie.children(path), slot)
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

    def _among(self, prompt: Tokens, token_ids: Sequence[int], slot: int) -> tuple[list[float], int]:
        """Log-probabilities of `token_ids`, up to a constant, and how many tokens were evaluated."""
        answer = self._post("/completion", wire.among_call(prompt, token_ids, slot))
        cost = answer["timings"]["prompt_n"]
        logprobs = wire.read_among(answer, token_ids)
        if logprobs is None:
            everything, more = self._top(prompt, wire.EVERY_TOKEN, slot)
            logprobs = [everything.get(token, -math.inf) for token in token_ids]
            cost += more
        return logprobs, cost

    def _top(self, prompt: Tokens, count: int, slot: int) -> tuple[dict[int, float], int]:
        """The `count` likeliest next tokens' log-probabilities, and how many tokens were evaluated."""
        if not self._letter:
            self._letter = self._post("/tokenize", {"content": "a", "add_special": False})["tokens"]
        answer = self._post("/completion", wire.top_call(prompt, count, slot, self._letter[-1]))
        return wire.read_top(answer), answer["timings"]["prompt_n"]

    def _next(self, prompt: Tokens, wanted: Sequence[int]) -> dict[int, float]:
        """Log-probability of each of `wanted`: read off the top, or by its ratio to the top token."""
        if not wanted:
            return {}
        self._room(prompt)
        with self._slots.reserve(prompt) as slot:
            top, _ = self._top(prompt, TOP_FIRST, slot)
            if all(token in top for token in wanted):
                return {token: top[token] for token in wanted}
            anchor = max(top, key=top.__getitem__)
            group = list(dict.fromkeys([anchor, *wanted]))
            logprobs, _ = self._among(prompt, group, slot)
        return {
            token: value - logprobs[0] + top[anchor] for token, value in zip(group, logprobs, strict=True)
        }

    def _room(self, prompt: Tokens) -> int:
        """How many tokens may follow `prompt`; refuses an empty one and one that fills the context."""
        if not prompt:
            raise Refused("the prompt is empty")
        if len(prompt) >= self._spec.context:
            raise Refused(
                f"the prompt has {len(prompt)} tokens and the context holds {self._spec.context}: "
                "shorten it or raise the context"
            )
        return self._spec.context - len(prompt)

    def _tokens_of(self, text: str, tokens: Sequence[int]) -> int:
        """The fewest leading `tokens` that spell at least `text` (bisection over the server's decoder)."""
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if len(self.text_of(tokens[:middle])) >= len(text):
                high = middle
            else:
                low = middle + 1
        return low

    def text_of(self, tokens: Sequence[int]) -> str:
        """What the server makes of token ids, control tokens by name."""
        return self._post("/detokenize", {"tokens": list(tokens)})["content"]

    def tokens_of(self, text: str) -> Tokens:
        """What the server makes of text in which control tokens are written out."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return tuple(self._post("/tokenize", body)["tokens"])

    def templated(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the server makes of turns {"role", "content"} by the model file's own template."""
        return self._post("/apply-template", {"messages": [dict(turn) for turn in messages]})["prompt"]

    def _post(self, path: str, body: wire.Wire) -> Mapping:
        """The server's answer, asked for once more after a broken connection or a death of the child."""
        child = self._child
        try:
            return self._exchange(child, path, body)
        except httpx.TransportError:
            replacement = self._replace(child)
        try:
            return self._exchange(replacement, path, body)
        except httpx.TransportError as error:
            if not replacement.died(wait_s=DEATH_WAIT_S):
                raise Refused(f"the connection to llama.cpp broke: {error!r}") from None
            if self._closed:
                raise EngineError("this llama engine was closed while it answered") from None
            raise EngineError(
                f"llama.cpp died twice over the same request; {replacement.last_words()}\n"
                "Lower `parallel` or `context` if memory ran out, or use the torch engine for this model"
            ) from None

    def _exchange(self, child: Child, path: str, body: wire.Wire) -> Mapping:
        try:
            response = child.client.post(path, json=body)
        except httpx.TimeoutException:
            raise Refused(f"no answer within {self._limit_s:g} s") from None
        except RuntimeError:
            # httpx's word for a client that was closed, here by the thread that replaced or ended the child.
            if child.client.is_closed:
                raise httpx.ConnectError("the child is gone") from None
            raise
        if response.status_code != httpx.codes.OK:
            raise Refused(f"llama.cpp answered {response.status_code}: {response.text[:300]}")
        return response.json()

    def _replace(self, broken: Child) -> Child:
        """The child to ask next: `broken` itself if it lives, else a new one, started by whoever is first."""
        dead = broken.died(wait_s=DEATH_WAIT_S)
        with self._lock:
            if self._closed:
                raise EngineError("this llama engine was closed while it answered")
            if dead and self._child is broken:
                broken.kill()
                broken.client.close()
                self._child = Child(self._spec, request_limit_s=self._limit_s)
                if self._closed:
                    self.close()
                    raise EngineError("this llama engine was closed while it answered")
            return self._child
