"""A GGUF written from another: its metadata byte for byte, weights merged with a LoRA or in another type.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np

from rung.errors import ModelError
from rung.models._gguf import Header, read_header
from rung.models.weight_types import BLOCKS, PLAIN, WRITTEN, WeightType, dequantise, quantise, size_of

if TYPE_CHECKING:
    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

Value: TypeAlias = str | int

ALIGNMENT: Final = 32
CHUNK_WEIGHTS: Final = 1 << 24
"""Weights that are held in fp32 at once."""
QUANTISATION_VERSION: Final = 2
OUTER: Final = frozenset({"token_embd.weight", "output.weight"})
"""Matrices from and to the vocabulary: where they are wide in the base, a quantised file has them in Q8_0."""
_STRING, _UINT32 = 8, 4
_WIDE = {found.kind for found in PLAIN}
_FULL = WRITTEN["f32"].kind


class Change(Protocol):
    """What is made of one weight of `shape` [out, in]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        ...

    def into(self, weight: "Floats", first: int) -> "Floats":
        """The rows `weight` [rows, in], from row `first` on, with the change made, in fp32."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A tensor of the new file: where its bytes are in the base, and its type there and here."""

    name: str
    shape: tuple[int, ...]
    begin: int
    size: int
    kind: int
    wanted: WeightType | None

    @property
    def new_kind(self) -> int:
        return self.kind if self.wanted is None else self.wanted.kind

    @property
    def new_size(self) -> int:
        return self.size if self.wanted is None else size_of(self.shape, self.wanted)


def write_merged(
    base: Path,
    deltas: Mapping[str, Change],
    out: Path,
    *,
    wanted: WeightType | None,
    changes: Mapping[str, Value],
) -> None:
    """Write `base` with `deltas` in it as `out`; `changes` are the keys that get another value, or are new.

    A weight that a delta touches is de-quantised, merged in fp32 and written as `wanted` (F16 where its rows
    aren't whole blocks). The others are copied as they are, with two exceptions: a plain type is that of all
    quantised weights and of the outer matrices, and a quantised type finds the outer matrices in Q8_0 at
    most. Without `wanted`, and deltas, all weights are copied. Raises ModelError where a delta has no weight
    in `base` or doesn't fit it.
    """
    assert wanted is not None or not deltas, "a merged weight needs a type"
    header = read_header(base)
    _check(base, {tensor.name: tensor.shape for tensor in header.tensors}, deltas)
    types = {
        tensor.name: _type_of(tensor.name, tensor.shape, tensor.kind, wanted, touched=tensor.name in deltas)
        for tensor in header.tensors
    }
    _write(base, header, types, out, keys={**_types(header.values, wanted), **changes}, deltas=deltas)


def retyped_matrices(header: Header, wanted: WeightType) -> dict[str, int]:
    """The weights in each matrix that `write_retyped` would write anew, by name."""
    return {
        tensor.name: prod(tensor.shape)
        for tensor in header.tensors
        if len(tensor.shape) > 1
        and tensor.kind not in (wanted.kind, _FULL)
        and not tensor.shape[-1] % wanted.block
    }


def write_retyped(base: Path, out: Path, wanted: WeightType) -> None:
    """Write `base` as `out`, its matrices as `wanted`: those in fp32, which have their reasons, stay so.

    Raises ModelError where `base` can't be read.
    """
    header = read_header(base)
    types = dict.fromkeys(retyped_matrices(header, wanted), wanted)
    _write(base, header, types, out, keys=_types(header.values, wanted))


def _write(
    base: Path,
    header: Header,
    types: Mapping[str, WeightType | None],
    out: Path,
    *,
    keys: Mapping[str, Value],
    deltas: Mapping[str, Change] = MappingProxyType({}),
) -> None:
    """`base` as `out`: some weights in the types given, the others as they are, `keys` in the header."""
    alignment = header.values.get("general.alignment", ALIGNMENT)
    step = alignment if isinstance(alignment, int) and 0 < alignment <= 1 << 20 else ALIGNMENT
    places = []
    for tensor in header.tensors:
        if tensor.size is None:
            raise ModelError(f"{str(base)!r}: {tensor.name!r} has the unknown type {tensor.kind!r}")
        places.append(
            _Place(
                name=tensor.name,
                shape=tensor.shape,
                begin=tensor.begin,
                size=tensor.size,
                kind=tensor.kind,
                wanted=types.get(tensor.name),
            )
        )
    with (
        base.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data,
        out.open("wb") as target,
    ):
        for part in _head(data, header.spans, keys, places, step):
            target.write(part)
        for place in places:
            for part in _weights(data, place, deltas.get(place.name)):
                target.write(part)
            target.write(b"\0" * (-target.tell() % step))


def _check(base: Path, shapes: Mapping[str, tuple[int, ...]], deltas: Mapping[str, Change]) -> None:
    for name, delta in deltas.items():
        if shapes.get(name) != delta.shape:
            raise ModelError(
                f"{str(base)!r} has no weight {name!r} of shape {delta.shape!r} "
                f"(found: {shapes.get(name)!r}): the adapter was made for another model"
            )


def _types(values: Mapping[str, object], wanted: WeightType | None) -> dict[str, Value]:
    """What the header says of the types."""
    if wanted is None:
        return {}
    found: dict[str, Value] = {"general.file_type": wanted.file_type}
    if wanted in BLOCKS and "general.quantization_version" not in values:
        found["general.quantization_version"] = QUANTISATION_VERSION
    return found


def _type_of(
    name: str, shape: tuple[int, ...], kind: int, wanted: WeightType | None, *, touched: bool
) -> WeightType | None:
    """What a tensor is written as; None where its bytes are copied."""
    if wanted is None:
        return None
    narrow = kind not in _WIDE
    if wanted in PLAIN:
        new = wanted if touched or narrow or (name in OUTER and len(shape) > 1) else None
    elif touched:
        new = wanted
    else:
        new = WRITTEN["q8_0"] if name in OUTER and not narrow else None
    if new is not None and shape and shape[-1] % new.block:
        new = WRITTEN["f16"]
    return None if new is not None and not touched and new.kind == kind else new


def _head(
    data: mmap.mmap,
    spans: Mapping[str, tuple[int, int]],
    keys: Mapping[str, Value],
    places: list[_Place],
    step: int,
) -> Iterator[bytes]:
    """All before the weights: the base's pairs as they stand, changed ones in their place, new ones last."""
    new = [key for key in keys if key not in spans]
    (version,) = struct.unpack_from("<I", data, 4)
    written = [struct.pack("<4sIQQ", b"GGUF", version, len(places), len(spans) + len(new))]
    written += [
        _pair(key, keys[key]) if key in keys else data[begin:end] for key, (begin, end) in spans.items()
    ]
    written += [_pair(key, keys[key]) for key in new]
    offset = 0
    for place in places:
        written.append(_text(place.name) + struct.pack("<I", len(place.shape)))
        written.append(struct.pack(f"<{len(place.shape)}Q", *reversed(place.shape)))
        written.append(struct.pack("<IQ", place.new_kind, offset))
        offset += -(-place.new_size // step) * step
    yield from written
    yield b"\0" * (-sum(map(len, written)) % step)


def _pair(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    return _text(key) + struct.pack("<II", _UINT32, value)


def _text(value: str) -> bytes:
    found = value.encode("utf-8")
    return struct.pack("<Q", len(found)) + found


def _weights(data: mmap.mmap, place: _Place, delta: Change | None) -> Iterator[bytes]:
    """The bytes of a tensor, a bounded number of rows at a time."""
    if place.wanted is None or not place.size:
        yield data[place.begin : place.begin + place.size]
        return
    width = place.shape[-1]
    rows = prod(place.shape[:-1])
    row_size = place.size // rows
    step = max(1, CHUNK_WEIGHTS // width)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        begin = place.begin + first * row_size
        raw = np.frombuffer(data[begin : begin + (last - first) * row_size], dtype=np.uint8)
        found = dequantise(raw, place.kind, (last - first, width))
        if delta is not None:
            found = delta.into(found, first)
        yield quantise(found, place.wanted).tobytes()
