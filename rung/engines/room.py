"""What a model's weights take, and the memory that is free for them."""

import json
from math import prod
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open

GIB = 2**30


def free_bytes(device: torch.device | str) -> int:
    """Memory that may still be taken on a device; what torch holds of a GPU and doesn't use is free too."""
    if torch.device(device).type != "cuda":
        return psutil.virtual_memory().available
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """What the weights of a safetensors folder take in a type, by the files' headers.

    Files that can't be read count nothing: whoever loads them says what is wrong.
    """
    total = 0
    for path in _weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())
        except (OSError, SafetensorError):
            continue
    return total * dtype.itemsize


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads: a folder may hold the same weights in another format's names, too."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return sorted({folder / Path(str(name)).name for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return [folder / "model.safetensors"]
