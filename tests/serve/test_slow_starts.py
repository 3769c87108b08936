"""An engine that is long in starting: requests to what runs already, or to another base, are answered."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from rung.engines.torch import load_model
from rung.records import Example
from rung.registry import point, read_tag
from rung.serve.answer import asked, label, reply
from rung.serve.gateway import Gateway
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.serve.wish import Wish
from rung.spec import StepsSpec
from rung.system import System, save
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import LABELS, is_engine, make_systems
from tests.fixtures_ship import make_tuned

ROW = Example(id="row", input="my password is gone", output=None)
SOON_S = 20.0
"""Far more than an answer takes here."""


def engines() -> set[int]:
    """The processes of this one that are llama.cpp's."""
    return {child.pid for child in psutil.Process().children() if is_engine(child)}


@asynccontextmanager
async def slow_start(before: set[int]) -> AsyncGenerator[None]:
    """The next engine stands still in the middle of its start, until the block ends."""
    end = time.monotonic() + SOON_S
    while not (new := engines() - before):
        assert time.monotonic() < end, "no engine was started"
        await asyncio.sleep(0)
    (pid,) = new
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(SOON_S):
            yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def answer(systems: Systems, name: str) -> str:
    served = systems.find(name)
    assert served is not None
    return (await reply(systems, served, await asked(systems, served, ROW), Wish(max_tokens=4))).text


async def serving(*systems: System) -> Systems:
    """Systems under the names s0, s1 and so on, of which one at a time is answered on each base."""
    made = Systems(Limits(slots=1, threads=1))
    for number, system in enumerate(systems):
        await made.add(str(system.folder), f"s{number}")
    return made


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_gguf) -> list[System]:
    folder = tmp_path_factory.mktemp("tuned")
    changes = {"engine": "llama", "form": "free", "kind": "text", "labels": ()}
    return [make_tuned(tiny_gguf, folder / str(n), seed=n, **changes) for n in range(2)]


def test_while_one_base_starts_another_one_is_started_and_answers(tuned, tmp_path: Path):
    other = make_systems(tmp_path, str(make_tiny_gguf(tmp_path / "other.gguf", context=256)))["text"]

    async def run() -> None:
        systems = await serving(tuned[0], other)
        for host in systems.hosts.values():
            await host.sleep()
        before = engines()
        slow = asyncio.ensure_future(answer(systems, "s0"))
        async with slow_start(before):
            await answer(systems, "s1")
            assert not slow.done()
        await slow
        await systems.close()

    asyncio.run(run())


def test_while_an_adapter_is_loaded_those_that_are_there_are_answered(tuned):
    async def run() -> None:
        systems = await serving(*tuned)
        (host,) = systems.hosts.values()
        put_out = systems.find("s1")
        assert put_out is not None and put_out.adapter is not None
        host.forget(put_out.adapter)
        await host.rest()
        before = engines()
        first = asyncio.ensure_future(answer(systems, "s1"))
        async with slow_start(before):
            second = asyncio.ensure_future(answer(systems, "s1"))
            await asyncio.sleep(0.1)
            assert not put_out.warm
            await answer(systems, "s0")
            assert not first.done() and not second.done()
        assert await first == await second
        await systems.close()

    asyncio.run(run())


def test_while_a_system_of_several_calls_is_loaded_heads_answer(tiny_systems, tmp_path: Path):
    spec = tiny_systems["words"].spec
    steps = StepsSpec(kind="think", max_tokens=8, close="Now the answer.")
    thinks = save(tmp_path / "thinks", spec.model_copy(update={"steps": steps, "rung": "workflow"}), {})

    async def run() -> None:
        systems, before = await serving(tiny_systems["desk"]), engines()
        head = systems.find("s0")
        assert head is not None
        loading = asyncio.ensure_future(systems.add(str(thinks.folder), "thinks"))
        async with slow_start(before):
            found = await label(systems, head, await asked(systems, head, ROW))
            assert found.value in LABELS and not loading.done()
        await loading
        assert await answer(systems, "thinks") in LABELS
        await systems.close()

    asyncio.run(run())


def test_while_a_torch_system_is_loaded_heads_answer_and_its_first_answer_finds_it_loaded(
    tiny_systems, tmp_path: Path, monkeypatch
):
    spec = tiny_systems["words"].spec.model_copy(update={"engine": "torch"})
    slow = save(tmp_path / "slow", spec, {})
    loads, go_on, loaded = threading.Event(), threading.Event(), list[str]()

    def held(*arguments, **named):
        loaded.append(threading.current_thread().name)
        loads.set()
        assert go_on.wait(60)
        return load_model(*arguments, **named)

    monkeypatch.setattr("rung.engines.torch.load_model", held)

    async def run() -> None:
        systems = await serving(tiny_systems["desk"])
        head = systems.find("s0")
        assert head is not None
        loading = asyncio.ensure_future(systems.add(str(slow.folder), "slow"))
        try:
            assert await asyncio.to_thread(loads.wait, SOON_S)
            async with asyncio.timeout(SOON_S):
                found = await label(systems, head, await asked(systems, head, ROW))
            assert found.value in LABELS and not loading.done()
        finally:
            go_on.set()
        await loading
        assert await answer(systems, "slow") in LABELS and loaded == ["aside"]
        await systems.close()

    asyncio.run(run())


def test_two_torch_systems_that_are_loaded_at_once_are_loaded_one_after_the_other(
    tiny_systems, tmp_path: Path, monkeypatch
):
    spec = tiny_systems["words"].spec.model_copy(update={"engine": "torch"})
    many = [save(tmp_path / str(n), spec.model_copy(update={"context_tokens": 200 + n}), {}) for n in (0, 1)]
    at_work, most = 0, 0

    def counted(*arguments, **named):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.3)
        made = load_model(*arguments, **named)
        at_work -= 1
        return made

    monkeypatch.setattr("rung.engines.torch.load_model", counted)

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        await asyncio.gather(*[systems.add(str(one.folder), f"s{n}") for n, one in enumerate(many)])
        assert len(systems.pool.engines) == 2 and most == 1
        await systems.close()

    asyncio.run(run())


def test_a_request_that_waits_for_a_start_is_answered_though_its_system_is_unloaded_meanwhile(tuned):
    async def run() -> None:
        systems = await serving(tuned[0])
        (host,) = systems.hosts.values()
        await host.sleep()
        before = engines()
        slow = asyncio.ensure_future(answer(systems, "s0"))
        async with slow_start(before):
            assert await systems.remove("s0")
        await slow
        async with asyncio.timeout(SOON_S):
            while host.ready:
                await asyncio.sleep(0.05)
        await systems.close()

    asyncio.run(run())


def test_a_request_that_waits_for_a_start_is_answered_though_all_that_its_base_served_is_unloaded(
    tiny_gguf, tmp_path: Path
):
    one = make_systems(tmp_path, str(tiny_gguf))["text"]
    other = save(tmp_path / "other", one.spec.model_copy(update={"instruction": "Say it otherwise."}), {})

    async def run() -> None:
        systems = await serving(one, other)
        (host,) = systems.hosts.values()
        await host.sleep()
        before = engines()
        slow = asyncio.ensure_future(answer(systems, "s0"))
        async with slow_start(before):
            assert await systems.remove("s0") and await systems.remove("s1")
        await slow
        await systems.close()

    asyncio.run(run())


def test_a_tag_that_is_rolled_back_while_the_engine_of_its_new_system_starts_is_served_as_it_was(
    tuned, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))

    def tag(number: int) -> None:
        point(tuned[number], read_tag("desk"), source="test", origin="made by a test")

    async def run() -> None:
        tag(0)
        systems = Systems(Limits(slots=1, threads=1))
        there = await systems.add("desk")
        (host,) = systems.hosts.values()
        tag(1)
        before = engines()
        follows = asyncio.ensure_future(systems.follow(there))
        async with slow_start(before):
            tag(0)
            assert await answer(systems, "desk")
        assert await follows is None and systems.find("desk") is there
        assert host.adapters == (there.adapter,) and there.warm
        await systems.close()

    asyncio.run(run())


def test_a_request_that_another_one_came_to_or_whose_adapter_is_put_out_waited_for_more_than_itself(tuned):
    async def run() -> None:
        systems = await serving(*tuned)
        gateway = Gateway(systems=systems, limit_s=9.0)
        with gateway._asked("s0") as alone:
            assert alone()
            with gateway._asked("s1") as second:
                assert not second()
            assert not alone()
        (host,) = systems.hosts.values()
        put_out = systems.find("s1")
        assert put_out is not None and put_out.adapter is not None
        host.forget(put_out.adapter)
        await host.rest()
        with gateway._asked("s1") as alone:
            assert host.ready and not alone()
        with gateway._asked("s0") as alone:
            assert alone()
        await systems.close()

    asyncio.run(run())
