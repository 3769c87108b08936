"""The machines a climb ran on: what they are, the versions that matter, and peak memory."""

import itertools
import platform
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import psutil

from rung import __version__
from rung.memory import total_bytes
from rung.records import Finding, RungResult

ENGINES = ("torch", "xllamacpp")
PACKAGES = (
    "torch",
    "transformers",
    "xllamacpp",
    "scikit-learn",
    "scipy",
    "numpy",
    "genai-prices",
)

version = cache(metadata.version)
"""Of a package, looked up once."""


def versions() -> tuple[tuple[str, str], ...]:
    """(package, version) of everything that can change a number; on a GPU, where torch was loaded, more."""
    found = [("rung", __version__), ("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return (*found, *_versions_on_gpu())


def _versions_on_gpu() -> list[tuple[str, str]]:
    if "torch" not in sys.modules:  # a check of rows alone needs none
        return []
    import torch

    from rung.engines.device import best_device

    if best_device() == "cpu":
        return []
    found = [("CUDA", str(torch.version.cuda))]
    with suppress(PackageNotFoundError):
        found.append(("bitsandbytes", version("bitsandbytes")))
    return found


def describe_machine() -> str:
    """Processor, cores and memory in one line, and the GPU, or why it isn't used, where there is one.

    Those that this process may use: in a container its limits hold.
    """
    from rung.engines.cores import available_cores
    from rung.engines.device import describe_gpu
    from rung.engines.machine import processor

    cores, memory = available_cores(), total_bytes() / 2**30
    used = f"{cores} core{'s' if cores > 1 else ''}, {memory:.{1 if memory < 4 else 0}f} GiB"
    said = f"{processor()}, {used}, {platform.system()} {platform.machine()}"
    return ", ".join([said, *filter(None, [describe_gpu()])])


def machine_and_engines() -> str:
    """The machine and the versions of the engines in one line: by them seconds and memory are to be read."""
    found = dict(versions())
    return ", ".join([describe_machine(), *(f"{name} {found[name]}" for name in ENGINES)])


def elsewhere(results: Iterable[RungResult]) -> tuple[Finding, ...]:
    """A warning for each other machine, or other version of an engine, that scored some of them on dev."""
    places: dict[str, list[str]] = {}
    for result in results:
        if result.machine and result.dev is not None:
            places.setdefault(result.machine, []).append(result.rung)
    here = machine_and_engines() if places else ""
    return tuple(
        Finding(
            check="machine",
            severity="warn",
            message=f"{', '.join(names)}: built and scored on dev on {place}. Here it's {here}: the seconds, "
            "memory and dollars of the two can't be set side by side",
            count=len(names),
        )
        for place, names in places.items()
        if place != here
    )


class Watch:
    """Samples the resident memory of this process and its children; `peak_mb` is the most seen, in MiB.

    `beat` is called every few seconds, from a thread of its own; it must not raise.
    """

    EVERY_S = 0.5
    SAMPLES_A_BEAT = 10

    def __init__(self, beat: Callable[[], None]) -> None:
        self.peak_mb = 0.0
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, resident_mb())

    def _sample(self) -> None:
        for sample in itertools.count(1):
            self.peak_mb = max(self.peak_mb, resident_mb())
            if sample % self.SAMPLES_A_BEAT == 0:
                self._beat()
            if self._stop.wait(self.EVERY_S):
                return


def resident_mb(pid: int | None = None) -> float:
    """Resident memory of a process, by default this one, and its children, in MiB; 0 where it has ended."""
    total = 0
    try:
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for one in processes:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20
