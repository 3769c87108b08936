"""What the processor can multiply."""

from pathlib import Path
from typing import Final

BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether there are instructions for bf16 products; always the same on the same machine."""
    return bool(BF16_FLAGS & _flags(cpuinfo))


def _flags(path: Path) -> frozenset[str]:
    """The instruction set extensions that the kernel names; none where it doesn't tell."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        flag
        for line in lines
        if line.startswith(("flags", "Features"))
        for flag in line.partition(":")[2].split()
    )
