"""Everything that blocks: heads, torch engines, sentence vectors, kNN prompts, and hosted models.

What computes has one thread. What waits for the same System is answered as one batch, as large as what came
while the last one ran. What waits for another computer has threads of its own, so that nothing else waits
for it.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

from rung.engines.work import wanted_until
from rung.serve.lanes import FIRST_GUESS_S, Full, is_full

LARGEST_BATCH = 32
MOST_AWAY = 32
"""Items of one key that are asked of another computer at a time."""
Batch: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]
Entry: TypeAlias = tuple[Any, asyncio.Future[Any], Batch]
Tell: TypeAlias = Callable[[Exception | None, Any], None]
R = TypeVar("R")


def nothing_away(key: Hashable) -> bool:
    """No key waits for another computer."""
    return False


@dataclass
class Bench:
    """The threads, and what waits for them by key. For one event loop.

    `room`: at most so many wait for the thread that computes, and as many for each key that is `away`, which
    waits for another computer; not counting what is part of what was `lanes.let_in`.
    """

    room: int
    away: Callable[[Hashable], bool] = nothing_away
    _busy: int = 0
    _waiting: dict[Hashable, deque[Entry]] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="bench")
    )
    _worker: asyncio.Task[None] | None = None
    _mean_s: float = FIRST_GUESS_S
    _away: dict[Hashable, "_Away"] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Items that a thread is at."""
        return self._busy + sum(one.running for one in self._away.values())

    @property
    def waiting(self) -> int:
        """Items that wait for a thread."""
        return self._queued + sum(len(one.waiting) for one in self._away.values())

    async def ask(self, key: Hashable, item: Any, call: Batch) -> Any:
        """What `call` gives for the item: it is called with items of the same key. Raises what it raises.

        Keys take turns. Raises lanes.Full at once where too much waits. One that is away is called with each
        item alone.
        """
        if self.away(key):
            return await self._away.setdefault(key, _Away(self.room)).ask(item, call)
        if is_full(waiting := self._queued, self.room):
            raise Full(waiting, waiting * self._mean_s)
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Any] = loop.create_future()
        self._waiting.setdefault(key, deque()).append((item, mine, call))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await mine

    async def run(self, call: Callable[[], Any]) -> Any:
        """What `call` gives, on the thread that computes."""
        return await self.ask(object(), None, lambda items: [call()])

    def close(self) -> None:
        """End the thread that computes when what it is at is done; nobody waits for the others."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        for one in self._away.values():
            one.waiting.clear()

    @property
    def _queued(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            key = next(iter(self._waiting))
            queue = self._waiting.pop(key)
            batch = [queue.popleft() for _ in range(min(LARGEST_BATCH, len(queue)))]
            if queue:
                self._waiting[key] = queue  # behind the others
            batch = [entry for entry in batch if not entry[1].done()]
            if not batch:
                continue
            self._busy = len(batch)
            start = loop.time()
            try:
                items = [item for item, _, _ in batch]
                found = await loop.run_in_executor(self._thread, _answered, batch[0][2], items)
            except Exception as error:  # noqa: BLE001 - carried to those who asked and raised there
                for _, mine, _ in batch:
                    _settle(mine, error)
            else:
                for (_, mine, _), result in zip(batch, found, strict=True):
                    _settle(mine, None, result)
            finally:
                self._busy = 0
            self._mean_s += 0.1 * ((loop.time() - start) / len(batch) - self._mean_s)


@dataclass
class _Away:
    """What is asked of another computer under one key: a thread for each item, MOST_AWAY at a time."""

    room: int
    running: int = 0
    waiting: deque[Entry] = field(default_factory=deque)
    mean_s: float = FIRST_GUESS_S

    async def ask(self, item: Any, call: Batch) -> Any:
        """What `call` gives for the item alone. Raises what it raises, lanes.Full where too much waits."""
        if is_full(waiting := len(self.waiting), self.room):
            raise Full(waiting, waiting * self.mean_s / MOST_AWAY)
        mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        entry = (item, mine, call)
        self.waiting.append(entry)
        self._start()
        try:
            return await mine
        finally:
            if entry in self.waiting:  # who asked has left
                self.waiting.remove(entry)

    def _start(self) -> None:
        """Start what there are places for."""
        while self.waiting and self.running < MOST_AWAY:
            item, mine, call = self.waiting.popleft()
            if mine.done():
                continue
            self.running += 1
            start = asyncio.get_running_loop().time()
            _on_thread(partial(_alone, call, item, mine.cancelled), partial(self._done, mine, start))

    def _done(self, mine: asyncio.Future[Any], start: float, error: Exception | None, found: Any) -> None:
        self.running -= 1
        self.mean_s += 0.1 * (asyncio.get_running_loop().time() - start - self.mean_s)
        _settle(mine, error, found)
        self._start()


async def aside(call: Callable[[], R]) -> R:
    """What `call` gives, on a thread of its own. Raises what it raises; who leaves doesn't wait for it."""
    mine: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    _on_thread(call, partial(_settle, mine))
    return await mine


def _on_thread(call: Callable[[], Any], tell: Tell) -> None:
    """Make a call on a thread, and tell the loop what it raised or gave."""
    loop = asyncio.get_running_loop()

    def work() -> None:
        error, found = None, None
        try:
            found = call()
        except Exception as fault:  # noqa: BLE001 - carried to who asked and raised there
            error = fault
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(tell, error, found)

    # A daemon: what is long in coming must not keep the server from ending.
    threading.Thread(target=work, name="aside", daemon=True).start()


def _settle(mine: asyncio.Future[Any], error: Exception | None, found: Any = None) -> None:
    """Tell who asked, unless they left."""
    if mine.done():
        return
    if error is not None:
        mine.set_exception(error)
    else:
        mine.set_result(found)


def _alone(call: Batch, item: Any, left: Callable[[], bool]) -> Any:
    """What a call gives for one item; it asks for nothing more once `left` says that nobody waits."""
    with wanted_until(left):
        (found,) = _answered(call, [item])
    return found


def _answered(call: Batch, items: Sequence[Any]) -> Sequence[Any]:
    """One result for each item. Raises ValueError where the call gave more or fewer."""
    found = [*call(items)]
    if len(found) != len(items):
        raise ValueError(f"{len(items)} items were given and {len(found)} results came")
    return found
