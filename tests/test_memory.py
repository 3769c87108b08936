import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from rung import memory
from rung.errors import EngineError

PINNED = """
import sys
import psutil
from ctypes import CDLL, c_size_t, c_void_p, memset
from rung.memory import give_back

libc, held = CDLL(None), psutil.Process().memory_info
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [c_size_t], c_void_p, [c_void_p]
libc.free(libc.malloc(30 << 20))  # from now on, blocks of up to 30 MiB are kept when freed
blocks, pins = [], []
for _ in range(20):
    blocks.append(libc.malloc(8 << 20))
    memset(blocks[-1], 1, 8 << 20)
    pins.append(libc.malloc(64 << 10))
for block in blocks:
    libc.free(block)
before = held().rss
give_back()
print((before - held().rss) >> 20)
"""


GIB = 2**30
V2 = {
    "memory.max": str(4 * GIB),
    "memory.current": str(3 * GIB),
    "memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\n",
}
V1 = {
    "memory.limit_in_bytes": str(4 * GIB),
    "memory.usage_in_bytes": str(3 * GIB),
    "memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file {GIB // 2}\n",
}
UNLIMITED = V1 | {"memory.limit_in_bytes": str(2**63 - 4096)}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 64 GiB, 60 of them free, and 2 of 3 of swap; in groups of these files by folder."""

    def of(own: str, groups: dict[str, dict[str, str]]) -> None:
        for folder, files in groups.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / folder / name).write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(memory, "CGROUPS", tmp_path)
        monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
        ram = SimpleNamespace(available=60 * GIB, total=64 * GIB)
        swap = SimpleNamespace(free=2 * GIB, total=3 * GIB)
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: ram)
        monkeypatch.setattr(memory.psutil, "swap_memory", lambda: swap)
        monkeypatch.setattr(memory.sys, "platform", "linux")

    return of


@pytest.mark.parametrize(
    ("own", "groups"),
    [
        ("0::/\n", {".": V2}),
        ("0::/user/app\n", {"user": V2, "user/app": V2 | {"memory.max": "max"}}),
        ("4:memory:/docker/a1\n0::/\n", {"memory": V1}),
        ("9:cpu,cpuacct:/\n4:memory:/app\n", {"memory/app": V1, "memory": UNLIMITED}),
    ],
)
def test_in_a_container_its_limit_holds_less_what_is_used_and_not_merely_cached(machine, own, groups):
    machine(own, groups)
    assert memory.available_bytes() == 2.5 * GIB
    assert memory.loadable_bytes() == 4.5 * GIB and memory.whole_bytes() == 7 * GIB
    assert memory.total_bytes() == 4 * GIB


@pytest.mark.parametrize(
    ("own", "groups"),
    [
        ("0::/\n", {}),
        ("0::/app\n", {"app": V2 | {"memory.max": "max"}}),
        ("0::/app\n", {"app": {"memory.max": str(GIB)}}),
        ("0::/app\n", {"other": V2}),
    ],
)
def test_without_a_limit_memory_is_the_machines(machine, own, groups):
    machine(own, groups)
    assert memory.available_bytes() == 60 * GIB
    assert memory.loadable_bytes() == 62 * GIB and memory.whole_bytes() == 67 * GIB
    assert memory.total_bytes() == 64 * GIB


def test_where_swap_grows_when_it_is_wanted_weights_may_take_the_whole_memory(machine, monkeypatch):
    machine("0::/", {})
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.loadable_bytes() == 64 * GIB


@pytest.mark.parametrize(
    "said",
    ["CUDA out of memory. Tried to", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"],
)
def test_memory_of_a_gpu_that_is_used_up_is_an_engines_error(said):
    with pytest.raises(EngineError, match="the GPU's memory is used up"), memory.within_memory():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="no such kernel"), memory.within_memory():
        raise RuntimeError("no such kernel")
    with memory.within_memory():
        pass


def test_memory_of_the_machine_that_is_used_up_is_an_engines_error():
    said = r"^the machine's memory is used up \(DefaultCPUAllocator: [^.]* \d+ bytes\): shorter rows or a s"
    with pytest.raises(EngineError, match=said) as raised, memory.within_memory():
        torch.empty(2**55, dtype=torch.uint8)
    assert "CUDA" not in str(raised.value) and "qlora" in str(raised.value)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory otherwise")
def test_what_was_freed_between_blocks_in_use_goes_back_to_the_system():
    out = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True)
    assert int(out.stdout) > 100


@pytest.mark.parametrize("library", [OSError("no such library"), object()])
def test_without_glibc_nothing_is_done(monkeypatch, library):
    def opened(name):
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", opened)
    memory._trim.cache_clear()
    try:
        assert memory._trim() is None
        memory.give_back()
    finally:
        memory._trim.cache_clear()
