"""The bills of calls to one endpoint: each is put aside, then kept with its answer or counted as lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rung.engines.base import Completion
from rung.engines.till import Till
from rung.engines.work import Refused
from rung.errors import EngineError

LATE_S = 2.0
"""So long an interruption waits for answers that are on their way: a provider bills them in any case."""


@dataclass(frozen=True, eq=False, slots=True)
class Bill:
    """Of one call: at most `usd` for each of its tries, which is put aside for it."""

    usd: float


class Bills:
    """Those of all calls to one model behind one URL, paid out of a till. For several threads at once.

    `place` names the model in messages. Raises EngineError for one whose price isn't known.
    """

    def __init__(self, till: Till, url: str, model: str, place: str):
        self._till, self._url, self._model, self._place = till, url, model, place
        self._price = till.price(url, model)
        self._open: set[Bill] = set()
        self._changed = threading.Condition()

    @contextmanager
    def opened(self, prompt_bytes: int, max_tokens: int) -> Iterator[Bill]:
        """Put aside what a call may cost at most while it is made. Raises EngineError at the till's cap."""
        with self._till.reserved(self._price, prompt_bytes, max_tokens) as usd:
            bill = Bill(usd)
            with self._changed:
                self._open.add(bill)
            try:
                yield bill
            finally:
                with self._changed:
                    self._open.discard(bill)
                    self._changed.notify_all()

    def lose(self, bill: Bill) -> None:
        """A try that may be billed brought nothing: its cost counts, and the next has to fit the cap.

        Raises EngineError where it doesn't, Refused where the bill was counted by `close`.
        """
        with self._changed:
            self._require(bill)
            fits = self._till.lose(self._model, bill.usd)
        if not fits:
            raise EngineError(
                f"{self._place}: a call that broke may have cost ${bill.usd:.4f}, and another try could pass "
                f"the cap of ${self._till.cap_usd:g}; what was paid for is kept: raise {self._till.raised_by}"
            )

    def keep(self, bill: Bill, asked: str, answer: Completion, of: str) -> None:
        """Keep an answer as that to `asked` (empty: it's of no use), and what it cost; see Till.keep.

        Raises EngineError for one that can't be priced, Refused where the bill was counted by `close`.
        """
        with self._changed:
            self._require(bill)
            if answer.prompt_tokens:
                self._till.keep(asked, self._model, answer, self._price, self._url, of)
                self._open.remove(bill)
                return
            self._till.lose(self._model, bill.usd)
            self._open.remove(bill)
        raise EngineError(
            f"{self._place} doesn't say how many tokens it bills (`usage`), so that its answers "
            "can't be priced; name another server"
        )

    def close(self) -> None:
        """Count what is open still as lost, but for calls that end within LATE_S. Raises RunError."""
        with self._changed:
            try:
                self._changed.wait_for(lambda: not self._open, LATE_S)
            finally:  # whoever interrupts twice waits no longer, and has it counted all the same
                while self._open:
                    self._till.lose(self._model, self._open.pop().usd)

    def _require(self, bill: Bill) -> None:
        if bill not in self._open:
            raise Refused("closed")
