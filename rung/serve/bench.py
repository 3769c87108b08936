"""Everything that blocks, on one thread: heads, torch engines, sentence vectors, kNN prompts.

What waits for the same System is answered as one batch, as large as what came while the last one ran.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rung.serve.lanes import FIRST_GUESS_S, Full

LARGEST_BATCH = 32
Batch: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass
class Bench:
    """One thread, and what waits for it by key. `room`: at most so many wait. For one event loop."""

    room: int
    running: int = 0
    _waiting: dict[Hashable, deque[tuple[Any, asyncio.Future[Any], Batch]]] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="bench")
    )
    _worker: asyncio.Task[None] | None = None
    _mean_s: float = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Items that wait for the thread."""
        return sum(map(len, self._waiting.values()))

    async def ask(self, key: Hashable, item: Any, call: Batch) -> Any:
        """What `call` gives for the item: it is called with items of the same key. Raises what it raises.

        Keys take turns. Raises lanes.Full at once where too much waits.
        """
        if (waiting := self.waiting) >= self.room:
            raise Full(waiting, waiting * self._mean_s)
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Any] = loop.create_future()
        self._waiting.setdefault(key, deque()).append((item, mine, call))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await mine

    async def run(self, call: Callable[[], Any]) -> Any:
        """What `call` gives, on the thread."""
        return await self.ask(object(), None, lambda items: [call()])

    def close(self) -> None:
        """End the thread when what it is at is done."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

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
            self.running = len(batch)
            start = loop.time()
            try:
                items = [item for item, _, _ in batch]
                found = await loop.run_in_executor(self._thread, _answered, batch[0][2], items)
            except Exception as error:  # noqa: BLE001 - carried to those who asked and raised there
                for _, mine, _ in batch:
                    if not mine.done():
                        mine.set_exception(error)
            else:
                for (_, mine, _), result in zip(batch, found, strict=True):
                    if not mine.done():
                        mine.set_result(result)
            finally:
                self.running = 0
            self._mean_s += 0.1 * ((loop.time() - start) / len(batch) - self._mean_s)


def _answered(call: Batch, items: Sequence[Any]) -> Sequence[Any]:
    """One result for each item. Raises ValueError where the call gave more or fewer."""
    found = [*call(items)]
    if len(found) != len(items):
        raise ValueError(f"{len(items)} items were given and {len(found)} results came")
    return found
