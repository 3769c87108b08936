"""An HTTP server on this machine that takes JSON and answers what a test has it say."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = tuple[int, Any, dict[str, str]]
"""Status, body and headers of one answer. A body is JSON, text as it is, or seconds to wait for none."""


class Posted(AbstractContextManager["Posted"]):
    """Answers each body with what `answer` makes of it and its path, and keeps what it was sent.

    `keys` are the authorisations; `most_in_flight` is how many were asked at once, each for `delay_s`, and
    until the `gate` is set where there is one.
    """

    def __init__(self, answer: Callable[[dict, str], Said]) -> None:
        self.seen: list[dict] = []
        self.keys: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.delay_s = 0.0
        self.gate: threading.Event | None = None
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or a body waits 40 ms for its head to be acknowledged

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    server.in_flight += 1
                    server.most_in_flight = max(server.most_in_flight, server.in_flight)
                    server.keys.append(self.headers.get("authorization"))
                    server.seen.append(body)
                    status, said, headers = answer(body, self.path)
                time.sleep(said if isinstance(said, float) else server.delay_s)
                if server.gate is not None:
                    server.gate.wait(60)
                with lock:
                    server.in_flight -= 1
                if isinstance(said, float):
                    self.close_connection = True
                else:
                    self.reply(status, said, headers)

            def reply(self, status: int, said: Any, headers: dict[str, str]) -> None:
                payload = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
