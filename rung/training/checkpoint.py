"""Training state in a memory-mapped file: it survives kill -9 to the last stored step.

Two slots take turns. A step's state is copied into the slot that doesn't hold the newest one, and then
that slot's head gets the step's number and the sum of the state. The kernel keeps the pages when the
process dies. When the machine dies it may have written any of them: a slot whose sum isn't right is
never used, so what is left is the other slot or, at worst, the beginning.
"""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from rung.errors import RunError
from rung.runs import read_json, write_json, writing

FLUSH_EVERY_S = 30.0
PAGE = 4096
"""The two heads have a page of their own; the slots follow."""
_HEAD = struct.Struct("<qq")


class Checkpoint:
    """State of one training run: tensors of fixed shapes and one type, and how many steps they have seen."""

    def __init__(self, folder: Path, tensors: Sequence[torch.Tensor], digest: str) -> None:
        """`tensors` are the ones to be saved and filled. `digest` names the run's settings and data.

        Raises RunError for a folder made under another digest, and when there is no room for the state.
        """
        self.path = folder / "state.bin"
        self._tensors = list(tensors)
        dtype = self._tensors[0].dtype
        self._numbers = sum(t.numel() for t in self._tensors)
        self._bytes = -(-self._numbers * dtype.itemsize // PAGE) * PAGE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        made_of = [list(t.shape) for t in self._tensors]
        self._settle(folder / "state.json", {"digest": digest, "shapes": made_of, "type": str(dtype)})
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        whole = torch.frombuffer(self._map, dtype=torch.int64)
        self._slots = [whole[start // 8 : (start + self._bytes) // 8] for start in (PAGE, PAGE + self._bytes)]
        self._dtype = dtype
        self._flushed = time.monotonic()
        self._newest = self._find_newest()

    @property
    def step(self) -> int:
        """Steps the stored state has seen; 0 when nothing is stored."""
        return self._head(self._newest)[0]

    def save(self, step: int) -> None:
        """Store the tensors as the state after `step` steps."""
        slot = 1 - self._newest
        for part, tensor in self._parts(slot):
            part.copy_(tensor.detach())
        self._map[slot * _HEAD.size : (slot + 1) * _HEAD.size] = _HEAD.pack(step, self._sum(slot))
        self._newest = slot
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self._map.flush()
            self._flushed = time.monotonic()

    def load(self) -> int:
        """Fill the tensors with the stored state and return its step; leaves them alone at step 0."""
        if self.step:
            for part, tensor in self._parts(self._newest):
                tensor.detach().copy_(part)
        return self.step

    def close(self) -> None:
        """Flush and unmap. Safe to call twice."""
        if not self._map.closed:
            self._map.flush()
            self._slots = []
            self._map.close()

    def _settle(self, head: Path, wanted: dict) -> None:
        """Take up the folder's state file, or make one."""
        size = PAGE + 2 * self._bytes
        if not head.exists():
            self._create(size)
            write_json(head, wanted)
        found = read_json(head)
        differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if differing:
            raise RunError(
                f"{head.parent} holds the training state of another {', '.join(differing)} "
                f"({found.get(differing[0])!r}, now {wanted.get(differing[0])!r}); remove the folder to "
                "start again"
            )
        if not self.path.exists() or self.path.stat().st_size != size:
            raise RunError(f"{self.path} is missing or damaged; remove {head.parent} to start again")

    def _create(self, size: int) -> None:
        """Take the blocks now: a memory-mapped file on a full disk would end the process with SIGBUS."""
        try:
            with self.path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                os.fsync(file.fileno())
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise RunError(
                f"can't write the training state ({size / 2**20:.0f} MiB) to {self.path}: {error.strerror}; "
                "free some space or choose another run folder with --out"
            ) from None

    def _head(self, slot: int) -> tuple[int, int]:
        return _HEAD.unpack_from(self._map, slot * _HEAD.size)

    def _find_newest(self) -> int:
        """The slot with the newest whole state. Wipes a torn one, so that it's never taken for whole."""
        for slot in (0, 1):
            step, total = self._head(slot)
            if step and total != self._sum(slot):
                self._map[slot * _HEAD.size : (slot + 1) * _HEAD.size] = _HEAD.pack(0, 0)
        return max((0, 1), key=lambda slot: self._head(slot)[0])

    def _sum(self, slot: int) -> int:
        """The sum of the slot's bytes as 64-bit integers, modulo 2⁶⁴: at the speed of memory."""
        return int(self._slots[slot].sum())

    def _parts(self, slot: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        stored = self._slots[slot].view(self._dtype)[: self._numbers]
        sizes = [t.numel() for t in self._tensors]
        return [
            (part.view(tensor.shape), tensor)
            for part, tensor in zip(stored.split(sizes), self._tensors, strict=True)
        ]
