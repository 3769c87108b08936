"""Frozen weights in the blocks of a GGUF file: whole numbers of a few bits with a scale for each block.

They are made dense where they are multiplied, and let go again. Block layouts:
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch.utils._pytree import tree_map

Array: TypeAlias = np.ndarray[Any, Any]

DENSE_AT_ONCE = 1 << 17
"""Weights that are held in fp32 at once: half a megabyte, which a core's own cache holds."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Blocks:
    """A matrix [out, in] as factor · (scale · code + bias) − least, in fp32, on the CPU.

    `rows` [out, blocks of a row, bytes] hold a block's codes, then its scale and its bias, as torch's
    embedding tables do, whose kernels unpack them: where `paired`, two codes to a byte and the others in
    fp16, else a byte each and fp32. `factor` and `least` [out, …] are there where fp16 couldn't hold a scale.
    Of all types that are read here every product and sum but the last is exact.
    """

    rows: torch.Tensor
    paired: bool
    factor: torch.Tensor | None = None
    least: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the matrix."""
        rows, blocks, size = self.rows.shape
        return rows, blocks * (2 * (size - 4) if self.paired else size - 8)

    @property
    def bytes(self) -> int:
        """What is held in memory."""
        held = [part for part in (self.rows, self.factor, self.least) if part is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def write(self, out: torch.Tensor) -> None:
        """The dense matrix into `out` [out, in], rounded to its type: a number of rows at a time."""
        rows, width = self.shape
        step = max(1, DENSE_AT_ONCE // width)
        for first in range(0, rows, step):
            out[first : first + step] = self.wide(first, first + step)

    def wide(self, first: int, last: int) -> torch.Tensor:
        """Rows of the dense matrix [rows, in], in fp32."""
        some = self.rows[first:last]
        quantized = torch.ops.quantized
        unpack = quantized.embedding_bag_4bit_unpack if self.paired else quantized.embedding_bag_byte_unpack
        found: torch.Tensor = unpack(some.flatten(0, 1)).view(len(some), -1)
        for numbers, apply in ((self.factor, torch.Tensor.mul_), (self.least, torch.Tensor.sub_)):
            if numbers is not None:
                part = numbers[first:last, :, None]
                apply(found.view(*part.shape[:2], -1), part)
        return found

    def in_order(self, rows: Array) -> "Blocks":
        """The matrix with its rows in another order."""
        order = torch.from_numpy(rows)
        factor, least = (part if part is None else part[order] for part in (self.factor, self.least))
        return replace(self, rows=self.rows[order], factor=factor, least=least)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Plain:
    """A dense matrix [out, in] beside others that are blocks."""

    weight: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """[out, in] of the matrix."""
        return tuple(self.weight.shape)

    @property
    def bytes(self) -> int:
        """What is held in memory."""
        return self.weight.numel() * self.weight.element_size()

    def write(self, out: torch.Tensor) -> None:
        """The matrix into `out` [out, in]."""
        out.copy_(self.weight)


class Scratch:
    """Memory for a dense matrix in each thread, taken again as soon as nothing reads it any more.

    Made and freed at each use, matrices would lie among what a step keeps for its way back, and leave gaps
    there that hold more than the blocks save.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A matrix whose numbers are still to be written."""
        held: torch.UntypedStorage | None = getattr(self._own, "held", None)
        if held is not None and _users(held) > 1:
            return torch.empty(shape, dtype=dtype)
        size = math.prod(shape) * dtype.itemsize
        if held is None or held.nbytes() < size:
            held = self._own.held = None  # before the larger one is made
            held = self._own.held = torch.UntypedStorage(size)
        return torch.empty(0, dtype=dtype).set_(held, 0, tuple(shape), (shape[1], 1))


def _users(storage: torch.UntypedStorage) -> int:
    """How many tensors and objects share the memory, this object among them."""
    return torch._C._storage_Use_Count(storage._cdata)  # type: ignore[attr-defined]


class BlockWeight(torch.Tensor):
    """A frozen matrix that operations see dense, in `dtype`, and that is held as blocks.

    It may be made up of several, one under the other: matrices that read the same input.
    """

    parts: tuple[Blocks | Plain, ...]
    scratch: Scratch

    @staticmethod
    def __new__(
        cls, parts: Sequence[Blocks | Plain], dtype: torch.dtype, scratch: Scratch | None = None
    ) -> "BlockWeight":
        """`parts` have the same number of columns. Matrices of one model share a `scratch`."""
        shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        made: BlockWeight = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=dtype, device=torch.device("cpu")
        )
        made.parts, made.scratch = tuple(parts), scratch or Scratch()
        return made

    def __init__(
        self, parts: Sequence[Blocks | Plain], dtype: torch.dtype, scratch: Scratch | None = None
    ) -> None:
        """Nothing more to do: torch makes its tensors in `__new__`."""

    def dense(self) -> torch.Tensor:
        """The matrix [out, in]."""
        out = self.scratch.empty(self.shape, self.dtype)
        sizes = [part.shape[0] for part in self.parts]
        for part, into in zip(self.parts, out.split(sizes), strict=True):
            part.write(into)
        return out

    def __repr__(self, **_: Any) -> str:
        return f"BlockWeight({tuple(self.shape)}, {self.dtype}, {sum(p.bytes for p in self.parts):,} bytes)"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operation on the dense matrix; a detached one stays as it is."""
        if func is torch.ops.aten.detach.default:
            return cls(args[0].parts, args[0].dtype, args[0].scratch)
        return func(*tree_map(_dense, args), **tree_map(_dense, dict(kwargs or {})))


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, BlockWeight) else value


def joined(weights: Sequence[torch.Tensor]) -> BlockWeight | None:
    """Matrices one under the other, each held once; None where none of them is in blocks."""
    first = next((weight for weight in weights if isinstance(weight, BlockWeight)), None)
    if first is None:
        return None
    parts = [w.parts if isinstance(w, BlockWeight) else (Plain(weight=w.detach()),) for w in weights]
    return BlockWeight([part for some in parts for part in some], first.dtype, first.scratch)


def blocks_of(data: Array, kind: int, shape: tuple[int, int]) -> Blocks | None:
    """The bytes of a GGUF tensor [out, in] of this kind; None for kinds that aren't read here."""
    known = READ.get(kind)
    if known is None:
        return None
    count, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    rows, width = shape
    return known(data.reshape(rows, width // count, size))


def _in_bytes(codes: Array, scale: Array, bias: Array) -> Blocks:
    """Of codes [rows, …, size], with scales and biases [rows, …]."""
    held = np.stack([scale, bias], axis=-1, dtype=np.float32).view(np.uint8)
    return Blocks(rows=_laid(np.concatenate([codes, held], axis=-1)), paired=False)


def _in_pairs(codes: Array, scale: Array, bias: Array, **rest: torch.Tensor) -> Blocks:
    """The same of codes of four bits, with scales and biases that fp16 holds."""
    held = np.stack([scale, bias], axis=-1).astype(np.float16).view(np.uint8)
    pairs = codes[..., 0::2] | codes[..., 1::2] << 4
    return Blocks(rows=_laid(np.concatenate([pairs, held], axis=-1)), paired=True, **rest)


def _laid(rows: Array) -> torch.Tensor:
    """[rows, …, bytes] → [rows, blocks, bytes]."""
    return torch.from_numpy(np.ascontiguousarray(rows.reshape(len(rows), -1, rows.shape[-1])))


def _halves(raw: Array) -> Array:
    """The low four bits of the bytes [..., n], then the high ones: [..., 2 n]."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _f16(raw: Array) -> Array:
    """Two bytes as a number, in fp32: [..., 2] → [...]."""
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)


def _fifth(raw: Array) -> Array:
    """Four bytes as the fifth bits of 32 codes: [..., 4] → [..., 32]."""
    return np.unpackbits(np.ascontiguousarray(raw), axis=-1, bitorder="little") << 4


def _q4_0(raw: Array) -> Blocks:
    scale = _f16(raw[..., :2])
    return _centred(_halves(raw[..., 2:]), scale, 8)


def _q4_1(raw: Array) -> Blocks:
    return _in_pairs(_halves(raw[..., 4:]), _f16(raw[..., :2]), _f16(raw[..., 2:4]))


def _q5_0(raw: Array) -> Blocks:
    scale = _f16(raw[..., :2])
    return _in_bytes(_halves(raw[..., 6:]) | _fifth(raw[..., 2:6]), scale, -16 * scale)


def _q5_1(raw: Array) -> Blocks:
    codes = _halves(raw[..., 8:]) | _fifth(raw[..., 4:8])
    return _in_bytes(codes, _f16(raw[..., :2]), _f16(raw[..., 2:4]))


def _q8_0(raw: Array) -> Blocks:
    scale = _f16(raw[..., :2])
    # Signed to unsigned: the highest bit turned.
    return _in_bytes(raw[..., 2:] ^ 128, scale, -128 * scale)


def _centred(codes: Array, scale: Array, zero: int) -> Blocks:
    """scale · (code − zero), in pairs where fp16 holds the product: it has no room above 65,504."""
    made = _in_pairs if bool((np.abs(zero * scale) <= np.finfo(np.float16).max).all()) else _in_bytes
    return made(codes, scale, -zero * scale)


def _factors_of_eight(raw: Array) -> tuple[Array, Array]:
    """The factors of eight blocks' scales and least, six bits each, in twelve bytes: [..., 12] → [..., 8]."""
    first, second, rest = raw[..., :4], raw[..., 4:8], raw[..., 8:]
    scale = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=-1)
    least = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=-1)
    return scale.astype(np.float32), least.astype(np.float32)


def _four_bits_of_eight(raw: Array) -> Array:
    """The low bits of eight blocks of 32 codes: [..., 128] → [..., 8, 32]."""
    chunks = raw.reshape(*raw.shape[:-1], 4, 32)
    return _halves(chunks).reshape(*raw.shape[:-1], 8, 32)


def _q4_k(raw: Array) -> Blocks:
    scale, least = _factors_of_eight(raw[..., 4:16])
    low = _f16(raw[..., 2:4])[..., None] * least
    return _in_pairs(
        _four_bits_of_eight(raw[..., 16:]),
        scale,
        np.zeros_like(scale),
        factor=torch.from_numpy(_f16(raw[..., :2])),
        least=torch.from_numpy(low.reshape(len(raw), -1)),
    )


def _q5_k(raw: Array) -> Blocks:
    scale, least = _factors_of_eight(raw[..., 4:16])
    # Bit i of byte j is of weight j of block i.
    bits = np.unpackbits(np.ascontiguousarray(raw[..., 16:48, None]), axis=-1, bitorder="little")
    codes = _four_bits_of_eight(raw[..., 48:]) | bits.swapaxes(-1, -2) << 4
    return _in_bytes(codes, _f16(raw[..., :2])[..., None] * scale, -(_f16(raw[..., 2:4])[..., None] * least))


def _q6_k(raw: Array) -> Blocks:
    low, high = (part.reshape(*raw.shape[:-1], 2, -1) for part in (raw[..., :128], raw[..., 128:192]))
    # Of each half of 128: the low bits of 64 in one nibble, of 64 in the other; two high bits by quarters.
    codes = _halves(low) | np.concatenate([(high >> 2 * n & 3) << 4 for n in range(4)], axis=-1)
    scale = np.ascontiguousarray(raw[..., 192:208]).view(np.int8) * _f16(raw[..., 208:])[..., None]
    return _in_bytes(codes.reshape(*raw.shape[:-1], 16, 16), scale, -32 * scale)


READ: Final[Mapping[int, Callable[[Array], Blocks]]] = {
    int(kind): read
    for kind, read in {
        GGMLQuantizationType.Q4_0: _q4_0,
        GGMLQuantizationType.Q4_1: _q4_1,
        GGMLQuantizationType.Q5_0: _q5_0,
        GGMLQuantizationType.Q5_1: _q5_1,
        GGMLQuantizationType.Q8_0: _q8_0,
        GGMLQuantizationType.Q4_K: _q4_k,
        GGMLQuantizationType.Q5_K: _q5_k,
        GGMLQuantizationType.Q6_K: _q6_k,
    }.items()
}
"""The kinds of blocks that are read here, by ggml's numbers."""
