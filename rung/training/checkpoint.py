"""Training state in a memory-mapped file: it survives kill -9 to the very last finished step.

Two slots take turns. A step's state is copied into the slot that isn't current and only then is the
eight-byte mark moved to it, so a reader always finds one whole state. The kernel keeps the pages when
the process dies; a flush now and then guards against the machine dying.
"""

import json
import mmap
import struct
import time
from pathlib import Path

import torch

from rung.errors import RunError

FLUSH_EVERY_S = 30.0
_MARK = struct.Struct("<q")


class Checkpoint:
    """State of one training run: fp32 tensors of fixed sizes, and how many steps they have seen."""

    def __init__(self, folder: Path, sizes: list[int], digest: str) -> None:
        """`digest` names the run's settings and data: a folder made under another one is refused."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "state.bin"
        self.total = sum(sizes)
        self.sizes = sizes
        head = folder / "state.json"
        wanted = {"digest": digest, "floats": self.total}
        if head.exists() and self.path.exists():
            found = json.loads(head.read_text(encoding="utf-8"))
            if found != wanted:
                raise RunError(
                    f"{folder} holds the training state of other settings or data ({found.get('digest')!r}, "
                    f"now {digest!r}); remove the folder to start again"
                )
        else:
            self._create()
            head.write_text(json.dumps(wanted), encoding="utf-8")
        self._file = self.path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._floats = torch.frombuffer(self._map, dtype=torch.float32, offset=8)
        self._flushed = time.monotonic()

    @property
    def step(self) -> int:
        """Steps the stored state has seen; 0 when nothing is stored."""
        return self._mark() >> 1

    def save(self, step: int, tensors: list[torch.Tensor]) -> None:
        """Store the state after `step` steps."""
        slot = 1 - (self._mark() & 1)
        self._copy(slot, tensors, store=True)
        self._map[:8] = _MARK.pack(step << 1 | slot)
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self._map.flush()
            self._flushed = time.monotonic()

    def load(self, tensors: list[torch.Tensor]) -> int:
        """Fill `tensors` with the stored state and return its step; leaves them alone at step 0."""
        if self.step:
            self._copy(self._mark() & 1, tensors, store=False)
        return self.step

    def close(self) -> None:
        """Flush and unmap."""
        self._map.flush()
        self._floats = torch.empty(0)
        self._map.close()
        self._file.close()

    def _mark(self) -> int:
        return _MARK.unpack(self._map[:8])[0]

    def _copy(self, slot: int, tensors: list[torch.Tensor], *, store: bool) -> None:
        offset = slot * self.total
        for size, tensor in zip(self.sizes, tensors, strict=True):
            part = self._floats[offset : offset + size].view(tensor.shape)
            if store:
                part.copy_(tensor.detach())
            else:
                tensor.detach().copy_(part)
            offset += size

    def _create(self) -> None:
        size = 8 + 2 * 4 * self.total
        try:
            with self.path.open("wb") as file:
                file.truncate(size)
                file.flush()
                _reserve(file.fileno(), size)
        except OSError as error:
            raise RunError(
                f"can't write the training state ({size / 2**20:.0f} MiB) to {self.path}: {error.strerror}; "
                "free some space or choose another run folder with --out"
            ) from None


def _reserve(descriptor: int, size: int) -> None:
    """Take the blocks now: a memory-mapped file on a full disk would end the process with SIGBUS."""
    import os

    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
