"""The connections to one endpoint: within what time a request is answered, and who closes them."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from rung.engines.work import Refused, is_wanted
from rung.records import Json

MOST_LIMITS = 5
"""An answer that comes in pieces may take so many times as long as a server may say nothing: where it sends
blank lines while it works, what it was paid to think is read."""


class Client:
    """Posts to an endpoint, for several threads. A server that says nothing has `limit_s`."""

    def __init__(self, limit_s: float):
        self._limit_s = limit_s
        self._client = httpx.Client(timeout=limit_s)
        self._lock, self._asking, self._over = threading.Lock(), 0, False

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Within it the connections stay, whoever closes them."""
        self._changed(1)
        try:
            yield
        finally:
            self._changed(-1)

    def post(self, url: httpx.URL, body: Mapping[str, Json], headers: Mapping[str, str]) -> httpx.Response:
        """What the server says, whole. Raises httpx.TransportError, Refused where nobody waits for it."""
        if not is_wanted():
            raise Refused("nobody waits for the answer any more")
        late_at = time.monotonic() + MOST_LIMITS * self._limit_s
        chunks: list[bytes] = []
        with self._client.stream("POST", url, json=body, headers=headers) as response:
            # Each read has the limit to itself: what trickles in, as a proxy's blank lines do, has no end.
            for chunk in response.iter_raw():
                chunks.append(chunk)
                if time.monotonic() > late_at:
                    raise httpx.ReadTimeout("the answer is not whole in time", request=response.request)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=b"".join(chunks),
            request=response.request,
        )

    def close(self) -> None:
        """Have whoever is the last to ask close the connections; now where nobody does.

        Not under a thread that reads from one: that one would go on reading from its socket's number, which
        by then may be another file's.
        """
        self._over = True
        self._changed(0)

    def _changed(self, asking: int) -> None:
        with self._lock:
            self._asking += asking
            last = self._over and not self._asking
        if last:
            self._client.close()
