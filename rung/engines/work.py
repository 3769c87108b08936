"""Handing out a batch of calls to worker threads, and bringing the answers back in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from typing import TypeVar

from rung.engines.base import Progress

R = TypeVar("R")
# Between who sets it and who reads it are calls that it is no business of.
_left: ContextVar[Callable[[], bool]] = ContextVar("left", default=lambda: False)


@contextmanager
def wanted_until(left: Callable[[], bool]) -> Iterator[None]:
    """What is asked within it is wanted until `left` says that whoever waits for it has left.

    It's called on any thread, those of `run_batch` included.
    """
    token = _left.set(left)
    try:
        yield
    finally:
        _left.reset(token)


def is_wanted() -> bool:
    """Whether somebody waits for what this thread asks."""
    return not _left.get()()


def prefix_order(prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """Indices of `prompts` sorted so that those sharing a prefix are neighbours."""
    return sorted(range(len(prompts)), key=prompts.__getitem__)


class Refused(Exception):
    """One request failed for good, with HTTP's `status` if there was one; the batch goes on."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class Shares:
    """Contiguous runs of work, one per worker; who has none left takes from the end of the longest."""

    def __init__(self, order: Sequence[int], workers: int):
        size, extra = divmod(len(order), workers)
        bounds = [worker * size + min(worker, extra) for worker in range(workers + 1)]
        self._shares = [deque(order[low:high]) for low, high in zip(bounds[:-1], bounds[1:], strict=True)]
        self._lock = threading.Lock()

    def take(self, worker: int) -> int | None:
        """The next index for `worker`, or None when nothing is left."""
        with self._lock:
            if self._shares[worker]:
                return self._shares[worker].popleft()
            longest = max(self._shares, key=len)
            return longest.pop() if longest else None

    def clear(self) -> None:
        """Drop what nobody has taken yet."""
        with self._lock:
            for share in self._shares:
                share.clear()


def run_batch(
    order: Sequence[int],
    call: Callable[[int], R],
    *,
    workers: int,
    progress: Progress,
    interrupt: Callable[[], None],
) -> list[R]:
    """`call(index)` for each index of `order` (a permutation of 0…n-1) on threads; results by index.

    `progress` is called from this thread. The first exception of a call ends the batch and is raised
    when the calls in flight are over. On an exception in this thread, KeyboardInterrupt included,
    `interrupt` is called, and nobody waits for the calls in flight: it is to end them, or to settle them.
    """
    total = len(order)
    workers = min(workers, total)
    if not total:
        return []
    shares = Shares(order, workers)
    events: SimpleQueue[tuple[int, R] | None] = SimpleQueue()
    faults: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            while (index := shares.take(worker)) is not None:
                events.put((index, call(index)))
        except BaseException as fault:  # noqa: BLE001 - carried to the calling thread and raised there
            faults.append(fault)
            shares.clear()
        finally:
            events.put(None)

    # Daemons: a call that hangs must not keep an interrupted program from ending.
    threads = [
        threading.Thread(target=copy_context().run, args=(work, worker), daemon=True)
        for worker in range(workers)
    ]
    results: dict[int, R] = {}
    running = workers
    try:
        for thread in threads:
            thread.start()
        while running:
            event = events.get()
            if event is None:
                running -= 1
            else:
                results[event[0]] = event[1]
                progress(len(results), total)
    except BaseException:
        shares.clear()
        interrupt()
        raise
    if faults:
        raise faults[0]
    return [results[index] for index in range(total)]
