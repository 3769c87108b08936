"""Server-sent events: read from an engine, and written to a client."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Mapping]:
    """The JSON objects of a stream of `data:` lines, but for `[DONE]`."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield json.loads(line[6:])


def event(value: object) -> bytes:
    """One event with a JSON value."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
