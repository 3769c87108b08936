"""The llama engine: a GGUF model in llama.cpp, in a child process behind loopback HTTP.

Requests run `parallel` at a time, each in the slot whose cache already holds most of its prompt. A
request that the server refuses becomes a failed answer. If the child dies it is started again and what
was in flight is asked once more; a request that sees it die twice ends the batch with an EngineError.
One that stands still while it is asked is ended, and counts as dead.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import httpx

from rung.engines import llama_wire as wire
from rung.engines.base import Choice, Completion, EngineSpec, Progress, Request, no_progress
from rung.engines.llama_calls import Steps, calls_to
from rung.engines.llama_process import Child
from rung.engines.slots import Slots
from rung.engines.trie import Trie
from rung.engines.unchanged import require_unchanged
from rung.engines.watch import STILL_S
from rung.engines.work import Refused, prefix_order, run_batch
from rung.errors import EngineError

R = TypeVar("R")
Tokens = tuple[int, ...]

DEATH_WAIT_S = 5.0
"""A connection broke: how long a dying process may take to be gone."""


class LlamaEngine:
    """Answers from one GGUF model and at most one GGUF adapter.

    Any number of threads may call it at once. `request_limit_s` bounds each single request, `still_s` how
    long the child may do nothing while one waits.
    """

    name = "llama"

    def __init__(self, spec: EngineSpec, *, request_limit_s: float = 600.0, still_s: float = STILL_S):
        """Start the child and load the model. EngineError if that can't be done, or a file was replaced."""
        self._calls = calls_to(spec)
        for path in (spec.gguf, spec.adapter):
            if path is not None and not path.is_file():
                raise EngineError(f"no such file: {str(path)!r}; the llama engine reads GGUF files")
        self._spec = spec
        self._limit_s, self._still_s = request_limit_s, still_s
        self._slots = Slots(spec.parallel)
        self._lock = threading.Lock()
        self._closed = False
        self._failed: EngineError | None = None
        self._child = self._start()

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
        self._calls.closings.check(requests)
        return self._run(
            [request.prompt for request in requests],
            lambda i: self._in_slot(requests[i].prompt, lambda slot: self._calls.complete(requests[i], slot)),
            progress,
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
        return self._run(
            prompts,
            lambda i: self._in_slot(
                prompts[i], lambda slot: self._calls.choose(prompts[i], trie, slot, exhaustive)
            ),
            progress,
        )

    def next_logprobs(self, prompts: Sequence[Tokens], token_ids: Sequence[int]) -> list[list[float]]:
        """Full-vocabulary next-token log-probabilities of `token_ids`; -inf under about e⁻¹⁰⁰ of the top.

        Raises EngineError if any prompt fails.
        """
        wanted = list(dict.fromkeys(token_ids))

        def ask(index: int) -> list[float]:
            try:
                prompt = prompts[index]
                found = self._in_slot(prompt, lambda slot: self._calls.next(prompt, wanted, slot))
            except Refused as refusal:
                raise EngineError(f"no log-probabilities after prompt {index}: {refusal}") from None
            return [found[token] for token in token_ids]

        return self._run(prompts, ask, no_progress)

    def memory_mb(self) -> float:
        """Resident memory of the child, in MiB: weights, caches for all slots, and code."""
        return self._child.memory_mb()

    @property
    def closed(self) -> bool:
        """Whether it refuses all work from now on."""
        return self._closed

    def close(self) -> None:
        """End the child; calls in flight break off."""
        # Not under the lock: whoever holds it may be waiting for a new child to load its model.
        self._closed = True
        self._child.close()

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

    def _drive(self, steps: Steps[R]) -> R:
        """Make the calls that `steps` yields, one after the other; what they came to."""
        try:
            call = next(steps)
            while True:
                try:
                    answer = self._post(call.path, call.body)
                except Refused as refusal:
                    call = steps.throw(refusal)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return end.value

    def _in_slot(self, prompt: Tokens, steps: Callable[[int], Steps[R]]) -> R:
        """Drive steps in the slot whose cache suits the prompt best; waits while all are taken."""
        with self._slots.reserve(prompt) as slot:
            return self._drive(steps(slot))

    def text_of(self, tokens: Sequence[int]) -> str:
        """What the server makes of token ids, control tokens by name."""
        return self._drive(self._calls.text_of(tokens))

    def tokens_of(self, text: str) -> Tokens:
        """What the server makes of text in which control tokens are written out."""
        body = {"content": text, "add_special": False, "parse_special": True}
        return tuple(self._post("/tokenize", body)["tokens"])

    def templated(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the server makes of turns {"role", "content"} by the model file's own template."""
        return self._post("/apply-template", {"messages": [dict(turn) for turn in messages]})["prompt"]

    def _post(self, path: str, body: wire.Wire) -> Mapping:
        """The server's answer, asked for once more after a broken connection or a death of the child."""
        failed, child = self._failed, self._child
        try:
            return self._exchange(child, path, body)
        except httpx.TransportError:
            replacement = self._replace(child, failed)
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
            with child.asked() as client:
                response = client.post(path, json=body)
        except httpx.TimeoutException:
            raise Refused(f"no answer within {self._limit_s:g} s") from None
        if response.status_code != httpx.codes.OK:
            raise Refused(f"llama.cpp answered {response.status_code}: {response.text[:300]}")
        return response.json()

    def _start(self) -> Child:
        require_unchanged(self._spec.files, self._spec.base)
        return Child(self._spec, request_limit_s=self._limit_s, still_s=self._still_s)

    def _replace(self, broken: Child, failed: EngineError | None) -> Child:
        """The child to ask next: `broken` itself if it lives, else a new one, started by whoever is first.

        Where that fails, all that were asking then are told why; `failed` is the failure that they knew of.
        """
        dead = broken.died(wait_s=DEATH_WAIT_S)
        with self._lock:
            if self._closed:
                raise EngineError("this llama engine was closed while it answered")
            if dead and self._child is broken:
                if self._failed is not None and self._failed is not failed:
                    raise EngineError(str(self._failed))
                broken.close()
                try:
                    self._child = self._start()
                except EngineError as error:
                    self._failed = error
                    raise
                if self._closed:
                    self.close()
                    raise EngineError("this llama engine was closed while it answered")
            return self._child
