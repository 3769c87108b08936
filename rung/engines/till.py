"""The till: what hosted models were paid, answer by answer, and a cap that no call may pass.

Every answer that was paid for is on disk before it is used, so that none is paid for twice, whenever the
program is killed. A call is made only where what it could cost still fits under the cap.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from rung.engines.base import Completion
from rung.errors import EngineError
from rung.records import Json, TokenPrice
from rung.runs import append_jsonl, read_records
from rung.scoring.cost import dearest_usd, tokens_usd

BYTES_A_TOKEN = 3
"""Fewer than English has (about 4): what a call could cost is put rather too high."""


def _whole(kept: Json) -> object:
    """The fields of a completion, with those that aren't kept."""
    return {**kept, "tokens": (), "logprob": math.nan} if isinstance(kept, dict) else kept


@dataclass(frozen=True, kw_only=True)
class _Paid:
    """A line of the file: what was paid and for what, and the answer where there was one."""

    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    asked: str = ""
    model: str = ""
    url: str = ""
    of: str = ""
    answer: Annotated[Completion, BeforeValidator(_whole)] | None = None
    judging: bool = False
    rung: str = ""


@dataclass
class Till:
    """Answers of hosted models by what was asked, in one append-only file. For several threads at once.

    `prices` go by (URL, model). `named` are the origins of those that the command or its task names, and
    not a System alone: they may be sent a key. `spent_for` is what was paid for each rung, by its name: what
    was paid for judging is `judging_usd` and no part of that. `raised_by` is what a user raises the cap by.
    While it `asks_nothing` answers that were paid for are given, and no others. Raises RunError where the
    file is damaged.
    """

    path: Path
    cap_usd: float
    prices: Mapping[tuple[str, str], TokenPrice]
    raised_by: str = "--api-usd"
    named: frozenset[str] = frozenset()
    spent_usd: float = field(init=False, default=0.0)
    spent_for: dict[str, float] = field(init=False, default_factory=dict)
    judging_usd: float = field(init=False, default=0.0)
    asks_nothing: bool = field(init=False, default=False)
    _judging: bool = field(init=False, default=False)
    _rung: str = field(init=False, default="")
    _known: dict[str, Completion] = field(init=False, default_factory=dict)
    _names: dict[tuple[str, str], str] = field(init=False, default_factory=dict)
    _known_of: dict[tuple[str, str], Completion] = field(init=False, default_factory=dict)
    _sought: set[tuple[str, str]] = field(init=False, default_factory=set)
    _reserved_usd: float = field(init=False, default=0.0)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for line in read_records(self.path, _Paid, lasting=True):
            # One that broke was paid for, too; whether it breaks again is for the next try to show.
            if line.asked and line.answer is not None and line.answer.failure is None:
                self._know(line.asked, line.answer)
            if not line.judging:
                # A judge that is gone ends the climb, which can go on only if it's asked whether it is back.
                self._sought.add((line.asked, line.of))
            self._named(line.url, line.model, line.answer)
            self._count(line.usd, line.judging, line.rung)

    @property
    def answers(self) -> int:
        """How many were paid for."""
        return len(self._known)

    def price(self, url: str, model: str) -> TokenPrice:
        """Raises EngineError where the price isn't known: nothing is bought at one."""
        if (url, model) not in self.prices:
            raise EngineError(f"the price of {model!r} isn't known; give it as `prices` in task.yaml")
        return self.prices[url, model]

    def known(self, asked: str, of: str = "") -> Completion | None:
        """The answer to this request by the model that calls itself `of`; None where it's to be bought.

        Whoever's is the newest, where `of` is empty, or was asked for before and another one answered: of two
        models behind one name neither is paid for again and again.
        """
        newest = self._known.get(asked)
        if newest is None or not of or not newest.reported:
            return newest
        own = self._known_of.get((asked, of))
        return newest if own is None and (asked, of) in self._sought else own

    def name_of(self, url: str, model: str) -> str:
        """What a model called itself in the newest answer that was paid for; empty where it named nothing."""
        return self._names.get((url, model), "")

    @contextmanager
    def reserved(self, price: TokenPrice, prompt_bytes: int, max_tokens: int) -> Iterator[float]:
        """Put aside what a call may cost at most, in US dollars, while it is made.

        Raises EngineError where the cap forbids it.
        """
        most = dearest_usd(price, prompt_bytes / BYTES_A_TOKEN, max_tokens)
        with self._lock:
            if self.spent_usd + self._reserved_usd + most > self.cap_usd:
                raise EngineError(
                    f"${self.spent_usd:.4f} was paid for {self.answers:,} answers of hosted models, and one "
                    f"more could pass the cap of ${self.cap_usd:g}; they are kept: raise {self.raised_by} "
                    "and run the same command again"
                )
            self._reserved_usd += most
        try:
            yield most
        finally:
            with self._lock:
                self._reserved_usd -= most

    @contextmanager
    def asking_nothing(self) -> Iterator[None]:
        """Only what was paid for before is answered meanwhile."""
        self.asks_nothing = True
        try:
            yield
        finally:
            self.asks_nothing = False

    @contextmanager
    def judging(self) -> Iterator[None]:
        """What is paid meanwhile is paid for judging; nothing else may be asked then."""
        self._judging = True
        try:
            yield
        finally:
            self._judging = False

    @contextmanager
    def paying(self, rung: str) -> Iterator[None]:
        """What is paid meanwhile is paid for a rung, but for what is paid for judging."""
        self._rung = rung
        try:
            yield
        finally:
            self._rung = ""

    def lose(self, model: str, usd: float) -> bool:
        """Write down what a call may have cost that brought no answer, and say whether it may be tried again.

        It may where the cap holds what is put aside for it still, and for all other calls in flight. Raises
        RunError where it can't be written.
        """
        with self._lock:
            append_jsonl(self.path, [{"model": model, "usd": usd, **self._purpose()}])
            self._count(usd, self._judging, self._rung)
            return self.spent_usd + self._reserved_usd <= self.cap_usd

    def keep(
        self, asked: str, model: str, answer: Completion, price: TokenPrice, url: str = "", of: str = ""
    ) -> None:
        """Write down an answer of a model behind an URL, and what it cost.

        It's known by what was `asked` from then on; where that is empty it was paid for and is of no use. The
        model was wanted to call itself `of`. Raises RunError where it can't be written.
        """
        usd = tokens_usd(
            price,
            answer.prompt_tokens,
            answer.completion_tokens or 0,
            answer.cached_tokens,
            answer.written_tokens,
        )
        # NaN, which a hosted model's log-probability is, has no place in JSON.
        fields = {k: v for k, v in asdict(answer).items() if k not in ("tokens", "logprob")}
        with self._lock:
            line = {"asked": asked, "model": model, "url": url, "of": of, "usd": usd, "answer": fields}
            append_jsonl(self.path, [line | self._purpose()])
            self._sought.add((asked, of))
            if asked:
                self._know(asked, answer)
            self._named(url, model, answer)
            self._count(usd, self._judging, self._rung)

    def _know(self, asked: str, answer: Completion) -> None:
        self._known[asked] = answer
        self._known_of[asked, answer.reported] = answer

    def _named(self, url: str, model: str, answer: Completion | None) -> None:
        if url and answer is not None and answer.reported:
            self._names[url, model] = answer.reported

    def _purpose(self) -> dict[str, Json]:
        if self._judging:
            return {"judging": True}
        return {"rung": self._rung} if self._rung else {}

    def _count(self, usd: float, judging: bool, rung: str) -> None:
        self.spent_usd += usd
        if judging:
            self.judging_usd += usd
        elif rung:
            self.spent_for[rung] = self.spent_for.get(rung, 0.0) + usd
