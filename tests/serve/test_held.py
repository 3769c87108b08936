"""A System that is unloaded while a request's prompt is made, or in the middle of its stream: it answers."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from rung.search import PassageIndex, index_files, terms_of
from rung.serve import completions
from rung.serve.app import make_app
from rung.serve.gateway import Gateway
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.serve.wire import CompletionRequest
from rung.spec import RetrievalSpec
from rung.system import System, save
from tests.fixtures_climb import topic_passages
from tests.fixtures_serve import is_so

BODY = {"model": "one", "prompt": "my invoice and the courier", "max_tokens": 8}


def looking_up(folder: Path, system: System, **changes: Any) -> System:
    """The same with two passages in each prompt, which are looked up on the thread that computes."""
    passages = topic_passages()
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    changes = {"retrieval": RetrievalSpec(search="bm25", k=2), **changes}
    return save(folder, system.spec.model_copy(update=changes), index_files(index, "bm25"))


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Systems]:
    """A System under the name `one`, for one request at a time."""
    systems = Systems(Limits(slots=1, threads=1))
    await systems.add(str(folder), "one")
    try:
        yield systems
    finally:
        await systems.close()


@asynccontextmanager
async def busy(systems: Systems) -> AsyncGenerator[None]:
    """Keep the thread that computes at something else."""
    gate = threading.Event()
    held = asyncio.ensure_future(systems.bench.run(lambda: gate.wait(60)))
    try:
        await is_so(lambda: systems.bench.running == 1)
        yield
    finally:
        gate.set()
        await held


def client(systems: Systems) -> httpx.AsyncClient:
    """Who asks the whole application."""
    app = make_app(Gateway(systems=systems, limit_s=60))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://rung")


@pytest.mark.parametrize("engine", ["llama", "torch"])
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_asked_of_a_system_that_goes_while_the_prompt_is_made_is_answered(
    engine, streamed, tmp_path, tiny_systems
):
    system = looking_up(tmp_path / "one", tiny_systems["text"], engine=engine)

    async def run() -> None:
        async with serving(system.folder) as systems, client(systems) as asks:
            there = systems.find("one")
            assert there is not None
            async with busy(systems):
                asking = asks.post("/v1/completions", json={**BODY, "stream": streamed})
                asked = asyncio.ensure_future(asking)
                await is_so(lambda: systems.bench.waiting == 1)
                goes = asyncio.ensure_future(systems.remove("one"))
                await asyncio.sleep(0.3)
                assert not asked.done() and (there.host is None or there.host.ready)
            found = await asked
            assert found.status_code == 200 and "engine_failed" not in found.text, found.text
            assert await goes and systems.names() == []
            await is_so(lambda: not systems.pool.engines and not systems.pool.passages)
            await is_so(lambda: there.host is None or not there.host.ready)
            assert not systems.hosts and not there.requests

    asyncio.run(run())


def request(leaves: asyncio.Event) -> Request:
    """A request whose client goes away once the event is set."""

    async def receive() -> dict[str, str]:
        await leaves.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": [], "state": {}}, receive)


def test_a_client_that_leaves_while_its_prompt_is_made_keeps_nothing(tmp_path, tiny_systems):
    system = looking_up(tmp_path / "one", tiny_systems["text"], engine="torch")

    async def run() -> None:
        async with serving(system.folder) as systems:
            there, leaves = systems.find("one"), asyncio.Event()
            assert there is not None
            async with busy(systems):
                gateway, body = Gateway(systems=systems, limit_s=60), CompletionRequest.model_validate(BODY)
                asked = asyncio.ensure_future(completions.complete(gateway, request(leaves), body))
                await is_so(lambda: systems.bench.waiting == 1)
                async with asyncio.timeout(10):
                    assert await systems.remove("one")
                assert there.requests
                leaves.set()
                assert (await asked).status_code == 499 and not there.requests
            await is_so(lambda: not systems.pool.engines and not systems.pool.passages)

    asyncio.run(run())


@pytest.mark.parametrize("end", ["read", "left", "never begun"])
def test_a_stream_holds_its_system_from_the_first_event_to_its_end_however_that_comes(
    end, tmp_path, tiny_systems
):
    system = looking_up(tmp_path / "one", tiny_systems["text"], engine="torch")
    body = CompletionRequest.model_validate({**BODY, "stream": True})

    async def run() -> None:
        async with serving(system.folder) as systems:
            there, gateway = systems.find("one"), Gateway(systems=systems, limit_s=60)
            assert there is not None
            made = await completions.complete(gateway, request(asyncio.Event()), body)
            assert isinstance(made, StreamingResponse)
            events: Any = made.body_iterator
            assert there.requests == 1
            if end != "never begun":
                assert b"data: " in await anext(events)
                assert await systems.remove("one") and there.requests == 1
                assert systems.pool.engines
            if end == "read":
                assert [event async for event in events][-1] == b"data: [DONE]\n\n"
            elif end == "left":
                await events.aclose()
            del made, events
            gc.collect()
            await is_so(lambda: not there.requests)
            if end != "never begun":
                await is_so(lambda: not systems.pool.engines)

    asyncio.run(run())
