import ctypes
import platform
import subprocess
import sys

import pytest

from rung import memory

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
