"""A base model whose child can't be started: it comes back by itself once it can."""

import asyncio
import os
import signal
import time

import psutil
import pytest

from rung.errors import EngineError
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from tests.fixtures_climb import make_tiny_gguf


def engines() -> set[int]:
    """The processes of this one that are llama.cpp's."""
    children = psutil.Process().children()
    return {child.pid for child in children if any("llama_child" in part for part in child.cmdline())}


def test_a_child_that_could_not_be_started_again_is_started_though_nobody_asks(tmp_path):
    gguf = make_tiny_gguf(tmp_path / "tiny.gguf")

    async def soon(host, *, ready: bool) -> None:
        end = time.monotonic() + 20
        while host.ready != ready:
            assert time.monotonic() < end, f"ready is still {host.ready}"
            await asyncio.sleep(0.05)

    async def run() -> None:
        others = engines()
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(gguf), "base")
        (host,) = systems.hosts.values()
        (engine,) = engines() - others
        away = gguf.rename(tmp_path / "away.gguf")
        os.kill(engine, signal.SIGKILL)
        await soon(host, ready=False)
        # It waits until the host's own try is over, which failed for the same reason.
        with pytest.raises(EngineError):
            await host.have(None)
        assert not host.ready and not host.asleep
        away.rename(gguf)
        await soon(host, ready=True)
        assert host.restarts == 1
        await systems.close()

    asyncio.run(run())


def test_a_child_that_sleeps_is_not_woken(tmp_path):
    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(make_tiny_gguf(tmp_path / "tiny.gguf")), "base")
        (host,) = systems.hosts.values()
        await host.sleep()
        await asyncio.sleep(1.5)
        await host.renew()
        assert host.asleep and not host.ready
        await systems.close()

    asyncio.run(run())
