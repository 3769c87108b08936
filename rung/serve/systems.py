"""What is served: Systems and base models by name, loaded and unloaded while requests are answered."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Hashable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from rung.asking import candidates, context_of
from rung.engines.base import EngineSpec, Say, no_say
from rung.engines.key_hosts import need_known_host
from rung.engines.schema import require_schema
from rung.engines.trie import Trie
from rung.engines.unchanged import Files, files_in
from rung.errors import EngineError, ModelError, TaskError
from rung.hosted import hosted_of
from rung.memory import within_memory
from rung.models.chat import Chat
from rung.models.hosted import Hosted
from rung.models.resolve import Model, resolve
from rung.models.retyped import retyped
from rung.records import Example
from rung.registry import load_system
from rung.serve.bare import MODEL, as_system, is_model
from rung.serve.bench import Bench, aside
from rung.serve.host import Adapter, Host
from rung.serve.lanes import Full, Lanes, let_in
from rung.serve.limits import Limits
from rung.serve.tags import Located, Meaning, located, meaning
from rung.spec import Spec
from rung.system import ADAPTER_GGUF, WEIGHTS_GGUF, Pool, System

WARM_UP = Example(id="warm-up", input="Is anybody there?", output=None)
LOOK_S = 0.5
"""How often it is looked whether a System's requests are over."""


@dataclass(eq=False, kw_only=True)
class Served:
    """One System, or a base model, under the name that requests call it by.

    `host` answers for Systems under llama.cpp, the bench for others, and for those of several calls. `tag` is
    what it was found by, where that can come to mean another System, and `meant` what it meant then: a folder
    and a calibration. `refused` is what the tag was found to name since, and what couldn't be served.
    `options` are the labels' tokens. One request at a time is `waking` it, for all.
    """

    name: str
    system: System
    model: Model | None
    chat: Chat | None
    host: Host | None
    adapter: Adapter | None
    adapter_mb: float
    options: Trie | None
    tag: str | None = None
    meant: Meaning | None = None
    refused: Located | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    used: float = field(default_factory=time.monotonic)
    requests: int = 0
    waking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def spec(self) -> Spec:
        """Everything that decides an answer."""
        return self.system.spec

    @property
    def labelled(self) -> bool:
        """Whether it answers with one of its labels, and a probability."""
        return self.system.has_probabilities

    @property
    def shows(self) -> bool:
        """Whether its prompts show what is read from its folder: worked examples, or passages."""
        return self.spec.shots.choice != "none" or self.spec.retrieval is not None

    @property
    def bare(self) -> bool:
        """Whether it is a base model without a task."""
        return self.spec.rung == MODEL

    @property
    def warm(self) -> bool:
        """Whether it answers without anything being loaded first."""
        return self.host is None or (
            self.host.has(self.adapter) and (self.adapter is None or self.adapter in self.host.adapters)
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Count a request: till its end all that it needs stays, though the System is served no more."""
        host = self.host
        self.requests += 1
        self.used = time.monotonic()
        if host is not None:
            host.users += 1
        try:
            yield
        finally:
            self.requests -= 1
            if host is not None:
                host.users -= 1


class Systems:
    """All that is served, and the engines under it. For one event loop."""

    def __init__(self, limits: Limits, say: Say = no_say) -> None:
        """`say` is told what a Pool's `say` is, and which Systems a limit doesn't hold for."""
        self.limits = limits
        self._say = say
        # No engine makes room for another one: each goes with the last System that needs it.
        self.pool = Pool(threads=limits.threads, parallel=limits.slots, keep=None, say=say)
        self.bench = Bench(room=limits.queue, away=self._is_forwarded)
        self.hosts: dict[tuple[str, int], Host] = {}
        self.embedders: set[str] = set()
        self._served: dict[str, Served] = {}
        self._change = asyncio.Lock()
        self._anew = asyncio.Lock()
        self._loading = threading.Lock()
        self._forwarded: set[str] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    def __iter__(self):
        return iter(list(self._served.values()))

    def names(self) -> list[str]:
        """What requests may call."""
        return sorted(self._served)

    def find(self, name: str) -> Served | None:
        """The System called so; of a tag without a version the newest, `latest`."""
        return self._served.get(name) or self._served.get(f"{name}:latest")

    async def add(self, given: str, name: str | None = None) -> Served:
        """Serve a System folder, a tag or a base model. Raises a RungError where it can't be.

        A name that is taken comes to mean the new System: requests that are being answered end with the old
        one.
        """
        made = await self._read(given, name)
        await self._warm_up(made)
        async with self._change:
            await self._start(made)
            return await self._take_up(made)

    async def add_embedder(self, given: str) -> None:
        """Answer /v1/embeddings with a model of sentence vectors. Raises ModelError where it can't be had."""
        model = await aside(lambda: resolve(given))
        if given != self.pool.embedder.model.name:
            raise ModelError(
                f"{given!r} makes sentence vectors, but those served are {self.pool.embedder.model.name!r}'s"
            )
        self.embedders.add(model.name)

    async def remove(self, name: str) -> bool:
        """Serve it no more; False where nothing is called so. Requests that wait are still answered."""
        async with self._change:
            old = self._served.pop(name, None)
            if old is not None:
                await self._let_go(old)
            return old is not None

    @asynccontextmanager
    async def using(self, served: Served) -> AsyncGenerator[None]:
        """Keep a System loaded for a request, and load it where it was put out. Raises EngineError."""
        with served.held():
            if not served.warm and served.host is not None:
                # Not under `_change`: a model may be long in starting, and those of others are waited for.
                async with served.waking:
                    await self._make_room(served)
                    await served.host.have(served.adapter)
            yield

    async def tidy(self) -> None:
        """Put out what is longest unused where more memory is held than allowed: many were in use at once."""
        limit = self.limits.memory_mb
        if limit is None or self.memory_mb() <= limit:
            return
        async with self._change:
            await self._put_out(self.memory_mb() - limit)
            for host in self.hosts.values():
                with suppress(EngineError):  # the child that has them goes on
                    await host.rest()

    async def follow(self, served: Served) -> str | None:
        """Serve what a System's tag means now; a sentence where that changed, or can't be served."""
        tag, found = served.tag, await located(served.tag)
        if tag is None or found is None:
            return None  # a tag that was removed goes on meaning what it meant
        if meaning(*found) == served.meant or found == served.refused:
            return None
        try:
            made = await self._read(tag, served.name)
            # One at a time stands beside what it replaces: there may be no room for all that tags moved to.
            async with self._anew:
                await self._warm_up(made)
                async with self._change:
                    if is_wanted := await self._is_wanted(made.meant, served):
                        await self._start(made)
                        # That, and what came before, may have taken minutes.
                        is_wanted = await self._is_wanted(made.meant, served)
                    if not is_wanted:
                        await self._let_go(made)
                        return None
                    await self._take_up(made)
        except Full:
            return None  # the next time
        except Exception as error:  # noqa: BLE001 - said, and not tried again till it is tagged again
            if not await self._is_wanted(meaning(*found), served):
                return None
            served.refused = found
            return f"{served.name} stays as it was, what is tagged now can't be served: {error}"
        return f"{made.name} was tagged anew: {made.system.digest} now"

    def memory_mb(self) -> float:
        """Resident memory of the server and its children, in MiB."""
        import psutil

        own = psutil.Process().memory_info().rss / 2**20
        children = [engine for engine in list(self.pool.engines.values()) if engine.name == "llama"]
        return own + sum(one.memory_mb() for one in [*self.hosts.values(), *children])

    async def close(self) -> None:
        """End every engine."""
        for task in self._leaving:
            task.cancel()
        for host in list(self.hosts.values()):
            await host.close()
        self.bench.close()
        await asyncio.to_thread(self.pool.close)

    async def _read(self, given: str, name: str | None) -> Served:
        """A System that isn't warm yet. What is served may change meanwhile."""
        # Aside, as weights may have to be brought: a server that is to end doesn't wait for them.
        return await aside(lambda: self._load(given, name))

    async def _warm_up(self, made: Served) -> None:
        """Load what loads at the first answer, so that whoever asks first doesn't wait for it.

        Not its place in a host, though, and what is served may change meanwhile.
        """
        if made.system.is_hosted:
            # What it looks up is read. Nobody is asked: that would be paid for.
            await self.bench.run(lambda: made.system.find([WARM_UP], self.pool))
        elif made.host is None:
            has_engine = made.spec.engine != "head"
            try:
                # Refused once its engine is there, that would belong to nobody.
                with let_in(has_engine), within_memory():
                    if has_engine:
                        await aside(lambda: self._open(made))
                    await self.bench.run(lambda: made.system.answer([WARM_UP], self.pool))
            except EngineError:
                await self._drop(made)  # its weights would stay, and belong to nobody
                raise
        elif made.shows:
            await self.bench.run(lambda: made.system.prompts([WARM_UP], self.pool))

    def _open(self, made: Served) -> None:
        """Start its own engine; not on the thread that computes, where others' answers would wait for it."""
        # transformers sets what holds for all of torch while it builds a model: not two at once.
        with self._loading if made.spec.engine == "torch" else nullcontext():
            made.system.open(self.pool)

    async def _start(self, made: Served) -> None:
        """Give what is prepared its name, and its place in a host. Under `_change`; raises EngineError."""
        spec = made.spec
        made.name = made.name or fresh_name([spec.task, f"{spec.task}-{spec.rung}"], self._served)
        if made.system.is_hosted:
            self._forwarded.add(made.system.digest)
        elif made.host is not None and made.model is not None:
            key = _key(_running(made.system, made.model), made.host.spec)
            made.host = self.hosts.setdefault(key, made.host)
            await self._make_room(made)
            try:
                await made.host.have(made.adapter)
            except EngineError:
                await self._let_go(made)  # a host without a child would stay, and what was read
                raise
        elif made.model is not None:
            self._tell_context(made.name, context_of(made.model))

    async def _take_up(self, made: Served) -> Served:
        """Serve what was started, under its name. Under `_change`."""
        old = self._served.get(made.name)
        self._served[made.name] = made
        if (vectors := made.spec.vectors) is not None:
            self.embedders.add(vectors.name)
        if old is not None:
            await self._let_go(old)
        return made

    def _tell_context(self, name: str, holds: int) -> None:
        """Say that another context than the one asked for is a System's, where it is."""
        if self.limits.context not in (None, holds):
            self._say(
                f"{name}: a prompt and its answer have {holds:,} tokens here, not {self.limits.context:,}: "
                "--context is for what llama.cpp answers in one call"
            )

    def _load(self, given: str, name: str | None) -> Served:
        """Read a System and everything about it that can be wrong; starts nothing."""
        tag = meant = None
        if is_model(given):
            system = as_system(given)
        else:
            system, pointed = load_system(given)
            # NAME@DIGEST names one System for good; a tag may come to mean another.
            tag = None if pointed is None or "@" in given else str(pointed.tag)
            meant = meaning(system.folder, pointed)
        spec = system.spec
        model = system.model(self.pool) if spec.model is not None and not system.is_hosted else None
        if system.is_hosted:
            _need_key(given, hosted_of(system.ref))
        chat = system.chat(self.pool) if model is not None else None
        alone = spec.engine == "llama" and spec.steps is None
        own, folder = spec.files, system.folder.resolve()
        weights = files_in(folder, own, WEIGHTS_GGUF)
        host = self._host(_running(system, model), weights) if model is not None and alone else None
        if spec.answer.form == "schema" and not system.is_hosted:
            (require_schema if host is None else host.calls.closings.least_tokens)(spec.schema_)
        options = None
        if chat is not None and spec.answer.form in ("words", "codes"):
            options = Trie(candidates(spec, chat))
        adapter = None
        if host is not None and ADAPTER_GGUF in own:
            adapter = Adapter(folder / ADAPTER_GGUF, own[ADAPTER_GGUF])
        return Served(
            name=name or tag or "",
            system=system,
            model=model,
            chat=chat,
            host=host,
            adapter=adapter,
            adapter_mb=0.0 if adapter is None else adapter.path.stat().st_size / 2**20,
            options=options,
            tag=tag,
            meant=meant,
        )

    def _host(self, model: Model, weights: Files) -> Host:
        """A host of a model's own, which knows the schemas that one there is for it does.

        `weights` are a System's, where the model is one that was tuned whole.
        """
        if model.gguf is None:
            raise EngineError(f"{model.name!r} has no GGUF file, which llama.cpp needs")
        limits = self.limits
        spec = EngineSpec(
            engine="llama",
            gguf=model.gguf,
            files=weights,
            base=model.files,
            context=min(model.context, limits.context or context_of(model)),
            parallel=limits.slots,
            threads=limits.threads,
        )
        host = Host(spec=spec, lanes=Lanes(limits.slots, limits.queue), limit_s=limits.request_s)
        if (there := self.hosts.get(_key(model, spec))) is not None:
            host.calls = there.calls
        return host

    async def _make_room(self, wanted: Served) -> None:
        """Put out what was longest unused, where memory would not do for another adapter."""
        if self.limits.memory_mb is None or wanted.warm:
            return
        await self._put_out(self.memory_mb() + wanted.adapter_mb - self.limits.memory_mb, wanted)

    async def _put_out(self, over: float, wanted: Served | None = None) -> None:
        """Let go of about so many MiB of adapters and models that are not in use, the longest unused first.

        An adapter's memory is free once its host has changed children.
        """
        for served in sorted(self, key=lambda s: s.used):
            host = served.host
            if over <= 0:
                return
            if served is wanted or host is None or served.requests or not served.warm:
                continue
            if served.adapter is not None:
                if not self._shared(served, [] if wanted is None else [wanted]):
                    over -= served.adapter_mb
                    host.forget(served.adapter)
            elif (wanted is None or host is not wanted.host) and not (host.lanes.running or host.changing):
                over -= host.memory_mb()
                await host.sleep()

    def _shared(self, served: Served, also: Iterable[Served] = ()) -> bool:
        """Whether another name uses the same adapter."""
        return any(s is not served and s.adapter == served.adapter for s in [*self, *also])

    async def _is_wanted(self, meant: Meaning | None, served: Served) -> bool:
        """Whether it is to take the place of a System, which is served still: its tag means this now."""
        now = await located(served.tag)
        there = self._served.get(served.name) is served
        return there and now is not None and meaning(*now) == meant != served.meant

    async def _let_go(self, old: Served) -> None:
        """Free what only this System used, once its requests are over. Under `_change`."""
        key = next((key for key, host in self.hosts.items() if host is old.host), None)
        if key is not None and all(served.host is not old.host for served in self):
            self.hosts.pop(key).leave()
        if old.requests:
            task = asyncio.create_task(self._free_later(old))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        else:
            await self._unload(old)
            await self._drop(old)

    async def _free_later(self, old: Served) -> None:
        """Free what it used when nobody waits."""
        while old.requests:
            await asyncio.sleep(LOOK_S)
        async with self._change:
            await self._unload(old)
        await self._drop(old)

    async def _unload(self, old: Served) -> None:
        """Take its adapter out of a host that goes on, if nothing else there has it. Under `_change`.

        Not before its requests are over: one that waits would have it loaded again, for good.
        """
        if old.host is None or old.adapter is None or self._shared(old):
            return
        if any(host is old.host for host in self.hosts.values()):
            old.host.forget(old.adapter)
            with suppress(EngineError):  # the child that has it goes on
                await old.host.rest()

    async def _drop(self, old: Served) -> None:
        """Free what no other System needs: what was read, and an engine of its own."""
        if old.host is not None and not old.shows:
            return

        def free() -> None:
            self.pool.forget(old.system, [served.system for served in self])
            if old.host is None:
                self.pool.drop(old.system, self._without_host())

        if old.system.is_hosted:
            free()
            return
        # However much waits for the thread: what isn't dropped now stays.
        with let_in():
            await self.bench.run(free)

    def _without_host(self) -> list[System]:
        return [served.system for served in self if served.host is None]

    def _is_forwarded(self, key: Hashable) -> bool:
        """Whether a hosted model answers what waits under a key: a System's name and digest, and more."""
        return isinstance(key, tuple) and len(key) > 1 and key[1] in self._forwarded


def _running(system: System, model: Model) -> Model:
    """The model that llama.cpp holds for a System: its base, in any type, or the System's own weights."""
    if (own := system.weights_gguf) is not None:
        return replace(model, gguf=own.resolve(), digest=system.digest, files=())
    return retyped(model, system.spec.weight_type)


def _need_key(given: str, model: Hosted) -> None:
    """Raises RungError where a hosted model can't be asked for want of a key, or of a host that it is for."""
    if model.key_missing:
        raise TaskError(
            f"{given!r} forwards to {model.given!r}, and {model.key_variable} isn't set: set it before "
            "serving"
        )
    need_known_host(model)


def _key(model: Model, spec: EngineSpec) -> tuple[str, int]:
    """What one child answers for: it gives all its slots as many tokens."""
    return model.digest, spec.context


def fresh_name(names: Sequence[str], taken: Iterable[str]) -> str:
    """The first of the names that isn't taken; the last one with a number behind it where all are."""
    taken = set(taken)
    numbered = [f"{names[-1]}-{number}" for number in range(2, len(taken) + 3)]
    return next(name for name in [*names, *numbered] if name not in taken)
