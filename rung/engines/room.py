"""What a model's weights take, and the memory that is free for them."""

from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rung.errors import ModelError
from rung.memory import available_bytes
from rung.models.shards import weight_files

GIB = 2**30
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of numbers that are turned into the one that is asked for."""


def free_bytes(device: torch.device | str) -> int:
    """Memory that may still be taken on a device; what torch holds of a GPU and doesn't use is free too."""
    if torch.device(device).type != "cuda":
        return available_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """What the weights of a safetensors folder take in a type, by the files' headers.

    Numbers that are quantised already count a byte each. Files that can't be read count nothing, nor
    does a folder that its index doesn't fit: whoever loads them says what is wrong.
    """
    try:
        files = weight_files(folder)
    except ModelError:
        return 0
    total = 0
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                parts = [file.get_slice(name) for name in file.keys()]
                total += sum(
                    prod(part.get_shape()) * (dtype.itemsize if part.get_dtype() in FLOATS else 1)
                    for part in parts
                )
        except (OSError, SafetensorError):
            continue
    return total
