"""What the routes share: the Systems, time limits, clients that leave, and what is counted."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rung.serve.bench import LARGEST_BATCH
from rung.serve.events import DONE, event
from rung.serve.faults import Fault, too_slow, unknown_model
from rung.serve.lanes import let_in
from rung.serve.metrics import Metrics
from rung.serve.systems import Served, Systems

R = TypeVar("R")

GONE = 499
"""What is counted for a client that left, as nginx has it; nobody is sent it."""


@dataclass(kw_only=True)
class Gateway:
    """One server."""

    systems: Systems
    limit_s: float
    metrics: Metrics = field(init=False)
    _unanswered: int = field(default=0, init=False)
    _begun: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.systems)

    def find(self, name: str) -> Served:
        """What is served under a name. Raises Fault, a 404."""
        served = self.systems.find(name)
        if served is None:
            raise unknown_model(name, self.systems.names())
        return served

    def parts(self) -> "Parts":
        """Places for the answers of a request: as many as an engine takes together."""
        return Parts(max(self.systems.limits.slots, LARGEST_BATCH))

    async def whole(
        self, request: Request, route: str, name: str, work: Coroutine[Any, Any, Any]
    ) -> Response:
        """The JSON response of some work, within the time limit; broken off when the client leaves."""
        start = time.monotonic()
        request.state.counted = True
        status = 500
        try:
            with self._asked(name) as alone:
                found = await unless_gone(request, within(self.limit_s, work, alone=alone))
            status = 200
            return JSONResponse(found)
        except Fault as fault:
            status = fault.status
            raise
        except ClientLeft:
            status = GONE
            return Response(status_code=GONE)
        finally:
            self.metrics.count(route, name, status, time.monotonic() - start)

    async def streamed(
        self, request: Request, route: str, name: str, chunks: AsyncGenerator[object]
    ) -> Response:
        """The events of a stream. What is wrong before its first one is a response of its own."""
        chunks = _holding(self.systems.find(name), chunks)
        start = time.monotonic()
        request.state.counted = True
        failed: int | None = 500
        try:
            with self._asked(name) as alone:
                first = await unless_gone(request, within(self.limit_s, anext(chunks), alone=alone))
            failed = None
        except Fault as fault:
            failed = fault.status
            raise
        except ClientLeft:
            failed = GONE
            return Response(status_code=GONE)
        finally:
            if failed is not None:
                self.metrics.count(route, name, failed, time.monotonic() - start)
                await chunks.aclose()

        async def body() -> AsyncGenerator[bytes]:
            status = 500
            try:
                async with aclosing(chunks):
                    yield event(first)
                    try:
                        # Each step by itself: a time limit around the `yield` would go off in whoever sends.
                        while (chunk := await self._next(chunks, start)) is not None:
                            yield event(chunk)
                        status = 200
                    except Fault as fault:
                        status = fault.status
                        yield event(fault.body())
                yield DONE
            except (asyncio.CancelledError, GeneratorExit):
                status = GONE
                raise
            finally:
                self.metrics.count(route, name, status, time.monotonic() - start)

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    @contextmanager
    def _asked(self, name: str) -> Iterator[Callable[[], bool]]:
        """Note a request till some of its answer is there; gives what tells if it waited for nothing else.

        That is for an engine to start, or for another request, begun before it or after. What its System
        needs is held from now on: a prompt may be long in the making, and nothing of it is to go meanwhile.
        """
        served = self.systems.find(name)
        warm = served is None or served.warm
        hosts = list(self.systems.hosts.values())
        engines = [self.systems.bench, *(host.lanes for host in hosts)]
        at_work = self._unanswered or any(engine.running or engine.waiting for engine in engines)
        first = warm and not at_work and all(host.ready for host in hosts)
        self._unanswered, self._begun = self._unanswered + 1, self._begun + 1
        mine = self._begun
        try:
            with nullcontext() if served is None else served.held():
                yield lambda: first and self._begun == mine
        finally:
            self._unanswered -= 1

    async def _next(self, chunks: AsyncGenerator[object], start: float) -> object | None:
        """The next chunk of a stream; None at its end."""
        return await within(self.limit_s, anext(chunks, None), spent_s=time.monotonic() - start)


async def _holding(served: Served | None, chunks: AsyncGenerator[object]) -> AsyncGenerator[object]:
    """The chunks of a stream, to whose end all that its System needs is held."""
    with nullcontext() if served is None else served.held():
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


class ClientLeft(Exception):
    """The client closed its connection before it was answered."""


async def within(
    limit_s: float, work: Awaitable[R], *, spent_s: float = 0.0, alone: Callable[[], bool] = lambda: False
) -> R:
    """What the work comes to. Raises Fault, a 504, when its time is over, of which some may be spent.

    `alone` tells then whether nothing else had a part in that.
    """
    try:
        async with asyncio.timeout(limit_s - spent_s):
            return await work
    except TimeoutError:
        raise too_slow(limit_s, again=not alone()) from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, R]) -> R:
    """What the work comes to; it is cancelled, and ClientLeft raised, when the client goes away."""
    mine = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({mine, left}, return_when=asyncio.FIRST_COMPLETED)
        if mine.done():
            return mine.result()
        raise ClientLeft
    finally:
        await ended((mine, left))


async def ended(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Break tasks off, and wait until each has put away what it held.

    Whoever waits may be cancelled over and over meanwhile, as Starlette does when a client leaves. The tasks
    are cancelled once: a second time would break off their tidying up, and leave the engine at work.
    """
    for task in tasks:
        task.cancel()
    if tasks:
        ending = asyncio.gather(*tasks, return_exceptions=True)
        _ENDING.add(ending)
        ending.add_done_callback(_ENDING.discard)
        await asyncio.shield(ending)


_ENDING: set[asyncio.Future[Any]] = set()
"""What is being put away: the event loop itself holds on to nothing that merely waits."""


class Parts:
    """The answers that one request asks for, so many at a time: one of many leaves room for others.

    The first is refused where too much waits; the rest are part of a request that was let in.
    """

    def __init__(self, at_a_time: int) -> None:
        self._free = asyncio.Semaphore(at_a_time)

    @asynccontextmanager
    async def turn(self, place: int) -> AsyncGenerator[None]:
        """Hold a place for the answer at `place`, from 0."""
        async with self._free:
            with let_in(place > 0):
                yield


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def merged(streams: list[AsyncGenerator[R]], parts: Parts) -> AsyncGenerator[tuple[int, R]]:
    """What several streams yield, each with its stream's place, as it comes. Raises what one raises.

    So many are open at a time as there are places for `parts`.
    """
    found: asyncio.Queue[tuple[int, R] | BaseException | None] = asyncio.Queue()

    async def forward(place: int, stream: AsyncGenerator[R]) -> None:
        try:
            async with parts.turn(place), aclosing(stream):
                async for item in stream:
                    found.put_nowait((place, item))
            found.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - carried to the reader and raised there
            found.put_nowait(error)

    tasks = [asyncio.create_task(forward(place, stream)) for place, stream in enumerate(streams)]
    try:
        open_streams = len(tasks)
        while open_streams:
            item = await found.get()
            if item is None:
                open_streams -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        await ended(tasks)
