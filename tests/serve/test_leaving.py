"""Clients that go away before they are answered, and engines that die while they answer."""

import asyncio
import json
import os
import signal
import socket
import time

import httpx
import pytest

from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import Server, eventually, gathered, said

LONG = said("Tell me a long story about a parcel that was lost.")
SOON_S = 4.0


class Client:
    """A raw connection with one request on it, which can be dropped at any moment."""

    def __init__(self, server, path, body):
        host, _, port = server.address.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        data = json.dumps(body).encode()
        self.socket.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )

    def read(self, size):
        """At least so many bytes of the response."""
        found = b""
        while len(found) < size:
            piece = self.socket.recv(4096)
            assert piece, "the server closed first"
            found += piece
        return found

    def leave(self):
        self.socket.close()


def running(server):
    return server.gauge("rung_running") + server.gauge("rung_waiting")


def cpu_s(server):
    """Seconds of processor time that its engines have used."""
    return sum(sum(child.cpu_times()[:2]) for child in server.children())


def is_idle_soon(server):
    """The slots are free and the engine works no more."""
    eventually(lambda: running(server) == 0, within_s=SOON_S)

    def rests():
        before = cpu_s(server)
        time.sleep(0.3)
        return cpu_s(server) - before < 0.1

    eventually(rests, within_s=SOON_S)


CHAT = {"model": "base", "messages": LONG, "max_tokens": 1800, "temperature": 1, "seed": 1}
TEXT = {"model": "base", "prompt": "Once upon a time", "max_tokens": 1800, "temperature": 1, "seed": 1}


@pytest.mark.models
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "stream": True, "n": 6}),
        ("/v1/completions", {**TEXT, "stream": True, "prompt": ["Once", "Twice"] * 4}),
    ],
)
def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_slots(real, path, body):
    client = Client(real, path, body)
    assert b"data: " in client.read(1500)
    assert running(real) >= 1
    client.leave()
    is_idle_soon(real)


@pytest.mark.models
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "n": 6}),
        ("/v1/completions", {**TEXT, "prompt": ["Once", "Twice"] * 4}),
        (
            "/v1/chat/completions",
            {
                **CHAT,
                "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string"}}},
            },
        ),
    ],
)
def test_a_client_that_leaves_before_its_answer_frees_its_slots(real, path, body):
    client = Client(real, path, body)
    eventually(lambda: running(real) >= 1)
    client.leave()
    is_idle_soon(real)
    assert 'status="499"' in real.get("/metrics").text


@pytest.mark.models
def test_a_client_that_leaves_frees_its_slot_while_others_are_answered(real):
    """llama.cpp looks whether somebody still waits for a whole answer only when nothing else happens."""
    (engine,) = real.children()
    staying = Client(real, "/v1/chat/completions", {**CHAT, "stream": True})
    staying.read(1000)
    leaving = Client(real, "/v1/chat/completions", {**CHAT, "seed": 2})
    eventually(lambda: running(real) == 2)
    leaving.leave()
    eventually(lambda: running(real) == 1, within_s=SOON_S)
    eventually(lambda: [c.status for c in engine.net_connections()].count("CLOSE_WAIT") == 0, within_s=SOON_S)
    assert running(real) == 1, "the other one was over too soon to show anything"
    staying.leave()
    is_idle_soon(real)


@pytest.mark.models
def test_those_who_stay_are_answered_while_others_leave(real):
    leaving = [
        Client(real, "/v1/chat/completions", {**CHAT, "stream": place % 2 == 0}) for place in range(12)
    ]
    eventually(lambda: real.gauge("rung_waiting") >= 8)

    async def stay():
        async with real.async_client() as client:
            asked = [
                asyncio.ensure_future(
                    client.chat.completions.create(model=model, messages=LONG, max_tokens=5)
                )
                for model in ("base", "words", "text", "codes")
            ]
            await asyncio.sleep(0.3)
            for one in leaving:
                one.leave()
            return await asyncio.wait_for(gathered(asked), 60)

    assert all(found.choices for found in asyncio.run(stay()))
    is_idle_soon(real)


def test_a_client_that_leaves_while_it_still_sends_harms_nothing(tiny):
    host, _, port = tiny.address.removeprefix("http://").partition(":")
    for part in (b"", b"{", b'{"model": "base"'):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
                "Content-Type: application/json\r\nContent-Length: 500\r\n\r\n".encode()
                + part
            )
    assert tiny.user.chat.completions.create(model="desk", messages=LONG).choices
    assert "Traceback" not in tiny.said


@pytest.fixture(scope="module")
def mortal(tmp_path_factory, tiny_systems):
    """A server on a real model whose engine is killed."""
    home = tmp_path_factory.mktemp("home")
    with Server("base=smollm2-135m", f"desk={tiny_systems['desk'].folder}", home=home) as server:
        yield server


def kill_child(server):
    (child,) = server.children()
    os.kill(child.pid, signal.SIGKILL)
    return child.pid


@pytest.mark.models
def test_every_request_is_answered_though_the_engine_is_killed(mortal):
    options = {"model": "base", "messages": LONG, "max_tokens": 16}

    async def whole(client, place):
        found = await client.chat.completions.create(**options, seed=place, temperature=place % 2)
        return found.choices[0].message.content

    async def streamed(client, place):
        chunks = await client.chat.completions.create(
            **options, seed=place, temperature=place % 2, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def ask_and_kill():
        async with mortal.async_client() as client:
            asked = [
                asyncio.ensure_future((streamed if place % 3 == 0 else whole)(client, place))
                for place in range(16)
            ]
            await asyncio.to_thread(eventually, lambda: running(mortal) == 16)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(kill_child, mortal)
            assert not all(one.done() for one in asked), "all were answered before"
            return await asyncio.wait_for(gathered(asked), 60)

    before = mortal.gauge("rung_restarts_total")
    found = asyncio.run(ask_and_kill())
    assert [type(text) for text in found] == [str] * 16 and all(found)
    assert mortal.gauge("rung_restarts_total") == before + 1
    assert mortal.get("/readyz").status_code == 200


@pytest.mark.models
def test_an_engine_that_dies_while_nobody_asks_comes_back(mortal):
    pid = kill_child(mortal)
    statuses = set()

    def is_back():
        statuses.add(mortal.get("/readyz").status_code)
        return [child.pid for child in mortal.children()] not in ([], [pid]) and 200 in statuses

    eventually(is_back, within_s=20)
    eventually(lambda: mortal.get("/readyz").status_code == 200)
    assert mortal.user.chat.completions.create(model="base", messages=LONG, max_tokens=3).choices


@pytest.mark.models
def test_while_an_engine_is_down_the_server_says_that_it_isnt_ready(mortal):
    seen = []
    kill_child(mortal)
    with mortal.http() as client:
        end = time.monotonic() + 20
        while time.monotonic() < end and (not seen or seen[-1].status_code == 200 and len(seen) < 40):
            seen.append(client.get("/readyz"))
            time.sleep(0.02)
        assert any(one.status_code == 503 for one in seen)
        down = next(one for one in seen if one.status_code == 503)
        assert down.json() == {"status": "not ready", "waiting_for": ["base"]}
        eventually(lambda: client.get("/readyz").status_code == 200, within_s=20)
        assert client.get("/healthz").status_code == 200


def test_an_engine_that_cant_start_again_is_said_and_other_systems_answer(tmp_path, tiny_systems):
    gguf = make_tiny_gguf(tmp_path / "copy.gguf")
    with Server(f"base={gguf}", f"desk={tiny_systems['desk'].folder}", home=tmp_path) as server:
        gguf.unlink()
        kill_child(server)
        body = {"model": "base", "messages": LONG, "max_tokens": 3}
        eventually(lambda: server.get("/readyz").status_code == 503, within_s=10)
        response = server.post("/v1/chat/completions", json=body)
        assert response.status_code == 503
        error = response.json()["error"]
        assert error["code"] == "engine_failed" and "retry-after" in response.headers
        streamed = server.post("/v1/chat/completions", json={**body, "stream": True})
        assert streamed.status_code == 503
        desk = server.post("/v1/chat/completions", json={"model": "desk", "messages": LONG})
        assert desk.status_code == 200 and server.get("/healthz").status_code == 200


def test_a_connection_that_breaks_is_not_in_the_log(tiny):
    with pytest.raises(httpx.ReadTimeout):
        tiny.post(
            "/v1/chat/completions",
            json={"model": "base", "messages": LONG, "n": 16, "temperature": 1, "max_tokens": 400},
            timeout=httpx.Timeout(10, read=0.05),
        )
    eventually(lambda: running(tiny) == 0)
    assert "Traceback" not in tiny.said and "Exception" not in tiny.said
