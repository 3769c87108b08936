"""A base model whose child can't be started, or stands still: it comes back by itself once it can."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rung.engines.base import Request
from rung.engines.llama_calls import Call
from rung.engines.llama_wire import completion_call
from rung.errors import EngineError
from rung.serve import host as module
from rung.serve.host import Host
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import eventually, is_engine, is_so


def engines() -> set[int]:
    """The processes of this one that are llama.cpp's."""
    return {child.pid for child in psutil.Process().children() if is_engine(child)}


def test_a_child_that_could_not_be_started_again_is_started_though_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 0.1)
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


def test_a_child_that_sleeps_is_not_woken(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WATCH_S", 0.05)

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(make_tiny_gguf(tmp_path / "tiny.gguf")), "base")
        (host,) = systems.hosts.values()
        await host.sleep()
        await asyncio.sleep(0.3)
        await host.renew()
        assert host.asleep and not host.ready
        await systems.close()

    asyncio.run(run())


def silent(folder: Path, monkeypatch) -> None:
    """The next child never says that it has loaded."""
    program = folder / "silent.py"
    program.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("rung.engines.llama_process.llama_child", SimpleNamespace(__file__=str(program)))


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("first", [True, False])
def test_what_is_served_ends_at_once_though_a_child_is_being_started(first, tmp_path, monkeypatch):
    gguf = make_tiny_gguf(tmp_path / "tiny.gguf")

    async def run() -> None:
        systems, before = Systems(Limits(slots=1, threads=1)), children()
        if not first:
            await systems.add(str(gguf), "base")
            (host,) = systems.hosts.values()
            await host.sleep()
            await is_so(lambda: children() == before)
        silent(tmp_path, monkeypatch)
        starts = systems.add(str(gguf), "base") if first else host.have(None)
        starting = asyncio.ensure_future(starts)
        await is_so(lambda: children() != before)
        async with asyncio.timeout(5):
            await systems.close()
        assert children() == before
        with pytest.raises(EngineError, match="ended while it loaded"):
            await starting

    asyncio.run(run())


def test_the_child_of_a_model_that_is_served_no_more_is_not_waited_for_at_the_end(tmp_path, monkeypatch):
    gguf = make_tiny_gguf(tmp_path / "tiny.gguf")

    async def run() -> None:
        systems, before = Systems(Limits(slots=1, threads=1)), children()
        await systems.add(str(gguf), "base")
        (host,) = systems.hosts.values()
        await host.sleep()
        await is_so(lambda: children() == before)
        silent(tmp_path, monkeypatch)
        asking = asyncio.ensure_future(
            host.ask(PROMPT, None, lambda slot: host.calls.next(PROMPT, [3], slot))
        )
        await is_so(lambda: children() != before)
        assert await systems.remove("base") and not systems.hosts
        await systems.close()
        asking.cancel()

    before = children()
    asyncio.run(run())
    eventually(lambda: children() == before, within_s=5)


PROMPT = (5, 6, 7)


async def impatient(folder: Path) -> tuple[Systems, Host]:
    """A model whose child is ended where it stands still for about a second."""
    systems = Systems(Limits(slots=1, threads=1))
    await systems.add(str(make_tiny_gguf(folder / "tiny.gguf")), "base")
    (host,) = systems.hosts.values()
    await host.sleep()
    host.still_s = 1.2
    await host.have(None)
    return systems, host


def test_a_child_that_stands_still_is_started_again_and_what_it_was_asked_is_answered(tmp_path):
    async def run() -> None:
        others = engines()
        systems, host = await impatient(tmp_path)
        (child,) = engines() - others
        os.kill(child, signal.SIGSTOP)
        found = await host.ask(PROMPT, None, lambda slot: host.calls.next(PROMPT, [3], slot))
        assert found[3] < 0 and host.restarts == 1
        await systems.close()

    asyncio.run(run())


def test_a_child_is_started_and_ended_though_requests_hold_every_thread(tmp_path):
    async def run() -> None:
        threads, go = ThreadPoolExecutor(1), threading.Event()
        systems, host = await impatient(tmp_path)
        asyncio.get_running_loop().set_default_executor(threads)
        held = asyncio.create_task(asyncio.to_thread(go.wait))
        await asyncio.sleep(0)
        try:
            await host.sleep()
            await asyncio.wait_for(host.have(None), 30)
            assert host.ready
        finally:
            go.set()
            await held
            await systems.close()

    asyncio.run(run())


def test_a_child_that_stands_still_is_ended_though_those_who_ask_it_give_up(tmp_path):
    async def run() -> None:
        others = engines()
        systems, host = await impatient(tmp_path)
        (child,) = engines() - others
        os.kill(child, signal.SIGSTOP)
        end = time.monotonic() + 20
        while not host.restarts:
            assert time.monotonic() < end
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await host.ask(PROMPT, None, lambda slot: host.calls.next(PROMPT, [3], slot))
        await systems.close()

    asyncio.run(run())


def test_a_child_whose_answer_is_read_slowly_does_not_stand_still(tmp_path):
    async def run() -> None:
        systems, host = await impatient(tmp_path)

        def call(slot: int) -> Call:
            body = completion_call(Request(prompt=PROMPT, max_tokens=20), 20, slot)
            return Call(path="/completion", body={**body, "ignore_eos": True})

        async with contextlib.aclosing(host.stream(PROMPT, None, call)) as events:
            seen = 0
            async for _ in events:
                seen += 1
                await asyncio.sleep(2.0 if seen == 2 else 0.0)
        assert seen > 2 and host.restarts == 0
        await systems.close()

    asyncio.run(run())
