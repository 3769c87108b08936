"""Training state in a file that survives kill -9 to the last stored step.

Two slots take turns. A step's state is written into the slot that doesn't hold the newest one, and then
that slot's head gets the step's number and the sum of the state. The kernel keeps what was written when the
process dies. When the machine dies it may have written any of it: a slot whose sum isn't right is never
used, so what is left is the other slot or, at worst, the beginning.

The file isn't mapped into memory: both slots would count as this process's, and a disk that gives an error
would end it with SIGBUS.
"""

import os
import struct
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rung.errors import OtherTrainingError, RunError
from rung.runs import read_json, write_json, writing

FLUSH_EVERY_S = 30.0
PAGE = 4096
"""The two heads have a page of their own; the slots follow."""
AT_ONCE = 2**22
"""Bytes that are read at a time where nothing but their sum is wanted."""
_HEAD = struct.Struct("<qq")
Raw: TypeAlias = NDArray[np.uint8]


class Checkpoint:
    """State of one training run: tensors of fixed shapes and one type, and how many steps they have seen."""

    def __init__(self, folder: Path, tensors: Sequence[torch.Tensor], digest: str) -> None:
        """`tensors` are the ones to be saved and filled. `digest` names the run's settings and data.

        Raises OtherTrainingError for a folder made under another digest, or of other tensors, and RunError
        when there is no room for the state.
        """
        self.path = folder / "state.bin"
        self._tensors = list(tensors)
        dtype = self._tensors[0].dtype
        self._sizes = [t.numel() * dtype.itemsize for t in self._tensors]
        self._slot_bytes = -(-sum(self._sizes) // PAGE) * PAGE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        made_of = [list(t.shape) for t in self._tensors]
        self._settle(folder / "state.json", {"digest": digest, "shapes": made_of, "type": str(dtype)})
        with writing(self.path):
            self._file = self.path.open("r+b")
            weakref.finalize(self, self._file.close)  # of a run that nobody ended
            self._flushed = time.monotonic()
            self._newest = self._find_newest()

    @property
    def step(self) -> int:
        """Steps the stored state has seen; 0 when nothing is stored."""
        return self._head(self._newest)[0]

    def save(self, step: int) -> None:
        """Store the tensors as the state after `step` steps. Raises RunError where the disk refuses it."""
        slot, total = 1 - self._newest, 0
        with writing(self.path):
            self._file.seek(self._begin(slot))
            for tensor in self._tensors:
                raw = _bytes(tensor.detach().cpu())
                self._file.write(raw.data)
                total += _sum(raw)
            self._file.flush()
            self._write_head(slot, step, total)
            if time.monotonic() - self._flushed > FLUSH_EVERY_S:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        self._newest = slot

    def load(self) -> int:
        """Fill the tensors with the stored state and return its step; leaves them alone at step 0."""
        if self.step:
            self._file.seek(self._begin(self._newest))
            for tensor in self._tensors:
                stored = tensor.detach()
                if stored.device.type != "cpu":
                    stored = torch.empty_like(stored, device="cpu")
                self._read(_bytes(stored))
                tensor.detach().copy_(stored)
        return self.step

    def close(self) -> None:
        """Have it on the disk, and close. Safe to call twice."""
        if not self._file.closed:
            with writing(self.path):
                os.fsync(self._file.fileno())
                self._file.close()

    def _settle(self, head: Path, wanted: dict) -> None:
        """Take up the folder's state file, or make one."""
        size = PAGE + 2 * self._slot_bytes
        if not head.exists():
            self._create(size)
            write_json(head, wanted)
        found = read_json(head)
        differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if differing:
            raise OtherTrainingError(
                f"{head.parent} holds the training state of another {', '.join(differing)} "
                f"({found.get(differing[0])!r}, now {wanted.get(differing[0])!r})",
                differing,
            )
        if not self.path.exists() or self.path.stat().st_size != size:
            raise RunError(f"{self.path} is missing or damaged; remove {head.parent} to start again")

    def _create(self, size: int) -> None:
        """Take the blocks now, so that a full disk is told before the first step."""
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

    def _begin(self, slot: int) -> int:
        return PAGE + slot * self._slot_bytes

    def _head(self, slot: int) -> tuple[int, int]:
        self._file.seek(slot * _HEAD.size)
        return _HEAD.unpack(self._file.read(_HEAD.size))

    def _write_head(self, slot: int, step: int, total: int) -> None:
        self._file.seek(slot * _HEAD.size)
        self._file.write(_HEAD.pack(step, _signed(total)))
        self._file.flush()

    def _find_newest(self) -> int:
        """The slot with the newest whole state. Wipes a torn one, so that it's never taken for whole."""
        for slot in (0, 1):
            step, total = self._head(slot)
            if step and total != _signed(self._stored_sum(slot)):
                self._write_head(slot, 0, 0)
        return max((0, 1), key=lambda slot: self._head(slot)[0])

    def _stored_sum(self, slot: int) -> int:
        self._file.seek(self._begin(slot))
        return sum(_sum(raw) for size in self._sizes for raw in self._pieces(size))

    def _pieces(self, size: int) -> Iterator[Raw]:
        for begin in range(0, size, AT_ONCE):
            raw = np.empty(min(AT_ONCE, size - begin), dtype=np.uint8)
            self._read(raw)
            yield raw

    def _read(self, into: Raw) -> None:
        if self._file.readinto(into.data) != into.size:
            raise RunError(f"{self.path} ended too early; remove {self.path.parent} to start again")


def _bytes(tensor: torch.Tensor) -> Raw:
    """The bytes of a tensor on the CPU whose numbers stand one after another, shared with it."""
    return tensor.view(-1).view(torch.uint8).numpy()


def _sum(raw: Raw) -> int:
    """The sum of 64-bit integers, and of the bytes left over as one more: at the speed of memory."""
    whole = raw.size // 8 * 8
    words = int(torch.from_numpy(raw[:whole]).view(torch.int64).sum()) if whole else 0
    return words + int.from_bytes(raw[whole:].tobytes(), "little")


def _signed(total: int) -> int:
    """Modulo 2⁶⁴, as a signed integer."""
    return (total + 2**63) % 2**64 - 2**63
