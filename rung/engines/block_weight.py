"""Frozen weights in the blocks of a GGUF file: whole numbers of a few bits with a scale for each block.

They are made dense where they are multiplied, and let go again. Block layouts:
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch.utils._pytree import tree_map

Array: TypeAlias = np.ndarray[Any, Any]

DENSE_AT_ONCE = 1 << 19
"""Weights that are held in fp32 at once."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Blocks:
    """A matrix [out, in] as scale · (code − zero) + least, in fp32.

    `codes` [out, in] are bytes or, where `paired`, [out, in / 2]: the low four bits are the first half of a
    row, the high ones the second. `scale` and `least` [out, blocks of a row] are in fp16 where that loses
    nothing, else in fp32. There is either a `zero` or a `least`.
    """

    codes: torch.Tensor
    paired: bool
    scale: torch.Tensor
    zero: int
    least: torch.Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the matrix."""
        rows, width = self.codes.shape
        return rows, 2 * width if self.paired else width

    @property
    def bytes(self) -> int:
        """What is held in memory."""
        held = (self.codes, self.scale, *([] if self.least is None else [self.least]))
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def write(self, out: torch.Tensor) -> None:
        """The dense matrix into `out` [out, in], rounded to its type: a number of rows at a time."""
        rows, width = self.shape
        step = max(1, DENSE_AT_ONCE // width)
        wide = torch.empty(min(step, rows), width, device=out.device)
        for first in range(0, rows, step):
            codes = self.codes[first : first + step]
            found = wide[: len(codes)]
            if self.paired:
                found[:, : width // 2] = codes & 15
                found[:, width // 2 :] = codes >> 4
            else:
                found.copy_(codes)
            if self.zero:
                found.sub_(self.zero)
            blocks = found.view(*self.scale[first : first + step].shape, -1)
            blocks.mul_(self.scale[first : first + step, :, None])
            if self.least is not None:
                blocks.add_(self.least[first : first + step, :, None])
            out[first : first + step] = found

    def in_order(self, rows: Array) -> "Blocks":
        """The matrix with its rows in another order."""
        order = torch.from_numpy(rows)
        least = None if self.least is None else self.least[order]
        return replace(self, codes=self.codes[order], scale=self.scale[order], least=least)


class BlockWeight(torch.Tensor):
    """A frozen matrix that operations see dense, in `dtype`, and that is held as blocks.

    It may be made up of several, one under the other: matrices that read the same input.
    """

    parts: tuple[Blocks, ...]

    @staticmethod
    def __new__(cls, parts: Sequence[Blocks], dtype: torch.dtype) -> "BlockWeight":
        """`parts` have the same number of columns."""
        shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        made: BlockWeight = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=dtype, device=parts[0].codes.device
        )
        made.parts = tuple(parts)
        return made

    def __init__(self, parts: Sequence[Blocks], dtype: torch.dtype) -> None:
        """Nothing more to do: torch makes its tensors in `__new__`."""

    def dense(self) -> torch.Tensor:
        """The matrix [out, in]."""
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
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
            return cls(args[0].parts, args[0].dtype)
        return func(*tree_map(_dense, args), **tree_map(_dense, dict(kwargs or {})))


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, BlockWeight) else value


def joined(weights: Sequence[torch.Tensor]) -> BlockWeight | None:
    """Matrices one under the other, held once; None unless all are blocks of one type."""
    found = [weight for weight in weights if isinstance(weight, BlockWeight)]
    if len(found) < len(weights) or len({weight.dtype for weight in found}) > 1:
        return None
    return BlockWeight([part for weight in found for part in weight.parts], found[0].dtype)


def blocks_of(data: Array, kind: int, shape: tuple[int, int]) -> Blocks | None:
    """The bytes of a GGUF tensor [out, in] of this kind; None for kinds that aren't read here."""
    known = READ.get(kind)
    if known is None:
        return None
    count, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    rows, width = shape
    raw = data.reshape(rows, width // count, size)
    codes, scale, zero, least, paired = known(raw)
    codes = codes.reshape(rows, width)
    if paired and width % 2 == 0:
        codes = codes[:, : width // 2] | codes[:, width // 2 :] << 4
    return Blocks(
        codes=torch.from_numpy(np.ascontiguousarray(codes)),
        paired=paired and width % 2 == 0,
        scale=_held(scale.reshape(rows, -1)),
        zero=zero,
        least=None if least is None else _held(least.reshape(rows, -1)),
    )


def _held(numbers: Array) -> torch.Tensor:
    with np.errstate(over="ignore"):
        small = numbers.astype(np.float16)
    return torch.from_numpy(small if np.array_equal(small, numbers, equal_nan=True) else numbers)


Read: TypeAlias = tuple[Array, Array, int, Array | None, bool]
"""Codes, scales, zero, least, and whether the codes have four bits."""


def _halves(raw: Array) -> Array:
    """The low four bits of the bytes [..., n], then the high ones: [..., 2 n]."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _f16(raw: Array) -> Array:
    """Two bytes as a number, in fp32: [..., 2] → [..., 1]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _fifth(raw: Array) -> Array:
    """Four bytes as the fifth bits of 32 codes: [..., 4] → [..., 32]."""
    return np.unpackbits(np.ascontiguousarray(raw), axis=-1, bitorder="little") << 4


def _q4_0(raw: Array) -> Read:
    return _halves(raw[..., 2:]), _f16(raw[..., :2]), 8, None, True


def _q4_1(raw: Array) -> Read:
    return _halves(raw[..., 4:]), _f16(raw[..., :2]), 0, _f16(raw[..., 2:4]), True


def _q5_0(raw: Array) -> Read:
    return _halves(raw[..., 6:]) | _fifth(raw[..., 2:6]), _f16(raw[..., :2]), 16, None, False


def _q5_1(raw: Array) -> Read:
    codes = _halves(raw[..., 8:]) | _fifth(raw[..., 4:8])
    return codes, _f16(raw[..., :2]), 0, _f16(raw[..., 2:4]), False


def _q8_0(raw: Array) -> Read:
    # Signed to unsigned: the highest bit turned.
    return raw[..., 2:] ^ 128, _f16(raw[..., :2]), 128, None, False


def _scales_of_eight(raw: Array) -> tuple[Array, Array]:
    """The factors of eight blocks' scales and least, six bits each, in twelve bytes: [..., 12] → [..., 8]."""
    first, second, rest = raw[..., :4], raw[..., 4:8], raw[..., 8:]
    scale = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=-1)
    least = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=-1)
    return scale.astype(np.float32), least.astype(np.float32)


def _eight(raw: Array) -> tuple[Array, Array, Array]:
    """Of 256 weights in eight blocks: four bits of each [..., 256], scales and least [..., 8]."""
    scale, least = _scales_of_eight(raw[..., 4:16])
    codes = raw[..., -128:].reshape(*raw.shape[:-1], 4, 32)
    return (
        _halves(codes).reshape(*raw.shape[:-1], 256),
        _f16(raw[..., :2]) * scale,
        -(_f16(raw[..., 2:4]) * least),
    )


def _q4_k(raw: Array) -> Read:
    codes, scale, least = _eight(raw)
    return codes, scale, 0, least, True


def _q5_k(raw: Array) -> Read:
    codes, scale, least = _eight(raw)
    # Bit i of byte j is of weight j of block i.
    bits = np.unpackbits(np.ascontiguousarray(raw[..., 16:48, None]), axis=-1, bitorder="little")
    return codes | bits.swapaxes(-1, -2).reshape(codes.shape) << 4, scale, 0, least, False


def _q6_k(raw: Array) -> Read:
    low, high = (part.reshape(*raw.shape[:-1], 2, -1) for part in (raw[..., :128], raw[..., 128:192]))
    # Of each half of 128: the low bits of 64 in one nibble, of 64 in the other; two high bits by quarters.
    codes = _halves(low) | np.concatenate([(high >> 2 * n & 3) << 4 for n in range(4)], axis=-1)
    scales = np.ascontiguousarray(raw[..., 192:208]).view(np.int8).astype(np.float32)
    return codes.reshape(*raw.shape[:-1], 256), _f16(raw[..., 208:]) * scales, 32, None, False


READ: Final[Mapping[int, Callable[[Array], Read]]] = {
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
