"""A model that replies to what it is told in one turn: a hosted one, or one of this machine."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from rung.asking import context_of
from rung.engines.base import Engine, EngineSpec, Request
from rung.engines.endpoint import Draw, EndpointEngine
from rung.errors import EngineError, ModelError
from rung.hosted import hosted_engine_spec
from rung.models.chat import Message
from rung.models.hosted import Hosted, hosted
from rung.models.resolve import resolve
from rung.registry import names_model
from rung.runs import storable
from rung.spec import Spec
from rung.system import Pool, System, ref_to

TEMPERATURE = 1.0
MOST_CONTEXT = 8192
"""Tokens of a prompt and its reply together, if the model holds as many: more take memory."""
REPLY_SHARE = 1 / 4
"""Of what a model holds, that its reply may take at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model said, and the tokens that it read and wrote for that."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Replying(Protocol):
    """Replies to a prompt, drawn anew for each number. Closed after use; safe to close twice."""

    @property
    def name(self) -> str:
        """In a note."""
        ...

    @property
    def known_as(self) -> str:
        """What its replies are kept by: a digest where its weights have one."""
        ...

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Whether it has room for the prompt and a reply; a hosted one is taken to have."""
        ...

    def reply(self, prompt: str, *, max_tokens: int, number: int = 0) -> Reply:
        """What it says. Raises EngineError where it can't be asked."""
        ...

    def close(self) -> None:
        """Free what it took of this machine."""
        ...


def replying(name: str, pool: Pool, seed: int) -> Replying | None:
    """The model of that name; None for a System, which answers inputs of its task and nothing else.

    Nothing is loaded yet. Raises ModelError for half a name.
    """
    if (model := hosted(name)) is not None:
        return HostedReplies(model, pool)
    return LocalReplies(name, pool, seed) if names_model(name) else None


@dataclass(frozen=True)
class HostedReplies:
    """A hosted model, paid out of the pool's till."""

    model: Hosted
    pool: Pool

    @property
    def name(self) -> str:
        """As its provider calls it."""
        return self.model.model

    @property
    def known_as(self) -> str:
        """As the task names it."""
        return self.model.given

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """Nobody here knows how much it holds."""
        return True

    def reply(self, prompt: str, *, max_tokens: int, number: int = 0) -> Reply:
        """Paid for once: the same prompt and number have the same reply. Raises EngineError."""
        engine = self.pool.engine(hosted_engine_spec(self.model))
        assert isinstance(engine, EndpointEngine), "hosted models are asked through endpoints"
        draw = Draw(temperature=TEMPERATURE, number=number)
        found = engine.chat([("user", prompt)], max_tokens=max_tokens, draw=draw)
        if found.failure is not None:
            raise EngineError(f"{self.model.given} couldn't be asked: {found.failure}")
        return Reply(
            text=storable(found.text),
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens or 0,
        )

    def close(self) -> None:
        """It takes nothing."""


@dataclass(frozen=True)
class LocalReplies:
    """A model of this machine in its chat template, one prompt at a time."""

    given: str
    pool: Pool
    seed: int

    @property
    def name(self) -> str:
        """That of its files."""
        return self._system.ref.name

    @property
    def known_as(self) -> str:
        """The digest of its files."""
        return self._system.ref.digest

    def fits(self, prompt: str, max_tokens: int) -> bool:
        """By its own tokens. Raises ModelError where it can't be had."""
        return len(self._prompt(prompt)) + self._most(max_tokens) <= self._room

    def reply(self, prompt: str, *, max_tokens: int, number: int = 0) -> Reply:
        """The same for the same seed, prompt and number. Raises EngineError, and ModelError as `fits`."""
        chat, asked = self._system.chat(self.pool), self._prompt(prompt)
        request = Request(
            prompt=asked,
            max_tokens=self._most(max_tokens),
            stop_ids=chat.stop_ids,
            stop=chat.stop_strings("chat"),
            temperature=TEMPERATURE,
            seed=self.seed + number,
        )
        (found,) = self._engine.generate([request])
        if found.failure is not None:
            raise EngineError(f"{self.given!r} couldn't be asked: {found.failure}")
        return Reply(text=storable(found.text), prompt_tokens=len(asked), completion_tokens=len(found.tokens))

    def close(self) -> None:
        """End its engine, if it was begun."""
        if "_spec" in self.__dict__ and (engine := self.pool.engines.pop(self._spec, None)) is not None:
            engine.close()

    @cached_property
    def _system(self) -> System:
        local = resolve(self.given)
        if local.kind != "generate":
            raise ModelError(f"{self.given!r} makes sentence vectors and writes nothing; name another model")
        self.pool.models[local.digest] = local
        spec = Spec(
            rung="replies",
            task="replies",
            kind="text",
            engine="llama" if local.gguf is not None else "torch",
            model=ref_to(local, self.given),
            context_tokens=MOST_CONTEXT,
        )
        return System(Path(), spec)

    @cached_property
    def _spec(self) -> EngineSpec:
        # One at a time: slots for several would take as much memory each.
        return replace(self._system.engine_spec(self.pool), parallel=1)

    @property
    def _engine(self) -> Engine:
        return self.pool.engine(self._spec)

    @property
    def _room(self) -> int:
        return context_of(self._system.model(self.pool))

    def _most(self, max_tokens: int) -> int:
        return min(max_tokens, int(REPLY_SHARE * self._room))

    def _prompt(self, text: str) -> tuple[int, ...]:
        return self._system.chat(self.pool).render([Message(role="user", content=text)])
