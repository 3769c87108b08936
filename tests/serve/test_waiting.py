"""A hosted model that is long in answering: what else is served goes on, and the server ends in time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rung.hosted import hosted_ref
from rung.models.hosted import hosted
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, System, save
from tests.fixtures_hosted import KEY, MODEL, Hosted, as_asked
from tests.fixtures_serve import Server, eventually, make_head, said
from tests.serve.test_leaving import Client


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def folder(provider, tmp_path) -> Path:
    model = hosted(provider.name)
    assert model is not None
    form = AnswerSpec(form="free", max_tokens=16)
    spec = Spec(
        rung="api",
        task="loud",
        kind="text",
        engine="endpoint",
        model=hosted_ref(model, MODEL),
        answer=form,
    )
    save(tmp_path / "loud", spec, {})
    make_head(tmp_path / "desk")
    return tmp_path


def ask(server: Server, model: str):
    return server.post("/v1/chat/completions", json={"model": model, "messages": said("a parcel")})


def test_a_head_is_not_behind_a_hosted_model_and_what_is_asked_of_it_is_answered(provider, folder):
    provider.gate = threading.Event()
    systems = [f"loud={folder / 'loud'}", f"desk={folder / 'desk'}"]
    with Server(*systems, home=folder) as server, ThreadPoolExecutor(12) as callers:
        waiting = [callers.submit(ask, server, "loud") for _ in range(12)]
        eventually(lambda: len(provider.seen) == len(waiting))
        assert server.gauge("rung_running") == len(waiting)
        assert ask(server, "desk").status_code == 200
        # Nor is a System that is served no more broken off.
        assert server.delete("/v1/systems/loud").status_code == 200
        assert not any(one.done() for one in waiting)
        provider.gate.set()
        assert [one.result(20).status_code for one in waiting] == [200] * len(waiting)
        assert server.gauge("rung_running") == 0


def test_a_server_that_stops_waits_for_no_hosted_model_and_says_so_to_who_asked(provider, folder):
    provider.delay_s = 20.0
    with Server(f"loud={folder / 'loud'}", "--grace", "1s", home=folder) as server:
        with ThreadPoolExecutor(12) as callers:
            waiting = [callers.submit(ask, server, "loud") for _ in range(3)]
            eventually(lambda: len(provider.seen) == len(waiting))
            start = time.monotonic()
            assert server.stop(within_s=20) == 0
            assert time.monotonic() - start < 8
            found = [one.result(5) for one in waiting]
        assert [one.status_code for one in found] == [503] * 3
        assert {one.json()["error"]["code"] for one in found} == {"stopped"}
        assert server.lines[-1] == "stopped" and "Traceback" not in server.said


def test_what_nobody_waits_for_any_more_is_not_asked_for_again(provider, folder):
    """The time of one is over, the client of the other leaves; each call breaks after that, as one may."""
    provider.whole = lambda body: (200, 2.0, {})
    with Server(f"loud={folder / 'loud'}", "--request-limit", "1s", home=folder) as server:
        assert ask(server, "loud").status_code == 504
        eventually(lambda: server.gauge("rung_running") == 0)
        assert len(provider.seen) == 1
    with Server(f"loud={folder / 'loud'}", home=folder) as server:
        client = Client(server, "/v1/chat/completions", {"model": "loud", "messages": said("a parcel")})
        eventually(lambda: len(provider.seen) == 2)
        client.leave()
        eventually(lambda: server.gauge("rung_running") == 0)
        assert len(provider.seen) == 2


def test_threads_that_ask_for_a_hosted_model_at_once_have_one_engine(folder):
    system, together = System.load(folder / "loud"), threading.Barrier(8)

    def opened(pool: Pool):
        together.wait(10)
        return system.open(pool)

    with Pool(keep=None) as pool, ThreadPoolExecutor(8) as callers:
        found = list(callers.map(opened, [pool] * 8))
        assert all(one is found[0] for one in found) and list(pool.engines.values()) == found[:1]
