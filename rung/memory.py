"""Memory: how much is there and free, what was freed and the C library still holds, and where it ran out."""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from rung.errors import EngineError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
CACHED = ("inactive_file", "active_file")
"""What the kernel gives back as soon as it's wanted."""
ON_PROCESSOR = "DefaultCPUAllocator"
USED_UP = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", ON_PROCESSOR)
"""What torch's errors say where a GPU's memory was, or the machine's own."""
LESS = "shorter rows or a smaller model need less"
LESS_IN_CLIMB = "in a climb `tuning: {method: qlora}` needs less, too, and --rungs leaves a rung out"
OTHER_DEVICE = "CUDA_VISIBLE_DEVICES names another GPU, and where it's empty the processor computes"


def give_back() -> None:
    """Return what was freed to the operating system, where glibc would keep it for later.

    It may keep freed tensors of up to 32 MiB each, and what comes next, of other sizes, fits their places
    badly. So this is called where a phase ends, such as a model's loading. It took 6 to 25 ms on two slow
    cores. Nothing is done with other C libraries.
    """
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # macOS and musl lack it, Windows any such library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def available_bytes() -> int:
    """Memory that may still be taken, in a container what its limit leaves."""
    return max(0, min([psutil.virtual_memory().available, *(left for _, left in _limits())]))


def loadable_bytes() -> int:
    """What weights may take. Linux ends a process for which memory and swap are too little.

    Other systems make more swap when it's wanted: there it's the whole memory.
    """
    if sys.platform != "linux":
        return psutil.virtual_memory().total
    return available_bytes() + psutil.swap_memory().free


def total_bytes() -> int:
    """Memory, in a container at most its limit, whether used or free."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits())])


def whole_bytes() -> int:
    """The same and swap."""
    return total_bytes() + psutil.swap_memory().total


def _limits() -> list[tuple[int, int]]:
    """The memory limits that hold for this process, each with what it leaves."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if kinds not in ("", "memory"):
            continue
        root, names = (CGROUPS, V2) if kinds == "" else (CGROUPS / "memory", V1)
        own = root / path.lstrip("/")
        # A container sees its own group at the root, whatever the path from outside is called.
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (limit := _limit(folder, *names)) is not None:
                found.append(limit)
    return found


def _limit(folder: Path, most: str, used: str) -> tuple[int, int] | None:
    """A group's limit and what it leaves, files that are merely cached counted as left; None without one."""
    try:
        limit, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (most, used))
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        counts = dict(line.split() for line in lines)
        cached = sum(int(counts.get(f"total_{name}", counts.get(name, 0))) for name in CACHED)
    except (OSError, ValueError):  # "max" is no limit
        return None
    return limit, limit - taken + cached


def used_up(error: RuntimeError) -> bool:
    """Whether it's for want of memory that torch broke off."""
    return any(sign in str(error) for sign in USED_UP)


def want_of_memory(error: RuntimeError) -> str:
    """The same for people, with what may be done."""
    said = " ".join(str(error).split())
    if ON_PROCESSOR in said:
        what = said[said.index(ON_PROCESSOR) :].partition(". ")[0]
        return f"the machine's memory is used up ({what}): {LESS}; {LESS_IN_CLIMB}"
    what = ". ".join(said.split(". ")[:2]).rstrip(".")
    return f"the GPU's memory is used up ({what}): {LESS}; {OTHER_DEVICE}; {LESS_IN_CLIMB}"


@contextmanager
def within_memory() -> Iterator[None]:
    """Raise EngineError where torch's memory is used up; any other error stays what it is."""
    try:
        yield
    except RuntimeError as error:
        if not used_up(error):
            raise
        why = want_of_memory(error)
    else:
        return
    raise EngineError(why)
