"""The header of a GGUF file: its key-value pairs and its tensor table, read without trusting the file.

`gguf.GGUFReader` builds a Python object per token (16 s for a 262,144-token vocabulary) and believes
the lengths that it reads; this reader takes under a second and checks each length against the file.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Final, TypeAlias

from rung.errors import ModelError

Value: TypeAlias = bool | int | float | str | list[str] | list[int] | list[float]

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 18
_MAX_STRING: Final = 1 << 24
_MAX_ARRAY: Final = 1 << 24
_SHORT_ARRAY: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A weight's `shape` is rows first, as numpy has it, and `kind` ggml's number of its type.

    Its bytes in the file begin at `begin`; where nobody knows the kind they have no `size`.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    size: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """`values` by key; `parameters` is the number of weights in all tensors.

    `spans` are where each key-value pair begins and ends in the file, also those whose value was left out.
    """

    values: Mapping[str, Value]
    spans: Mapping[str, tuple[int, int]]
    tensors: tuple[Tensor, ...]
    parameters: int


class _Cursor:
    """A place in the mapped file; every read is checked against its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def need(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they began."""
        begin, end = self.at, self.at + count
        if end > len(self.data):
            raise ModelError(
                f"{str(self.path)!r}: the GGUF file ends at byte {len(self.data):,} inside {what}; "
                "it is cut short: download it again"
            )
        self.at = end
        return begin

    def number(self, code: str, what: str) -> int:
        form = struct.Struct("<" + code)
        return form.unpack_from(self.data, self.need(form.size, what))[0]

    def length(self, limit: int, what: str) -> int:
        count = self.number("Q", what)
        if count > limit:
            raise ModelError(
                f"{str(self.path)!r}: {what} claims a length of {count:,}, more than the {limit:,} that a "
                "sound GGUF file needs; the file is damaged or isn't GGUF: download it again"
            )
        return count

    def text(self, what: str) -> str:
        count = self.length(_MAX_STRING, what)
        begin = self.need(count, what)
        return self.data[begin : begin + count].decode("utf-8", errors="replace")


def gguf_metadata(path: Path, *, arrays: bool = False) -> Mapping[str, Value]:
    """Read the key-value pairs of a GGUF file's header, and check that its tensors lie inside the file.

    Arrays of more than 64 items (the vocabulary) are left out unless `arrays`. Raises ModelError when
    the file can't be read, isn't GGUF (version 2 or 3, little-endian) or is cut short.
    """
    return read_header(path, arrays=arrays).values


def read_header(path: Path, *, arrays: bool = False) -> Header:
    """Read key-value pairs and the tensor table of a GGUF file; see `gguf_metadata`."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(path, data), arrays)
    except OSError as error:
        raise ModelError(f"can't read the model file {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is empty, so it is no GGUF model: download it again") from error


def _read(cursor: _Cursor, arrays: bool) -> Header:
    path = cursor.path
    if (magic := cursor.data[:4]) != b"GGUF":
        raise ModelError(
            f"{str(path)!r} begins with {magic!r}, not b'GGUF': give a GGUF file, or a folder with "
            "safetensors weights"
        )
    cursor.need(4, "the magic")
    if (version := cursor.number("I", "the version")) not in (2, 3):
        raise ModelError(
            f"{str(path)!r} is GGUF version {version!r}; versions 2 and 3 (little-endian) can be read: "
            "convert the model again with a current llama.cpp"
        )
    tensors = cursor.length(_MAX_TENSORS, "the tensor count")
    keys = cursor.length(_MAX_KEYS, "the key count")
    values: dict[str, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(keys):
        begin = cursor.at
        key = cursor.text("a key")
        value = _value(cursor, cursor.number("I", f"the type of {key!r}"), key, arrays)
        if value is not None:
            values[key] = value
        spans[key] = (begin, cursor.at)
    return _tensors(cursor, tensors, values, spans)


def _value(cursor: _Cursor, kind: int, key: str, arrays: bool) -> Value | None:
    what = f"the value of {key!r}"
    if kind == _STRING:
        return cursor.text(what)
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], what)
    if kind != _ARRAY:
        raise ModelError(
            f"{str(cursor.path)!r}: {what} has the unknown GGUF type {kind!r}; the file is damaged"
        )
    item = cursor.number("I", what)
    count = cursor.length(_MAX_ARRAY, what)
    wanted = arrays or count <= _SHORT_ARRAY
    if item == _STRING:
        if wanted:
            return [cursor.text(what) for _ in range(count)]
        for _ in range(count):
            cursor.need(cursor.length(_MAX_STRING, what), what)
        return None
    if item not in _SCALARS:
        raise ModelError(
            f"{str(cursor.path)!r}: {what} is an array of the GGUF type {item!r}, which no model needs; "
            "the file is damaged"
        )
    form = struct.Struct(f"<{count}{_SCALARS[item]}")
    begin = cursor.need(form.size, what)
    return list(form.unpack_from(cursor.data, begin)) if wanted else None


def _tensors(
    cursor: _Cursor, count: int, values: Mapping[str, Value], spans: Mapping[str, tuple[int, int]]
) -> Header:
    from gguf import GGML_QUANT_SIZES

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    found: list[Tensor] = []
    parameters, last = 0, 0
    for _ in range(count):
        name = cursor.text("a tensor's name")
        rank = cursor.number("I", f"the rank of tensor {name!r}")
        if rank > 8:
            raise ModelError(f"{str(cursor.path)!r}: tensor {name!r} has rank {rank!r}; the file is damaged")
        shape = [cursor.number("Q", f"the shape of tensor {name!r}") for _ in range(rank)]
        kind = cursor.number("I", f"the type of tensor {name!r}")
        offset = cursor.number("Q", f"the offset of tensor {name!r}")
        weights = prod(shape)
        size = weights // sizes[kind][0] * sizes[kind][1] if kind in sizes else None
        parameters += weights
        last = max(last, offset + (size or 0))
        found.append(Tensor(name=name, shape=tuple(reversed(shape)), kind=kind, begin=offset, size=size))
    alignment = values.get("general.alignment", 32)
    step = alignment if isinstance(alignment, int) and 0 < alignment <= 1 << 20 else 32
    cursor.at = start = -(-cursor.at // step) * step
    cursor.need(last, "its tensors")
    tensors = tuple(replace(tensor, begin=start + tensor.begin) for tensor in found)
    return Header(values=values, spans=spans, tensors=tensors, parameters=parameters)
