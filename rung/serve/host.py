"""A base model under llama.cpp with its adapters: asked without blocking, watched, renewed without a pause.

llama.cpp takes adapters when it starts. So another adapter means another child: it is started beside the
one that answers, takes over when it is ready, and the old one ends with its last request. A child that dies,
or stands still while it is asked, is started again, and what it was asked is asked once more.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rung.engines.base import EngineSpec
from rung.engines.llama_calls import Call, Calls, Steps, calls_to
from rung.engines.llama_process import Child
from rung.engines.slots import Slots
from rung.engines.unchanged import is_changed, replaced, require_unchanged
from rung.engines.watch import STILL_S
from rung.engines.work import Refused
from rung.errors import EngineError
from rung.serve.events import events
from rung.serve.lanes import Lanes

R = TypeVar("R")
Tokens = tuple[int, ...]

WATCH_S = 0.5
"""How often it is looked whether the child lives."""
LONGEST_PAUSE_S = 30.0
"""Before a child that can't be started is tried again: WATCH_S at first, then twice as long each time, up to
this."""
MOST_CHANGES = 4
"""Children of one model that are started or ended at a time, on threads that nothing else holds."""
DEATH_WAIT_S = 1.0
"""A connection broke: how long a dying process, which has given up its memory, may take to go."""


@dataclass(frozen=True)
class Adapter:
    """A GGUF adapter, and the SHA-256 that it had when its System was loaded."""

    path: Path
    digest: str


@dataclass(eq=False)
class Running:
    """A child, its adapters by their place, and how many requests it has. `retired`: ends with the last."""

    child: Child
    adapters: tuple[Adapter, ...]
    slots: Slots
    client: httpx.AsyncClient
    requests: int = 0
    retired: bool = False


@dataclass
class Host:
    """One base model, or a System's own weights. `spec` has no adapters; for one event loop.

    `asleep`: it has no child on purpose, and the next request starts one. `users` are the requests that hold
    it, those among them that are in no lane yet. `still_s`: how long a child may do
    nothing while a request waits for it.
    """

    spec: EngineSpec
    lanes: Lanes
    limit_s: float
    still_s: float = STILL_S
    calls: Calls = field(init=False)
    restarts: int = 0
    asleep: bool = False
    users: int = 0
    _running: Running | None = None
    _adapters: tuple[Adapter, ...] = ()
    _change: asyncio.Lock = field(default_factory=asyncio.Lock)
    _watch: asyncio.Task[None] | None = None
    _closed: threading.Event = field(default_factory=threading.Event)
    _endings: set[asyncio.Task[None]] = field(default_factory=set)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MOST_CHANGES))

    def __post_init__(self) -> None:
        self.calls = calls_to(self.spec)

    @property
    def ready(self) -> bool:
        """Whether a child runs."""
        return self._running is not None

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters that are loaded, or will be at the next start."""
        return self._adapters

    @property
    def changing(self) -> bool:
        """Whether a child is being started or ended."""
        return self._change.locked()

    def has(self, adapter: Adapter | None) -> bool:
        """Whether a child runs, and with this adapter."""
        running = self._running
        return running is not None and (adapter is None or adapter in running.adapters)

    async def have(self, adapter: Adapter | None) -> None:
        """Run, with this adapter too. Raises EngineError where that can't start, or was replaced.

        A child that has to be replaced answers until its successor is ready.
        """
        await self._apart(self._have(() if adapter is None else (adapter,)))

    def forget(self, adapter: Adapter) -> None:
        """Run without an adapter from the next start on; `rest` frees its memory."""
        self._adapters = tuple(a for a in self._adapters if a != adapter)

    async def rest(self) -> None:
        """Run without the adapters that were forgotten."""
        await self._apart(self._rest())

    async def _have(self, add: tuple[Adapter, ...]) -> None:
        # Said before the lock is had: whoever starts a child next takes everybody's adapters along.
        self._adapters = tuple(dict.fromkeys([*self._adapters, *add]))
        async with self._change:
            if self._running is not None and set(add) <= set(self._running.adapters):
                return
            try:
                await self._switch(tuple(dict.fromkeys([*self._adapters, *add])), add)
            except EngineError:
                before = self._running.adapters if self._running is not None else ()
                self._adapters = tuple(a for a in self._adapters if a not in add or a in before)
                raise

    async def _rest(self) -> None:
        async with self._change:
            if self._running is not None and set(self._running.adapters) != set(self._adapters):
                await self._switch(self._adapters)

    async def sleep(self) -> None:
        """End the child, to free its memory. The next request starts it again."""
        async with self._change:
            old, self._running, self.asleep = self._running, None, True
            if old is not None:
                self._retire(old)

    def leave(self) -> None:
        """End when nobody asks or waits, or the server ends: nothing is served by this model now."""

        async def wait() -> None:
            try:
                while self.users or self.lanes.running or self.lanes.waiting:
                    await asyncio.sleep(WATCH_S)
            finally:
                await self.close()

        task = asyncio.get_running_loop().create_task(wait())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def ask(self, prompt: Tokens, adapter: Adapter | None, steps: Callable[[int], Steps[R]]) -> R:
        """Make the calls of one request; waits for its turn.

        `steps` is given the slot. Raises lanes.Full, Refused for what llama.cpp doesn't take, EngineError
        when the child dies twice over it.
        """
        async with self.lanes.turn(adapter):
            key = _key(adapter, prompt)
            running = await self._current(adapter)
            with running.slots.reserve(key) as slot:
                return await self.drive(steps(slot), adapter)

    async def stream(
        self, prompt: Tokens, adapter: Adapter | None, call: Callable[[int], Call]
    ) -> AsyncGenerator[Mapping]:
        """The pieces of one streamed answer. Raises as `ask` does, and Broken where the child breaks off.

        Whoever iterates must close the iterator (`contextlib.aclosing`): that ends the work in the child.
        """
        async with self.lanes.turn(adapter):
            key = _key(adapter, prompt)
            running = await self._current(adapter)
            with running.slots.reserve(key) as slot:
                with _held(running, self._end):
                    made = call(slot)
                    body = {**made.body, "stream": True, **_scales(running, adapter)}
                    try:
                        async with running.client.stream("POST", made.path, json=body) as response:
                            if response.status_code != httpx.codes.OK:
                                await response.aread()
                                raise Refused(_refusal(response), response.status_code)
                            async for event in events(response.aiter_bytes()):
                                if "error" in event:
                                    raise Refused(f"llama.cpp broke off: {event['error']}", 500)
                                with running.child.watch.paused():
                                    yield event
                    except httpx.TransportError as error:
                        raise Broken(f"llama.cpp broke off: {error!r}", running) from None

    def memory_mb(self) -> float:
        """Resident memory of the child, in MiB; 0 while none runs."""
        return 0.0 if self._running is None else self._running.child.memory_mb()

    async def close(self) -> None:
        """End every child at once, also one that is being started; requests in flight fail."""
        self._closed.set()
        if self._watch is not None:
            self._watch.cancel()
        mine = asyncio.current_task()
        await asyncio.gather(*(task for task in self._endings if task is not mine), return_exceptions=True)
        async with self._change:
            if self._running is not None:
                await self._ended(self._running)
                self._running = None

    async def _current(self, adapter: Adapter | None) -> Running:
        """The child to ask, which has the adapter; started where there is none."""
        if not self.has(adapter):
            await self.have(adapter)
        running = self._running
        assert running is not None, "`have` leaves a child that runs, or raises"
        return running

    async def drive(self, steps: Steps[R], adapter: Adapter | None = None) -> R:
        """Make calls at once; those that need no slot, such as turning tokens into text, may be made so."""
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self._post(call, adapter)
                except Refused as refusal:
                    call = steps.throw(refusal)
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            return end.value

    async def _post(self, call: Call, adapter: Adapter | None) -> Mapping:
        """The child's answer, asked for once more after a broken connection or a death."""
        running = await self._current(adapter)
        try:
            return await self._exchange(running, call, adapter)
        except httpx.TransportError:
            await self.renew(running)
        running = await self._current(adapter)
        try:
            return await self._exchange(running, call, adapter)
        except httpx.TransportError as error:
            raise EngineError(
                f"llama.cpp broke twice over the same request: {error!r}; {running.child.last_words()}"
            ) from None

    async def _exchange(self, running: Running, call: Call, adapter: Adapter | None) -> Mapping:
        with _held(running, self._end):
            body = {**call.body, **_scales(running, adapter)} if "prompt" in call.body else call.body
            try:
                response = await running.client.post(call.path, json=body)
            except httpx.TimeoutException:
                raise Refused(f"no answer within {self.limit_s:g} s") from None
            except RuntimeError:
                # httpx's word for a client that was closed, here by the task that ended the child.
                if running.client.is_closed:
                    raise httpx.ConnectError("the child is gone") from None
                raise
        if response.status_code != httpx.codes.OK:
            raise Refused(_refusal(response), response.status_code)
        return response.json()

    async def renew(self, broken: Running | None = None) -> None:
        """Start the child again if it died or couldn't be started; whoever is first does it for all.

        `broken` is the one whose connection broke: it is given time to die.
        """
        await self._apart(self._renew(broken))

    async def _renew(self, broken: Running | None) -> None:
        if broken is not None:
            await self._aside(partial(broken.child.died, wait_s=DEATH_WAIT_S))
        async with self._change:
            running = self._running
            if running is not None and running.child.died(wait_s=0):
                self.restarts += 1
                self._running = None
                await self._ended(running)
            if self._running is None and not self.asleep:
                await self._switch(self._adapters)

    async def _switch(self, adapters: tuple[Adapter, ...], needed: tuple[Adapter, ...] = ()) -> None:
        """Start a child with these adapters and let it take over. Under `_change`.

        It goes without those that were replaced since; EngineError where one that is `needed` was.
        """
        if self._closed.is_set():
            raise EngineError("this model is served no more")
        old = self._running
        gone = await self._aside(partial(_gone, adapters))
        if lost := gone & set(needed):
            raise replaced(lost.pop().path)
        adapters = tuple(a for a in adapters if a not in gone)
        self._adapters = tuple(a for a in self._adapters if a not in gone)
        spec = replace(self.spec, adapters=tuple(a.path for a in adapters))
        child = await self._aside(partial(self._child, spec))
        self.asleep = False
        self._running = Running(
            child=child,
            adapters=adapters,
            slots=Slots(self.spec.parallel),
            client=httpx.AsyncClient(
                base_url=child.address,
                headers={"Authorization": f"Bearer {child.key}"},
                timeout=httpx.Timeout(self.limit_s, connect=10.0),
                # A connection for each request: llama.cpp's server closes one in ten of those on which it
                # has streamed, and it's the next request that finds out.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                trust_env=False,
            ),
        )
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_alive())
        if old is not None:
            self._retire(old)

    def _child(self, spec: EngineSpec) -> Child:
        """Start a child; waits for it."""
        require_unchanged(spec.files, spec.base)
        return Child(spec, request_limit_s=self.limit_s, still_s=self.still_s, unwanted=self._closed)

    async def _apart(self, change: Coroutine[Any, Any, None]) -> None:
        """Finish a change though whoever asked for it leaves: a child half started would belong to nobody."""
        task = asyncio.ensure_future(change)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        await asyncio.shield(task)

    def _retire(self, old: Running) -> None:
        old.retired = True
        if not old.requests:
            self._end(old)

    def _end(self, running: Running) -> None:
        """End a retired child in the background."""
        task = asyncio.get_running_loop().create_task(self._ended(running))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _ended(self, running: Running) -> None:
        await running.client.aclose()
        running.child.client.close()
        await self._aside(running.child.kill)

    async def _aside(self, work: Callable[[], R]) -> R:
        """What a change of children gives: it waits for no request, whatever these do to threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _keep_alive(self) -> None:
        """Start the child again when it dies while nobody asks it, over and over where that fails.

        A server that isn't ready is sent no requests, so that none of them would start the child.
        """
        pause_s, again = WATCH_S, 0.0
        while True:
            await asyncio.sleep(WATCH_S)
            if self._running is not None:
                pause_s, again = WATCH_S, 0.0
                if not self._running.child.died(wait_s=0):
                    continue
            if self.asleep or time.monotonic() < again:
                continue
            try:
                await self.renew()
            except EngineError:  # whoever asks is told what is wrong
                again, pause_s = time.monotonic() + pause_s, min(2 * pause_s, LONGEST_PAUSE_S)


class Broken(Exception):
    """A stream broke off in the middle: the child died or closed the connection."""

    def __init__(self, message: str, running: Running) -> None:
        super().__init__(message)
        self.running = running


@contextlib.contextmanager
def _held(running: Running, end: Callable[[Running], None]):
    """Keep a child until the request is over, also one that is retired meanwhile."""
    running.requests += 1
    try:
        with running.child.watch.asked():
            yield
    finally:
        running.requests -= 1
        if running.retired and not running.requests:
            end(running)


def _gone(adapters: tuple[Adapter, ...]) -> set[Adapter]:
    """Those that aren't what they were when their Systems were loaded."""
    return {one for one in adapters if is_changed(one.path, one.digest)}


def _scales(running: Running, adapter: Adapter | None) -> dict[str, object]:
    """Which adapter llama.cpp applies to a call; none where it has adapters and the call wants none."""
    if not running.adapters:
        return {}
    if adapter is None:
        return {"lora": [{"id": 0, "scale": 0.0}]}
    return {"lora": [{"id": running.adapters.index(adapter), "scale": 1.0}]}


def _key(adapter: Adapter | None, prompt: Tokens) -> Tokens:
    """What a slot's cache holds: with another adapter the same tokens aren't the same."""
    return (-1 - abs(hash(adapter)), *prompt)


def _refusal(response: httpx.Response) -> str:
    return f"llama.cpp answered {response.status_code}: {response.text[:300]}"
