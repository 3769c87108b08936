"""Running a server: load what is served, listen, follow the tags, stop without losing a request."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import TaskError
from rung.models.catalog import entry_named
from rung.serve.gateway import Gateway
from rung.serve.guard import LOCAL, Guard
from rung.serve.keys import Keys
from rung.serve.systems import Limits, Served, Systems
from rung.serve.wire import NAME

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 2048
"""Connections that may wait to be taken."""
KEEP_S = 75
"""How long a connection without requests stays open: longer than clients keep one, most of them 5 s. Else a
request may meet a connection that is just being closed."""
TAGS_S = 2.0
"""How often it is looked whether a tag means another System now."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve. `keys` is a file of API keys; None where there is none. Sizes are bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    body_limit: int = 1 << 20
    grace_s: float = 30.0
    limits: Limits = Limits()


def serve(given: Sequence[str], settings: Settings, say: Callable[[str], None]) -> None:
    """Serve Systems, tags and base models until it's interrupted. Raises a RungError where it can't begin."""
    keys = _keys(settings)
    asyncio.run(_serve(given, settings, keys, say))


def _keys(settings: Settings) -> Keys | None:
    """The API keys that are asked for. Raises TaskError where others could ask without one."""
    keys = Keys.load(settings.keys) if settings.keys is not None and settings.keys.is_file() else None
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

    systems = Systems(settings.limits)
    try:
        for text in given:
            entry = entry_named(text)
            if entry is not None and entry.kind == "embed":
                systems.add_embedder(text)
                say(f"{text}: sentence vectors, at /v1/embeddings")
            else:
                say(_described(await systems.add(*_named(text))))
        gateway = Gateway(systems=systems, limit_s=settings.limits.request_s)
        guarded = Guard(make_app(gateway), keys, settings.body_limit, LOCAL | {settings.host})
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
        listening = _listen(settings)
        others = [
            asyncio.create_task(_follow(systems, say)),
            asyncio.create_task(_announce(server, lambda: say(_where(settings, listening, keys, systems)))),
            asyncio.create_task(_until_stopped(server, gateway)),
        ]
        try:
            await server.serve(sockets=[listening])
        finally:
            for task in others:
                task.cancel()
    finally:
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
    """Serve what the tags mean, as it changes."""
    while True:
        await asyncio.sleep(TAGS_S)
        for name in await systems.follow_tags():
            served = systems.find(name)
            if served is not None:
                say(f"{name} was tagged anew: {served.system.digest} now")


def _described(served: Served) -> str:
    spec = served.spec
    base = f" on {spec.model.name}" if spec.model is not None and not served.bare else ""
    what = "the model as it is" if served.bare else f"{spec.rung}{base}, {spec.kind}"
    return f"{served.name}: {what}, engine {spec.engine}, {served.system.digest}"


def _listen(settings: Settings) -> socket.socket:
    """The socket to serve on. Raises TaskError where it can't be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio sends at once, without waiting 40 ms for an acknowledgement of
    # what it sent before, only on sockets that say they are TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
        return listening
    except OSError as error:
        listening.close()
        raise TaskError(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}; choose another "
            "with --port or --host"
        ) from None


async def _announce(server: "uvicorn.Server", say: Callable[[], None]) -> None:
    """Say where the server listens, once it does."""
    while not server.started:
        await asyncio.sleep(0.02)
    say()


async def _until_stopped(server: "uvicorn.Server", gateway: Gateway) -> None:
    """Be no more ready from the moment of the signal on, while requests in flight are finished."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    gateway.closing = True


def _where(settings: Settings, listening: socket.socket, keys: Keys | None, systems: Systems) -> str:
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    access = "API keys are asked for" if keys is not None else "for this machine alone"
    return (
        f"listening on http://{host}:{port}/v1 ({access}), {systems.memory_mb():.0f} MiB in all; stop with "
        "Ctrl-C"
    )
