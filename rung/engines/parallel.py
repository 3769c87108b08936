"""Whole model calls side by side, each on cores of its own.

On a CPU a call's many small operations gain little from a second core, and wake it each time. Halves of a
batch, each on one core, keep both at work: about 1.4 times the training steps a second on two.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 4
"""More may wait for each other, since one at a time runs Python; measured on two cores alone."""


GPU_TIMES = 16


def workers(device: torch.device) -> int:
    """How many calls run side by side on a device: one on a GPU, else as many as torch may use cores."""
    return min(MOST_WORKERS, torch.get_num_threads()) if device.type == "cpu" else 1


def portion(tokens: int, device: torch.device) -> int:
    """How many tokens go through a model in one call: so many on a CPU, whose caches more would leave.

    A GPU takes more of them: it starts thousands of small kernels for a call, however few tokens it has.
    """
    return tokens if device.type == "cpu" else GPU_TIMES * tokens


def side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], count: int, most: int | None = None
) -> Iterator[Result]:
    """The results in the items' order, `count` calls at a time, each with its share of torch's threads.

    `most` of them where memory holds no more: each has the same threads then, too, and gives the same bits.
    Grad and inference mode are those of a new thread: `function` sets its own. An error comes when no call
    runs any more.
    """
    if count == 1 or len(items) == 1:
        yield from map(function, items)
        return
    free = threading.Semaphore(count if most is None else most)

    def called(item: Item) -> Result:
        with free:
            return function(item)

    pool = _pool(count, torch.get_num_threads())
    left = deque(pool.submit(called, item) for item in items)
    try:
        while left:
            yield left.popleft().result()
    finally:
        # What still runs holds memory, which whoever tries again with less needs.
        wait([one for one in left if not one.cancel()])


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    share = max(1, threads // count)

    def own_cores() -> None:
        torch.get_num_threads()  # a thread takes over the process's number when it's first asked
        torch.set_num_threads(share)

    pool = ThreadPoolExecutor(count, "rung-model", initializer=own_cores)
    begun = threading.Barrier(count)
    list(pool.map(lambda _: begun.wait(), range(count)))
    torch.set_num_threads(threads)  # what later threads start with; the workers keep their own
    return pool
