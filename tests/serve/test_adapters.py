"""Many adapters on one base model: each answers as itself, and memory is kept to a limit."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import psutil
import pytest

from rung.errors import EngineError
from rung.records import Example
from rung.serve.answer import asked, reply
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.serve.wish import Wish
from rung.system import Pool, System
from tests.fixtures_serve import is_engine, is_so
from tests.fixtures_ship import make_tuned

WISH = Wish(max_tokens=8)
PROCESS = "rung.engines.llama_process.subprocess.Popen"
TEXTS = ("the wifi is down", "my badge is lost", "when is pay day", "a trip to make")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_gguf) -> list[System]:
    folder = tmp_path_factory.mktemp("tuned")
    changes = {"engine": "llama", "form": "free", "kind": "text", "labels": ()}
    return [make_tuned(tiny_gguf, folder / str(n), seed=n, **changes) for n in range(4)]


def no_process(*arguments: object, **named: object) -> None:
    """What a machine says that gives no more."""
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def example(text: str) -> Example:
    return Example(id=text, input=text, output=None)


async def answer(systems: Systems, name: str, text: str) -> str:
    served = systems.find(name)
    assert served is not None
    question = await asked(systems, served, example(text))
    return (await reply(systems, served, question, WISH)).text


async def served(tuned: list[System], limits: Limits) -> Systems:
    systems = Systems(limits)
    for number, system in enumerate(tuned):
        await systems.add(str(system.folder), f"s{number}")
    return systems


def test_mixed_requests_are_answered_by_their_own_adapters(tuned):
    async def run() -> dict[tuple[int, str], str]:
        systems = await served(tuned, Limits(slots=3, threads=1))
        pairs = [(number, text) for text in TEXTS for number in range(len(tuned))] * 2
        found = await asyncio.gather(*[answer(systems, f"s{n}", text) for n, text in pairs])
        assert len(systems.hosts) == 1
        await systems.close()
        return dict(zip(pairs, found, strict=True))

    found = asyncio.run(run())
    with Pool(threads=1, parallel=1) as pool:
        for number, system in enumerate(tuned):
            alone = system.answer([example(text) for text in TEXTS], pool)
            assert [found[number, text] for text in TEXTS] == [one.text for one in alone]
    assert len({tuple(found[n, text] for text in TEXTS) for n in range(len(tuned))}) == len(tuned)


def test_the_longest_unused_adapter_is_put_out_and_loaded_again_when_asked(tuned, monkeypatch):
    size = (Path(tuned[0].folder) / "adapter.gguf").stat().st_size / 2**20

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1, memory_mb=100.0))
        # What the processes hold is noise beside adapters of a few kilobytes: count the adapters alone.
        monkeypatch.setattr(
            systems, "memory_mb", lambda: sum(len(h.adapters) for h in systems.hosts.values()) * size
        )
        systems.limits = Limits(slots=1, threads=1, memory_mb=2.5 * size)
        for number, system in enumerate(tuned):
            await systems.add(str(system.folder), f"s{number}")
        assert [s.name for s in systems if s.warm] == ["s2", "s3"]
        await answer(systems, "s0", TEXTS[0])
        assert [s.name for s in systems if s.warm] == ["s0", "s3"]
        await answer(systems, "s3", TEXTS[0])
        await answer(systems, "s1", TEXTS[0])
        assert [s.name for s in systems if s.warm] == ["s1", "s3"]
        await systems.close()

    asyncio.run(run())


def test_adapters_in_use_are_kept_above_the_limit_and_put_out_afterwards(tuned, monkeypatch):
    size = (Path(tuned[0].folder) / "adapter.gguf").stat().st_size / 2**20

    async def run() -> None:
        systems = await served(tuned, Limits(slots=1, threads=1))
        monkeypatch.setattr(
            systems, "memory_mb", lambda: sum(len(h.adapters) for h in systems.hosts.values()) * size
        )
        systems.limits = Limits(slots=1, threads=1, memory_mb=1.5 * size)
        found = await asyncio.gather(*[answer(systems, f"s{n % 4}", TEXTS[n % 4]) for n in range(12)])
        assert all(found)
        await systems.tidy()
        assert len([s for s in systems if s.warm]) == 1
        (host,) = systems.hosts.values()
        assert len(host.adapters) == 1
        await systems.close()

    asyncio.run(run())


def test_a_base_model_that_is_asleep_is_no_reason_not_to_be_ready(tuned):
    async def run() -> None:
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()
        await host.sleep()
        assert host.asleep and not host.ready
        assert await answer(systems, "s0", TEXTS[0])
        assert host.ready and not host.asleep
        await systems.close()

    asyncio.run(run())


def engines() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_engine(child)]


def test_a_request_that_leaves_while_an_engine_starts_leaves_no_process_behind(tuned):
    async def run() -> None:
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()
        before = len(engines()) - 1
        await host.sleep()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await answer(systems, "s0", TEXTS[0])
        assert await answer(systems, "s0", TEXTS[0])
        assert len(engines()) == before + 1
        await systems.close()
        assert len(engines()) == before

    asyncio.run(run())


def test_an_adapter_that_is_unloaded_wakes_no_base_that_is_asleep(tuned):
    async def run() -> None:
        systems = await served(tuned[:2], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()
        await host.sleep()
        assert await systems.remove("s1")
        assert host.asleep and not host.ready
        assert await answer(systems, "s0", TEXTS[0]) and len(host.adapters) == 1
        await systems.close()

    asyncio.run(run())


def test_a_host_that_was_closed_starts_no_engine(tuned):
    async def run() -> None:
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()
        await systems.close()
        with pytest.raises(EngineError, match="served no more"):
            await host.have(None)
        assert not host.ready

    asyncio.run(run())


def hold_back(systems: Systems, monkeypatch, given: str) -> threading.Event:
    """Let a System be read, but go no further before the event."""
    load, go_on = systems._load, threading.Event()

    def slowly(asked_for: str, name: str | None):
        made = load(asked_for, name)
        assert asked_for != given or go_on.wait(60)
        return made

    monkeypatch.setattr(systems, "_load", slowly)
    return go_on


def test_a_system_that_was_put_out_answers_and_goes_while_another_one_loads(tuned, monkeypatch):
    async def run() -> None:
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        go_on = hold_back(systems, monkeypatch, str(tuned[1].folder))
        loading = asyncio.ensure_future(systems.add(str(tuned[1].folder), "s1"))
        (host,) = systems.hosts.values()
        await host.sleep()
        try:
            async with asyncio.timeout(10):
                assert await answer(systems, "s0", TEXTS[0])
                assert await systems.remove("s0")
        finally:
            go_on.set()
        assert (await loading).host is not host
        assert await answer(systems, "s1", TEXTS[0])
        async with asyncio.timeout(10):
            while host.ready:
                await asyncio.sleep(0.05)
        await systems.close()

    asyncio.run(run())


def test_of_two_that_load_under_one_name_the_last_to_be_ready_is_served(tuned, monkeypatch):
    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        go_on = hold_back(systems, monkeypatch, str(tuned[0].folder))
        slow = asyncio.ensure_future(systems.add(str(tuned[0].folder), "one"))
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(20):
                quick = await systems.add(str(tuned[1].folder), "one")
                assert systems.find("one") is quick
        finally:
            go_on.set()
        last = await slow
        assert systems.find("one") is last
        (host,) = systems.hosts.values()
        assert host is last.host is quick.host and host.adapters == (last.adapter,)
        await systems.close()

    asyncio.run(run())


def test_an_adapter_is_unloaded_though_no_child_can_start_without_it(tuned, monkeypatch):
    async def run() -> None:
        systems = await served(tuned[:2], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()

        with monkeypatch.context() as patch:
            patch.setattr(PROCESS, no_process)
            assert await systems.remove("s1")
        there = systems.find("s0")
        assert there is not None and host.adapters == (there.adapter,)
        assert await answer(systems, "s0", TEXTS[0])
        await systems.close()

    asyncio.run(run())


def test_what_a_system_alone_needs_in_this_process_goes_with_it(tmp_path, tiny_gguf):
    changes = {"engine": "torch", "form": "free", "kind": "text", "labels": ()}
    made = [make_tuned(tiny_gguf, tmp_path / str(n), seed=n, **changes) for n in range(3)]

    async def run() -> None:
        systems = await served(made, Limits(threads=1))
        assert len(systems.pool.engines) == 3
        await systems.add(str(made[0].folder), "again")
        assert await systems.remove("s0") and await systems.remove("s1")
        assert len(systems.pool.engines) == 2
        assert await answer(systems, "again", TEXTS[0]) == await answer(systems, "again", TEXTS[0])
        assert await systems.remove("again") and await systems.remove("s2")
        assert not systems.pool.engines
        await systems.close()

    asyncio.run(run())


@pytest.mark.parametrize("asked_for", (True, False))
def test_what_is_unloaded_goes_though_too_much_waits_for_the_thread(tmp_path, tiny_gguf, asked_for):
    changes = {"engine": "torch", "form": "free", "kind": "text", "labels": ()}
    made = make_tuned(tiny_gguf, tmp_path / "one", **changes)

    async def run() -> None:
        systems, gate = await served([made], Limits(threads=1, queue=1)), threading.Event()
        bench = systems.bench
        busy = asyncio.ensure_future(bench.run(lambda: gate.wait(20)))
        await asyncio.sleep(0.05)
        more = answer(systems, "s0", TEXTS[0]) if asked_for else bench.run(lambda: True)
        waits = asyncio.ensure_future(more)
        await asyncio.sleep(0.05)
        assert bench.waiting == 1
        removing = asyncio.ensure_future(systems.remove("s0"))
        await asyncio.sleep(0.05)
        gate.set()
        assert await removing and await waits and await busy
        async with asyncio.timeout(10):
            while systems.pool.engines:
                await asyncio.sleep(0.05)
        assert systems.names() == []
        await systems.close()

    asyncio.run(run())


@pytest.mark.parametrize("then", [(1,), (1, 0)])
def test_an_adapter_that_was_replaced_while_a_request_waited_goes_when_that_is_over(tuned, then):
    async def run() -> None:
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        (host,), old = systems.hosts.values(), systems.find("s0")
        assert old is not None
        async with host.lanes.turn(old.adapter):
            waits = asyncio.ensure_future(answer(systems, "s0", TEXTS[0]))
            await is_so(lambda: host.lanes.waiting == 1)
            last = old
            for number in then:
                last = await systems.add(str(tuned[number].folder), "s0")
            assert host.has(old.adapter), "what waits would have a child started for it"
        with Pool(threads=1, parallel=1) as pool:
            (own,) = tuned[0].answer([example(TEXTS[0])], pool)
        assert await waits == own.text
        await is_so(lambda: not systems._leaving)
        assert host.adapters == (last.adapter,)
        assert last.warm and host.has(old.adapter) == (old.adapter == last.adapter)
        await systems.close()

    asyncio.run(run())


def test_an_adapter_goes_though_the_client_that_it_was_kept_for_leaves(tuned):
    async def run() -> None:
        systems = await served(tuned[:2], Limits(slots=1, threads=1))
        (host,), kept = systems.hosts.values(), systems.find("s1")
        assert kept is not None
        async with host.lanes.turn(None):
            waits = asyncio.ensure_future(answer(systems, "s0", TEXTS[0]))
            await is_so(lambda: host.lanes.waiting == 1)
            async with asyncio.timeout(10):
                assert await systems.remove("s0")
            assert len(host.adapters) == 2
            waits.cancel()
            await is_so(lambda: host.adapters == (kept.adapter,))
        assert await answer(systems, "s1", TEXTS[0])
        await systems.close()

    asyncio.run(run())


def test_a_server_ends_though_a_request_waits_whose_adapter_was_replaced(tuned):
    async def run() -> None:
        before = len(engines())
        systems = await served(tuned[:1], Limits(slots=1, threads=1))
        (host,) = systems.hosts.values()
        async with host.lanes.turn(None):
            waits = asyncio.ensure_future(answer(systems, "s0", TEXTS[0]))
            await is_so(lambda: host.lanes.waiting == 1)
            await systems.add(str(tuned[1].folder), "s0")
            assert systems._leaving
            async with asyncio.timeout(20):
                await systems.close()
            waits.cancel()
        await is_so(lambda: not systems._leaving and waits.done())
        assert len(engines()) == before and not host.ready

    asyncio.run(run())


def test_where_the_machine_gives_no_process_that_is_said_and_no_host_is_left_behind(tiny_gguf, monkeypatch):
    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        with monkeypatch.context() as patch:
            patch.setattr(PROCESS, no_process)
            with pytest.raises(EngineError, match="Too many open files"):
                await systems.add(str(tiny_gguf), "base")
        assert not systems.hosts and systems.names() == []
        await systems.add(str(tiny_gguf), "base")
        assert all(host.ready for host in systems.hosts.values())
        await systems.close()

    asyncio.run(run())


def test_a_system_whose_engine_cant_start_leaves_no_host_behind(tmp_path, tiny_gguf, monkeypatch):
    gguf = tmp_path / "base.gguf"
    gguf.write_bytes(tiny_gguf.read_bytes())

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        load = systems._load

        def gone_then(given: str, name: str | None):
            made = load(given, name)
            gguf.unlink()
            return made

        monkeypatch.setattr(systems, "_load", gone_then)
        with pytest.raises(EngineError):
            await systems.add(str(gguf), "base")
        assert not systems.hosts and systems.names() == []
        await systems.close()

    asyncio.run(run())
