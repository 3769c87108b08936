"""The machine and the programs that answers are timed by."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rung.engines.cores import available_cores
from rung.memory import total_bytes
from rung.runs import digest_of

DRIVER = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver tells of its GPUs: torch, which could too, takes seconds to load."""
PROGRAMS = ("torch", "transformers", "xllamacpp")


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_key() -> str:
    """The same as long as seconds can be set side by side: what computes here, and by which programs."""
    found = [processor(), available_cores(), round(total_bytes() / 2**30), platform.system(), *_gpus()]
    return digest_of([*found, *map(_version, PROGRAMS)])[:8]


def _gpus() -> list[str]:
    """What the driver says of its GPUs, and which of them this process may use."""
    said = []
    for path in sorted(DRIVER.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        said += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return [*said, os.environ.get("CUDA_VISIBLE_DEVICES", "all")]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
