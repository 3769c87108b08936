"""Running a server: load what is served, listen, follow the tags, stop without losing a request."""

import asyncio
import ipaddress
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import TaskError
from rung.hosted import hosted_of
from rung.models.catalog import entry_named
from rung.models.chat import THOUGHT_CLOSED, opens_thought
from rung.serve.gateway import Gateway
from rung.serve.guard import LOCAL, Guard
from rung.serve.keys import Keys
from rung.serve.limits import Limits
from rung.serve.systems import Served, Systems
from rung.serve.wire import NAME

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048
"""Connections that may wait to be taken."""
KEEP_S = 75
"""How long a connection without requests stays open: longer than clients keep one, most of them 5 s. Else a
request may meet a connection that is just being closed."""
LAST_WORD_S = 2.0
"""For telling those who weren't answered within the grace that they won't be."""
TAGS_S = 2.0
"""How often it is looked whether a tag means another System now."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve. `keys` is a file of API keys, which need not be there. Sizes are bytes."""

    host: str
    port: int
    keys: Path
    body_limit: int
    grace_s: float
    limits: Limits


def serve(given: Sequence[str], settings: Settings, say: Callable[[str], None]) -> None:
    """Serve Systems, tags and base models until SIGTERM or SIGINT; requests in flight are answered then.

    Raises a RungError where it can't begin.
    """
    keys = _keys(settings)
    try:
        asyncio.run(_serve(given, settings, keys, say))
    except asyncio.CancelledError:
        pass  # it was stopped before it served
    say("stopped")


def _keys(settings: Settings) -> Keys | None:
    """The API keys that are asked for. Raises TaskError where others could ask without one."""
    keys = Keys.load(settings.keys)
    if not keys.all():
        keys = None
    if keys is None and not is_loopback(settings.host):
        raise TaskError(
            f"--host {settings.host!r} lets other machines ask, and there is no API key: make one with "
            "`rung keys add NAME`, or serve on 127.0.0.1"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(
    given: Sequence[str], settings: Settings, keys: Keys | None, say: Callable[[str], None]
) -> None:
    import uvicorn

    from rung.serve.app import make_app

    # Bound before anything is loaded: an address that can't be had is said at once.
    listening = _bound(settings)
    systems = Systems(settings.limits, say)
    serving: list[uvicorn.Server] = []
    mine = asyncio.current_task()
    assert mine is not None, "a coroutine runs in a task"

    def stop() -> None:
        # The server finishes what is in flight. It hears of most signals by itself, but not of one that came
        # before it listened for them.
        for server in serving:
            server.should_exit = True
        if not serving:
            mine.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        for text in given:
            entry = entry_named(text)
            if entry is not None and entry.kind == "embed":
                await systems.add_embedder(text)
                say(f"{text}: sentence vectors, at /v1/embeddings")
            else:
                say(_described(await systems.add(*_named(text))))
        gateway = Gateway(systems=systems, limit_s=settings.limits.request_s)
        guarded = Guard(
            make_app(gateway), keys, settings.body_limit, LOCAL | {settings.host}, gateway.metrics.refused
        )
        config = uvicorn.Config(
            guarded,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_S,
            timeout_graceful_shutdown=round(settings.grace_s),
        )
        server = uvicorn.Server(config)
        _listen(listening, settings)
        serving.append(server)
        others = [
            asyncio.create_task(_follow(systems, say)),
            asyncio.create_task(_announce(server, lambda: say(_where(settings, listening, keys, systems)))),
        ]
        try:
            await server.serve(sockets=[listening])
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)  # none of them begins anything now
            if broken_off := server.server_state.tasks:
                await asyncio.wait(broken_off, timeout=LAST_WORD_S)
    finally:
        listening.close()
        await systems.close()


def _named(text: str) -> tuple[str, str | None]:
    """(what to serve, the name that it's given by `NAME=`, if any). Raises TaskError for a bad name."""
    name, equals, given = text.partition("=")
    if not equals or "/" in name:
        return text, None
    if re.fullmatch(NAME, name) is None:
        raise TaskError(f"{name!r} can't be called by requests: letters, digits, . _ : and - are a name")
    return given, name


async def _follow(systems: Systems, say: Callable[[str], None]) -> None:
    """Keep to the memory limit and serve what the tags mean, as long as the server runs.

    Each tag by itself: a System whose weights are long in coming keeps neither the others waiting nor the
    limit.
    """
    at_work: dict[Served | None, asyncio.Task[None]] = {}
    told: dict[str, str] = {}

    async def once(what: str, work: Callable[[], Awaitable[str | None]]) -> None:
        try:
            if (line := await work()) is not None:
                say(line)
            told.pop(what, None)
        except Exception as error:  # noqa: BLE001 - said, and tried again
            fault = f"{what} for now: {error!r}; it is tried again"
            if fault != told.get(what):
                told[what] = fault
                say(fault)

    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(TAGS_S)
            at_work = {served: task for served, task in at_work.items() if not task.done()}
            if None not in at_work:
                at_work[None] = group.create_task(once("memory isn't kept to the limit", systems.tidy))
            for served in systems:
                if served.tag is not None and served not in at_work:
                    followed = once(f"{served.tag} isn't followed", partial(systems.follow, served))
                    at_work[served] = group.create_task(followed)


def _described(served: Served) -> str:
    spec = served.spec
    base = f" on {spec.model.name}" if spec.model is not None and not served.bare else ""
    if served.system.is_hosted:
        base += f" at {hosted_of(served.system.ref).host}"
    what = "the model as it is" if served.bare else f"{spec.rung}{base}, {spec.kind}"
    if served.model is not None and served.model.template and opens_thought(served.model.template):
        what += f" ({THOUGHT_CLOSED})"
    return f"{served.name}: {what}, engine {spec.engine_said}, {served.system.digest}"


def _bound(settings: Settings) -> socket.socket:
    """The socket to serve on, which takes no connections yet. Raises TaskError where it can't be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio sends at once, without waiting 40 ms for an acknowledgement of
    # what it sent before, only on sockets that say they are TCP.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
    except (OSError, OverflowError, UnicodeError) as error:
        made.close()
        raise _not_had(settings, error) from None
    return made


def _listen(bound: socket.socket, settings: Settings) -> None:
    """Take connections. Raises TaskError where another program has begun to meanwhile."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _not_had(settings, error) from None


def _not_had(settings: Settings, error: Exception) -> TaskError:
    reason = getattr(error, "strerror", None) or error
    return TaskError(
        f"can't listen on {settings.host}:{settings.port}: {reason}; choose another --port or --host"
    )


async def _announce(server: "uvicorn.Server", say: Callable[[], None]) -> None:
    """Say where the server listens, once it does."""
    while not server.started:
        await asyncio.sleep(0.02)
    say()


def _where(settings: Settings, listening: socket.socket, keys: Keys | None, systems: Systems) -> str:
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    access = "API keys are asked for" if keys is not None else "for this machine alone"
    return (
        f"listening on http://{host}:{port}/v1 ({access}), {systems.memory_mb():.0f} MiB in all; stop with "
        "Ctrl-C"
    )
