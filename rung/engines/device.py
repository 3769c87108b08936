"""Where models are computed, the processor or one of the GPUs; in which type; and what fits there."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch

from rung.engines.room import GIB, free_bytes
from rung.errors import EngineError
from rung.memory import give_back, loadable_bytes, used_up, want_of_memory, whole_bytes
from rung.models.processor import multiplies_bf16

Result = TypeVar("Result")

BF16_SINCE = (8, 0)
"""Ampere. GPUs before it have no instructions for bf16 products, and torch no fused attention in bf16."""
GPU_ROOM, GPU_FLOOR = 1.1, GIB
"""Of the weights' bytes, and on top of them, for what a batch needs beside the weights."""
CPU_ROOM = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The GPU that is used and the type it multiplies; where there is none of use, why."""

    gpu: str | None = None
    dtype: torch.dtype | None = None
    unused: str | None = None


@cache
def found() -> Found:
    """The GPU with the most free memory, of those that multiply two matrices; looked for once in a process.

    What torch sees may be too old for its kernels, full, or another process's alone.
    """
    if not torch.cuda.is_available():
        return Found()
    free: list[tuple[int, str]] = []
    faults: list[str] = []
    for number in range(torch.cuda.device_count()):
        device = f"cuda:{number}"
        try:
            free.append((free_bytes(device), device))
        except RuntimeError as error:
            faults.append(_fault(device, error))
    for _, device in sorted(free, key=lambda one: -one[0]):
        try:
            recent = torch.cuda.get_device_capability(device) >= BF16_SINCE
            dtype = torch.bfloat16 if recent else torch.float32
            prove(device, dtype)
        except RuntimeError as error:
            faults.append(_fault(device, error))
        else:
            return Found(gpu=device, dtype=dtype)
    return Found(unused=f"no GPU is used: {'; '.join(faults)}")


def prove(device: str, dtype: torch.dtype) -> None:
    """Multiply two small matrices. RuntimeError where a device can't."""
    ones = torch.ones(16, 16, device=device, dtype=dtype)
    float((ones @ ones).sum())


def _fault(device: str, error: RuntimeError) -> str:
    return f"{device} can't be ({(str(error).splitlines() or [type(error).__name__])[0]})"


def best_device() -> str:
    """The GPU that is used, such as "cuda:0", else "cpu"."""
    return found().gpu or "cpu"


def best_dtype() -> torch.dtype:
    """bf16 on a GPU or a processor that multiplies it, else fp32: always the same on the same machine."""
    return found().dtype or (torch.bfloat16 if multiplies_bf16() else torch.float32)


def describe_gpu() -> str | None:
    """The GPU that is used and CUDA's version, or why none is; None where there is none."""
    if (gpu := found().gpu) is None:
        return found().unused
    told = torch.cuda.get_device_properties(gpu)
    return f"{told.name} {told.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"


def roomy_device(needed: int) -> str:
    """The best device, but the processor where the GPU has no room for `needed` bytes and a batch."""
    device = best_device()
    if device == "cpu" or _fits(needed, free_bytes(device)):
        return device
    gc.collect()  # a model that nothing uses any more may still lie there
    return device if _fits(needed, free_bytes(device)) else "cpu"


def _fits(needed: int, there: int) -> bool:
    """Whether a GPU's memory holds weights of so many bytes and a batch beside them."""
    return GPU_ROOM * needed + GPU_FLOOR <= there


def short_of_room(needed: int) -> bool:
    """Whether `needed` bytes don't go where they'd go if all of the memory were free, or go nowhere."""
    device = best_device()
    if device != "cpu" and _fits(needed, torch.cuda.mem_get_info(device)[1]):
        return roomy_device(needed) == "cpu"
    return no_room(needed, "cpu") is not None


def off_gpu(model: Any, name: str) -> str | None:
    """Why a model isn't on the GPU that there is; None where it is there, or there is none.

    The model is named where it is the reason, and not where no GPU can be used.
    """
    if model.lm_head.weight.device.type != "cpu":
        return None
    if found().gpu is None:
        why = found().unused
        return why and f"{why}; so the processor computes: that is slow"
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return (
        f"{name}: the weights in {8 * best_dtype().itemsize} bits, {size / GIB:.1f} GiB, and a batch beside "
        f"them don't fit the free memory of the GPU ({best_device()}), so the processor reads them: that is "
        "slow; CUDA_VISIBLE_DEVICES names another GPU"
    )


def too_big(parameters: int, device: str | None = None) -> str | None:
    """Why weights that are so many numbers can't ever be held here; None where they may be.

    `device` is where they're loaded, if not wherever there's room.
    """
    size = parameters * best_dtype().itemsize
    best = best_device()
    if best != "cpu" and device != "cpu" and size <= torch.cuda.mem_get_info(best)[1]:
        return None
    return None if size <= whole_bytes() else _said(size, whole_bytes(), "there are {:.1f} with swap")


def no_room(size: int, device: str | None = None) -> str | None:
    """Why weights of `size` bytes can't be loaded now; None where they can. `device` as for `too_big`."""
    if (device or roomy_device(size)) != "cpu" or CPU_ROOM * size <= loadable_bytes():
        return None
    gc.collect()
    give_back()
    free = loadable_bytes()
    return None if CPU_ROOM * size <= free else _said(size, free, "{:.1f} are free")


def _said(size: int, there: int, words: str) -> str:
    return (
        f"its weights in {8 * best_dtype().itemsize} bits take {size / GIB:.1f} GiB of memory and "
        f"{words.format(there / GIB)}; llama.cpp, or a smaller model, needs a fraction"
    )


def moved(model: Any, device: str) -> bool:
    """Whether a model could be moved to a device; else it's on the processor."""
    try:
        model.to(device)
        return True
    except RuntimeError as error:
        if not used_up(error):
            raise
    model.to("cpu")
    let_go()
    return False


def in_halves(work: Callable[[list[int]], list[Result]], batch: list[int]) -> list[Result]:
    """What `work` gives for a batch of rows, in halves where memory doesn't hold the whole of it.

    Raises EngineError where one row alone is too much.
    """
    try:
        return work(batch)
    except RuntimeError as error:
        if not used_up(error):
            raise
        why = want_of_memory(error)
    # Not before the error is gone: its frames hold what the broken call had made.
    let_go()
    if len(batch) < 2:
        raise EngineError(why)
    half = len(batch) // 2
    return [*in_halves(work, batch[:half]), *in_halves(work, batch[half:])]


def let_go() -> None:
    """Free what nothing uses any more, on the GPU too."""
    gc.collect()
    torch.cuda.empty_cache()
