"""Which of llama.cpp's slots serves a prompt: the free one whose cache already holds most of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

Tokens = tuple[int, ...]


class Slots:
    """The slots of one engine; a caller waits while all are taken."""

    def __init__(self, size: int):
        self._held: list[Tokens] = [()] * size
        self._used = [0] * size
        self._free = set(range(size))
        self._clock = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, prompt: Tokens) -> Iterator[int]:
        """Hold a slot for `prompt`: that with the longest common prefix, then the least recently used."""
        with self._changed:
            self._changed.wait_for(lambda: self._free)
            slot = max(
                sorted(self._free),
                key=lambda index: (common_length(self._held[index], prompt), -self._used[index]),
            )
            self._free.remove(slot)
            self._clock += 1
            self._used[slot] = self._clock
            self._held[slot] = prompt
        try:
            yield slot
        finally:
            with self._changed:
                self._free.add(slot)
                self._changed.notify()


def common_length(left: Tokens, right: Tokens) -> int:
    """How many leading tokens are equal (bisection: comparing slices is much faster than a loop)."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
