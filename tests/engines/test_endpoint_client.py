"""The connections to an endpoint: when they are closed, and how long an answer may take to come."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rung.engines.base import EngineSpec
from rung.engines.endpoint import EndpointEngine
from rung.errors import EngineError
from tests.engines.test_endpoint import ASK, KEY, Server, reply
from tests.fixtures_serve import eventually


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def started(url: str, *, limit_s: float = 5.0) -> EndpointEngine:
    spec = EngineSpec(engine="endpoint", url=url, model="tiny", parallel=3)
    return EndpointEngine(spec, request_limit_s=limit_s, attempts=1)


def test_connections_on_which_a_thread_waits_are_not_closed_under_it():
    # A socket's number may be another file's by then, and what comes there be taken for the answer.
    with Server() as server, ThreadPoolExecutor(1) as caller:
        server.gate = threading.Event()
        engine = started(server.url)
        waiting = caller.submit(engine.chat_many, [ASK] * 2, max_tokens=9)
        eventually(lambda: server.in_flight == 2)
        engine.close()
        assert not engine._client._client.is_closed
        with pytest.raises(EngineError, match="was closed"):
            engine.chat(ASK, max_tokens=9)
        server.gate.set()
        assert [answer.text for answer in waiting.result(5)] == ["fine"] * 2
        assert engine._client._client.is_closed and len(server.seen) == 2


def test_connections_that_nobody_uses_are_closed_at_once():
    with Server() as server:
        engine = started(server.url)
        assert engine.chat(ASK, max_tokens=9).text == "fine" and not engine._client._client.is_closed
        engine.close()
        assert engine._client._client.is_closed


def test_a_call_that_begins_while_the_engine_is_closed_is_not_sent():
    with Server() as server:
        engine = started(server.url)
        with ThreadPoolExecutor(1) as caller:
            server.gate = threading.Event()
            waiting = caller.submit(engine.chat_many, [ASK] * 9, max_tokens=9)
            eventually(lambda: server.in_flight == 3)
            engine.close()
            server.gate.set()
            found = waiting.result(5)
        assert [answer.text for answer in found if answer.failure is None] == ["fine"] * 3
        assert all("closed" in answer.failure for answer in found if answer.failure is not None)
        assert len(server.seen) == 3 and engine._client._client.is_closed


@contextmanager
def trickling(answer: bytes, *, blank_s: float, blanks: int) -> Iterator[str]:
    """The URL of a server that sends so many blank lines, one at a time, and the answer behind them."""

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            try:
                for _ in range(blanks):
                    self.wfile.write(b"\n")
                    time.sleep(blank_s)
                self.wfile.write(answer)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_an_answer_that_trickles_in_is_over_at_the_limit_of_a_request():
    with trickling(b"", blank_s=0.05, blanks=400) as url, closing(started(url, limit_s=0.3)) as engine:
        begin = time.monotonic()
        answer = engine.chat(ASK, max_tokens=9)
        assert answer.failure is not None and "no answer within 0.3 s" in answer.failure
        assert time.monotonic() - begin < 5


def test_an_answer_behind_blank_lines_that_is_whole_in_time_is_read():
    whole = json.dumps(reply("fine")).encode()
    with trickling(whole, blank_s=0.01, blanks=9) as url, closing(started(url)) as engine:
        answer = engine.chat(ASK, max_tokens=9)
        assert (answer.text, answer.failure, answer.prompt_tokens) == ("fine", None, 11)
