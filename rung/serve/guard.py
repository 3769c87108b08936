"""What stands before every route: API keys, the size of bodies, and pages of other sites."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from rung.errors import RungError
from rung.serve.faults import Fault, forbidden, unauthorised
from rung.serve.keys import Keys

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz"})
"""What needs no key: it says nothing but whether the server is there."""
PAGE = ("/", "/static/")
"""The page itself holds nothing; what it asks for needs the key that it's given."""
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Guard:
    """ASGI middleware. `keys` None: everybody on this machine may ask. `body_limit` is in bytes.

    `refused` is told the path and the status of what is refused before an answer was begun.
    """

    app: App
    keys: Keys | None
    body_limit: int
    hosts: frozenset[str] = LOCAL
    refused: Callable[[str, int], None] = lambda path, status: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        scope["state"] = {**scope.get("state", {})}
        send = self._watched(scope, send)
        try:
            self._admit(scope, headers)
            declared = headers.get("content-length", "0")
            if not declared.isdigit() or int(declared) > self.body_limit:
                raise Fault(status=413, message=_too_large(self.body_limit))
        except Fault as fault:
            await _refuse(fault, send)
            return
        try:
            await self.app(scope, _limited(receive, self.body_limit), send)
        except asyncio.CancelledError:
            # Only the end of the server, whose grace is over, breaks a request off. An answer that has begun
            # is cut there: the connection is closed.
            if not scope["state"].get("begun"):
                await _refuse(_stopping(), send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raise Fault for who may not ask. Notes in the scope whether the caller is an administrator."""
        path = scope["path"]
        if self.keys is None:
            self._same_site(headers)
            scope["state"]["admin"] = True
            return
        if path in OPEN or path == PAGE[0] or path.startswith(PAGE[1]):
            return
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise unauthorised("give an API key: Authorization: Bearer rung-…")
        try:
            key = self.keys.check(secret.strip())
        except RungError:
            # What is wrong with the file is for those who run the server, not for whoever asks.
            raise Fault(
                status=503, message="the server can't read its API keys", kind="server_error"
            ) from None
        if key is None:
            raise unauthorised("this API key isn't known here, or has expired")
        scope["state"]["admin"] = key.role == "admin"

    def _watched(self, scope: Scope, send: Send) -> Send:
        """`send`, which tells of refusals and notes in the scope that a response has begun."""

        async def watched(message: MutableMapping[str, Any]) -> None:
            scope["state"]["begun"] = True
            refused = message["type"] == "http.response.start" and message["status"] >= 400
            if refused and not scope["state"].get("counted"):
                self.refused(scope["path"], message["status"])
            await send(message)

        return watched

    def _same_site(self, headers: dict[str, str]) -> None:
        """Without keys, whoever reaches the port may ask: so a page of another site must not.

        The name it was called by keeps out sites whose name was made to mean this machine; the origin those
        that send a request across.
        """
        if _name(headers.get("host", "")) not in self.hosts:
            raise forbidden(
                f"called as {headers.get('host', '')[:100]!r}: without API keys this server answers to "
                f"{', '.join(sorted(self.hosts))} alone",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and _site(origin) != headers.get("host"):
            raise forbidden("a page of another site may not ask this server", "origin_not_allowed")


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _site(origin: str) -> str | None:
    """The host and port of an Origin header; None where there is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _limited(receive: Receive, limit: int) -> Receive:
    """The body as it comes, up to so many bytes: one that says nothing of its length may not be longer."""
    seen = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                # The one exception that FastAPI passes on from the reading of a body.
                raise HTTPException(413, _too_large(limit))
        return message

    return bounded


def _too_large(limit: int) -> str:
    return f"the request's body is larger than {limit:,} bytes; send less, or raise --body-limit"


def _stopping() -> Fault:
    return Fault(
        status=503,
        message="the server is stopping, and the time for what it had begun is over; ask again",
        kind="server_error",
        code="stopped",
        headers={"Retry-After": "1"},
    )


async def _refuse(fault: Fault, send: Send) -> None:
    body = json.dumps(fault.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **fault.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
