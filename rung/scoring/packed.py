"""Files in memory, up to so many bytes in all: those that were used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock

BESIDE_BYTES = 1000
"""What is kept of a file beside its content, about."""


@dataclass(kw_only=True)
class PackedFiles:
    """Files by what they are made of, for several threads at once: two that miss the same one make it both.

    What takes more than `most_bytes` alone is kept as empty, so that it isn't made in vain again.
    """

    most_bytes: int
    held_bytes: int = field(init=False, default=0)
    _files: OrderedDict[Hashable, bytes] = field(init=False, default_factory=OrderedDict)
    _lock: Lock = field(init=False, default_factory=Lock)

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The file, made where it isn't kept. Raises what `make` does; nothing is kept then."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        made = make()
        if len(made) + BESIDE_BYTES > self.most_bytes:
            made = b""
        with self._lock:
            if key not in self._files:
                self._files[key] = made
                self.held_bytes += len(made) + BESIDE_BYTES
            while self.held_bytes > self.most_bytes:
                _, oldest = self._files.popitem(last=False)
                self.held_bytes -= len(oldest) + BESIDE_BYTES
        return made
