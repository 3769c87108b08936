"""The types in which weights are written here, and blocks of numbers in each of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rung.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightType:
    """A GGUF type that is written here: its numbers as a tensor's kind and as a file's type in GGUF.

    A row of such a tensor is a whole number of blocks of `block` weights.
    """

    name: str
    kind: int
    file_type: int
    block: int = 1


PLAIN: Final = (
    WeightType(name="f16", kind=1, file_type=1),
    WeightType(name="bf16", kind=30, file_type=32),
    WeightType(name="f32", kind=0, file_type=0),
)
BLOCKS: Final = (
    WeightType(name="q8_0", kind=8, file_type=7, block=32),
    WeightType(name="q5_1", kind=7, file_type=9, block=32),
    WeightType(name="q5_0", kind=6, file_type=8, block=32),
    WeightType(name="q4_1", kind=3, file_type=3, block=32),
    WeightType(name="q4_0", kind=2, file_type=2, block=32),
)
WRITTEN: Final = {found.name: found for found in (*PLAIN, *BLOCKS)}
MIXED: Final = (
    *("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
    *("iq4_xs", "iq4_nl"),
)
"""Mixtures of types that only llama.cpp's own `llama-quantize` makes."""


def dequantise(data: "Bytes", kind: int, shape: tuple[int, ...]) -> "Floats":
    """Rows of a tensor of any kind as fp32. ModelError for a kind that the `gguf` package can't read."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    try:
        known = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[known]
        width = shape[-1] // block * size
        found = quants.dequantize(data.reshape(-1, width), known)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"the base model has weights of type {kind!r}, which can't be read here ({error}): take "
            "another GGUF of it, or its safetensors folder"
        ) from None
    return found.astype(np.float32).reshape(shape)


def quantise(rows: "Floats", wanted: WeightType) -> "Bytes":
    """fp32 rows in a type's bytes, as llama.cpp's reference quantiser makes them."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    # A block of next to nothing has a scale whose inverse overflows; stored in F16 that scale is 0.
    with np.errstate(all="ignore"):
        found = quants.quantize(np.ascontiguousarray(rows), GGMLQuantizationType(wanted.kind))
    return np.frombuffer(found.tobytes(), dtype=np.uint8)


def size_of(shape: tuple[int, ...], wanted: WeightType) -> int:
    """Bytes of a tensor of that shape."""
    from math import prod

    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(wanted.kind)]
    return prod(shape) // block * size
