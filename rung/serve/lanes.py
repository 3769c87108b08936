"""Whose turn it is at an engine that answers requests of one adapter together, and those of two in turn.

llama.cpp evaluates requests in one batch only where they use the same adapter. So requests wait in lanes,
one for each adapter: the lane whose turn it is may fill the slots until its turn is over and another lane
waits; then the one whose first request has waited longest takes over. No lane waits for more than one turn
of each other one.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

TURN_S = 1.0
"""How long a lane may start requests while another one waits."""
TAIL = 1
"""The next lane starts when so many requests of the one before are left: the engine has no pause then."""
FIRST_GUESS_S = 1.0
# Between who sets it and who reads it are calls that it is no business of.
_let_in: ContextVar[bool] = ContextVar("let_in", default=False)


class Full(Exception):
    """So many requests wait that no more are taken; `retry_after_s` is about when one would be."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} requests wait")
        self.waiting = waiting
        self.retry_after_s = retry_after_s


@contextmanager
def let_in(already: bool = True) -> Iterator[None]:
    """Within it, Full is raised nowhere: what is asked is part of what was let in `already`."""
    token = _let_in.set(already)
    try:
        yield
    finally:
        _let_in.reset(token)


def is_full(waiting: int, room: int) -> bool:
    """Whether another one is refused where so many wait."""
    return waiting >= room and not _let_in.get()


class Lanes:
    """Turns at one engine with `slots` places. For one event loop.

    At most `room` requests wait, not counting what is part of one that was `let_in`.
    """

    def __init__(self, slots: int, room: int) -> None:
        self._slots, self._room = slots, room
        self._waiting: dict[Hashable, deque[tuple[float, asyncio.Future[None]]]] = {}
        self._running: dict[Hashable, int] = {}
        self._lane: Hashable = None
        self._since = 0.0
        self._mean_s = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return sum(self._running.values())

    @asynccontextmanager
    async def turn(self, lane: Hashable) -> AsyncIterator[None]:
        """Hold a slot for a request of `lane`. Raises Full at once where too many wait."""
        await self._enter(lane)
        start = time.monotonic()
        try:
            yield
        finally:
            self._mean_s += 0.1 * (time.monotonic() - start - self._mean_s)
            self._leave(lane)

    async def _enter(self, lane: Hashable) -> None:
        if is_full(waiting := self.waiting, self._room):
            raise Full(waiting, waiting * self._mean_s / self._slots)
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append((time.monotonic(), mine))
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave(lane)
            else:
                self._forget(lane, mine)
            raise

    def _forget(self, lane: Hashable, mine: asyncio.Future[None]) -> None:
        queue = self._waiting.get(lane, deque())
        kept = deque(entry for entry in queue if entry[1] is not mine)
        if kept:
            self._waiting[lane] = kept
        else:
            self._waiting.pop(lane, None)
        self._admit()

    def _leave(self, lane: Hashable) -> None:
        self._running[lane] -= 1
        if not self._running[lane]:
            del self._running[lane]
        self._admit()

    def _admit(self) -> None:
        """Give the free slots to those whose turn it is."""
        while self.running < self._slots and (lane := self._next()) is not None:
            queue = self._waiting[lane[0]]
            _, first = queue.popleft()
            if not queue:
                del self._waiting[lane[0]]
            if not first.done():
                self._running[lane[0]] = self._running.get(lane[0], 0) + 1
                first.set_result(None)

    def _next(self) -> tuple[Hashable] | None:
        """The lane that may start a request now, in a tuple; None where everybody has to wait."""
        if not self._waiting:
            return None
        now = time.monotonic()
        if self._lane in self._waiting:
            if len(self._waiting) == 1 or now - self._since < TURN_S:
                return (self._lane,)
        if self.running > TAIL:
            return None
        others = [lane for lane in self._waiting if lane != self._lane] or [self._lane]
        self._lane = min(others, key=lambda lane: self._waiting[lane][0][0])
        self._since = now
        return (self._lane,)
