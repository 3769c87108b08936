"""What every engine is asked and what it answers: the protocol and its records.

An engine works on token ids. Text becomes ids in one place only (`models.chat`), so that training,
scoring and serving can't disagree about a template or a stop token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from rung.engines.unchanged import Files
from rung.models.files import KnownFile
from rung.records import Json

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) as requests finish."""


def no_progress(done: int, total: int) -> None:
    """The progress callback of a caller that doesn't want any."""


Say: TypeAlias = Callable[[str], None]
"""Called with a line for the user."""


def no_say(line: str) -> None:
    """The same of a caller that has nowhere to say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Ask for text after `prompt`. `schema` constrains it to JSON under that JSON Schema.

    Greedy unless `temperature` > 0; then drawn from the likeliest tokens that hold `top_p` of the
    probability. `stop_ids` end the answer and aren't part of it; `stop` does the same for strings. Beside a
    schema, `stop` may name only what compact JSON never holds (see `Engine`). The tokens `shown` are text of
    the answer though the weights' file may call them control tokens, which are left out of it.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    schema: Json = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """`logprob` is the sum over the answer's tokens (natural log). `truncated`: max_tokens was reached.

    A truncated answer under a schema is cut earlier and closed with tokens that make it valid: they are
    in `text` and `tokens`, but the model didn't choose them, so `logprob` leaves them out. The first
    `own_characters` of such a text are the model's. What has a `failure` that is `final` would fail again.
    `logprob` is NaN where the engine can't tell. An endpoint names no token ids: `tokens` is empty and
    `completion_tokens` what it billed, `cached_tokens` what it had of the prompt, `written_tokens` what it
    put into its cache of it, and `reported` the model that it says has answered. `drawn` are all tokens that
    the model chose, in order: the one that ended the answer, and what was cut off, too; only the torch engine
    tells them.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    prompt_tokens: int
    latency_s: float
    truncated: bool = False
    failure: str | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    written_tokens: int = 0
    reported: str = ""
    drawn: tuple[int, ...] = ()
    final: bool = False
    own_characters: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of the candidates, with the log-probability of each (they sum to one in probability).

    `logprobs` runs parallel to the candidates; -inf where the search could already rule one out (the
    others then sum to less than one), which an exhaustive one never does, and for all of them where
    `failure` is set.
    """

    index: int
    logprobs: tuple[float, ...]
    prompt_tokens: int
    evaluated_tokens: int
    latency_s: float
    failure: str | None = None


class Engine(Protocol):
    """Answers for one base model and at most one adapter. Closed after use; safe to close twice."""

    @property
    def name(self) -> str:
        """`llama`, `torch`, `endpoint` or `fake`."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it refuses all work from now on: some close when a batch is broken off."""
        ...

    def generate(self, requests: Sequence[Request], *, progress: Progress = no_progress) -> list[Completion]:
        """Complete each prompt, in order. A call that breaks is a Completion with `failure` set.

        An answer under a schema is always valid; a request that leaves it too few tokens fails and names
        the fewest. Raises EngineError, before anything runs, for a schema that can't be kept to and for a
        stop string beside one that holds no control character: that might cut the answer.
        """
        ...

    def choose(
        self,
        prompts: Sequence[tuple[int, ...]],
        candidates: Sequence[tuple[int, ...]],
        *,
        progress: Progress = no_progress,
        exhaustive: bool = False,
    ) -> list[Choice]:
        """Pick for each prompt the likeliest of `candidates` (token sequences, none a prefix of another).

        Probabilities are those of decoding constrained to the candidates: at each node of their token
        trie the model's next-token distribution is restricted to the node's children and
        renormalised, so they sum to one over the candidates. `exhaustive` works out that of every
        candidate, which takes a model call at each node where candidates part.
        """
        ...

    def next_logprobs(
        self, prompts: Sequence[tuple[int, ...]], token_ids: Sequence[int]
    ) -> list[list[float]]:
        """The model's own (full-vocabulary) next-token log-probabilities of `token_ids` after each prompt."""
        ...

    def memory_mb(self) -> float:
        """Resident memory of whatever holds the weights, in MiB."""
        ...

    def close(self) -> None:
        """Free the weights and stop any child process."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What to start: a `gguf` for llama, a safetensors folder for torch, an `url` and `model` for endpoint.

    The key of an endpoint is what the environment's `key_variable` holds.

    `adapter` is a GGUF LoRA for llama, a PEFT folder for torch. `adapters` are GGUF LoRAs that are loaded and
    not applied: each call to llama.cpp names one by its place. `files` are those of a System that hold what
    it learned, `base` those of the base model where its own weights are loaded: both have to be unchanged at
    every start. `context` is the token limit per request.
    """

    engine: str
    gguf: Path | None = None
    weights: Path | None = None
    url: str | None = None
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    adapter: Path | None = None
    adapters: tuple[Path, ...] = ()
    files: Files = ()
    base: tuple[KnownFile, ...] = ()
    context: int = 2048
    parallel: int = 8
    threads: int = 0
