"""Starting and stopping `rung serve`, as a process with arguments, signals and an exit status."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from rung.cli import main
from rung.serve import run as module
from rung.serve.keys import add_key, remove_key
from rung.serve.run import is_loopback
from rung.system import save
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import ROOT, Server, eventually, gathered, said, start

HELLO = said("my invoice is late")


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Start a server that doesn't start: the one line that it says then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")

    def serves(number, frame):
        raise AssertionError("it serves")

    def line(*arguments):
        before = signal.signal(signal.SIGALRM, serves)
        signal.alarm(30)
        try:
            status = main.run(("serve", *arguments))
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        told = capfd.readouterr().err
        assert status == 2 and told.startswith("error: ") and told.count("\n") == 1, told
        return told

    return line


@pytest.mark.parametrize("host", ("0.0.0.0", "192.0.2.1", "::", "example.org"))
def test_other_machines_are_let_in_with_keys_alone(refused, tiny_systems, host):
    line = refused(str(tiny_systems["desk"].folder), "--host", host)
    assert f"--host {host!r}" in line and "rung keys add" in line


def test_an_address_is_this_machines_own_or_not():
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example")))


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tmp_path, tiny_systems):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with start(str(tiny_systems["desk"].folder), "--port", port, home=tmp_path) as process:
            line, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert f"127.0.0.1:{port}" in line and "in use" in line and "--port" in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere",), "nowhere"),
        ((), "nothing to serve"),
        (("a b=nowhere",), "'a b'"),
        (("minilm-l7",), "minilm-l7"),
        (("DESK", "--port", "70000"), "70000"),
        (("DESK", "--slots", "0"), "--slots"),
        (("DESK", "--queue", "-1"), "--queue"),
        (("DESK", "--request-limit", "soon"), "--request-limit"),
        (("DESK", "--keys", "no-such-file"), "no-such-file"),
        (("DESK", "--colour", "red"), "--colour"),
    ],
)
def test_what_cant_be_served_is_said_in_one_line(refused, tiny_systems, arguments, word):
    desk = str(tiny_systems["desk"].folder)
    assert word in refused(*(desk if a == "DESK" else a for a in arguments))


def test_a_damaged_system_or_model_is_said_in_one_line(refused, tmp_path, tiny_systems):
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + b"\x00" * 100)
    assert "broken.gguf" in refused(str(model))
    folder = tmp_path / "system"
    folder.mkdir()
    (folder / "system.json").write_text("{")
    assert "system.json" in refused(str(folder))
    whole = make_tiny_gguf(tmp_path / "cut.gguf")
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    assert "cut.gguf" in refused(str(whole))
    keys = tmp_path / "keys.json"
    keys.write_text("{")
    assert "keys.json" in refused(str(tiny_systems["desk"].folder), "--keys", str(keys))


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_server_that_is_stopped_answers_what_it_has_and_leaves_nothing_behind(
    tmp_path, tiny_gguf, tiny_systems, number
):
    with Server(f"desk={tiny_systems['desk'].folder}", f"base={tiny_gguf}", home=tmp_path) as server:
        children = server.children()
        assert children

        async def ask_and_stop():
            async with server.async_client() as client:

                async def streamed(seed):
                    chunks = await client.chat.completions.create(
                        model="base",
                        messages=HELLO,
                        n=8,
                        temperature=1,
                        seed=seed,
                        max_tokens=400,
                        stream=True,
                    )
                    return [c.choices[0].finish_reason async for c in chunks if c.choices[0].finish_reason]

                async def whole(seed):
                    found = await client.chat.completions.create(
                        model="base", messages=HELLO, n=8, temperature=1, seed=seed, max_tokens=400
                    )
                    return [choice.finish_reason for choice in found.choices]

                asked = [asyncio.ensure_future(ask(s)) for s in range(2) for ask in (streamed, whole)]
                busy = lambda: server.gauge("rung_running") + server.gauge("rung_waiting") > 15  # noqa: E731
                await asyncio.to_thread(eventually, busy)
                server.process.send_signal(number)
                return await gathered(asked)

        found = asyncio.run(ask_and_stop())
        assert [len(reasons) for reasons in found] == [8] * 4
        assert server.ended() == 0
        assert server.lines[-1] == "stopped" and "Traceback" not in server.said
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_what_isnt_done_in_time_is_broken_off_when_the_server_stops(tmp_path):
    gguf = make_tiny_gguf(tmp_path / "long.gguf", context=2048)
    with Server(f"base={gguf}", "--grace", "1s", "--slots", "1", home=tmp_path) as server:
        children = server.children()

        async def ask_and_stop():
            async with server.async_client() as client:
                asked = [
                    asyncio.ensure_future(
                        client.chat.completions.create(
                            model="base", messages=HELLO, n=16, temperature=1, seed=seed, max_tokens=1900
                        )
                    )
                    for seed in range(12)
                ]
                await asyncio.to_thread(eventually, lambda: server.gauge("rung_waiting") > 150)
                server.process.send_signal(signal.SIGTERM)
                return await gathered(asked)

        start = time.monotonic()
        found = asyncio.run(ask_and_stop())
        assert any(isinstance(one, Exception) for one in found)
        assert server.ended() == 0 and time.monotonic() - start < 10
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_where_llama_cpp_alone_answers_the_server_loads_no_torch_nor_scikit_learn(tmp_path, tiny_gguf):
    with Server(f"base={tiny_gguf}", home=tmp_path) as server:
        found = server.user.chat.completions.create(model="base", messages=HELLO, max_tokens=4)
        assert found.usage is not None and found.usage.completion_tokens > 0
        loaded = [one.path for one in psutil.Process(server.process.pid).memory_maps()]
    assert any("/numpy/" in path for path in loaded)
    assert [path for path in loaded if re.search(r"/(torch|sklearn|scipy|pandas|pyarrow)/", path)] == []


def test_a_server_that_is_stopped_while_it_loads_ends_at_once(tmp_path, tiny_gguf):
    for number in (signal.SIGTERM, signal.SIGINT):
        names = [f"m{n}={tiny_gguf}" for n in range(60)]
        with Server(*names, home=tmp_path, wait=False) as server:
            eventually(lambda server=server: server.lines, within_s=30)
            assert server.stop(number, within_s=15) == 0
            assert server.lines[-1] == "stopped" and len(server.lines) < len(names) + 2
            assert "Traceback" not in server.said


FETCHING = """
import time
from concurrent.futures import ThreadPoolExecutor
from rung.cli.main import main
from rung.serve import bare, systems

def resolve(given):
    print("fetching", flush=True)
    return ThreadPoolExecutor(1).submit(time.sleep, 60).result()

bare.resolve = systems.resolve = resolve
main()
"""
"""A server whose models are long in coming, by threads such as the hub's library has."""


@pytest.mark.parametrize("given", ("hf:somebody/large", "minilm-l6"))
def test_a_server_that_is_stopped_while_it_fetches_a_model_ends_at_once(tmp_path, given):
    with subprocess.Popen(
        [sys.executable, "-c", FETCHING, "serve", given, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNG_HOME": str(tmp_path), "NO_COLOR": "1"},
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "fetching\n"
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate(timeout=15)
        finally:
            process.kill()
    assert (process.returncode, told) == (0, "stopped\n")


STARTING = """
import time
from types import SimpleNamespace
from rung.cli.main import main
from rung.engines import llama_process, torch

def load_model(*given, **named):
    print("loading", flush=True)
    time.sleep(60)

begun = llama_process._begun

def tell():
    made = begun()
    print("loading", flush=True)
    return made

torch.load_model, llama_process._begun = load_model, tell
llama_process.llama_child = SimpleNamespace(__file__="silent.py")
main()
"""
"""A server whose weights are long in loading, by llama.cpp and by torch."""


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
@pytest.mark.parametrize("engine", ("llama", "torch"))
def test_a_server_that_is_stopped_while_weights_are_loaded_ends_at_once(
    tmp_path, tiny_systems, engine, number
):
    (tmp_path / "silent.py").write_text("import time\ntime.sleep(60)\n")
    spec = tiny_systems["words"].spec.model_copy(update={"engine": engine})
    slow = save(tmp_path / "slow", spec, {})
    program = ("-c", STARTING)
    with Server(str(slow.folder), home=tmp_path, wait=False, program=program) as server:
        eventually(lambda: "loading" in server.lines, within_s=60)
        children = server.children()
        assert server.stop(number, within_s=15) == 0
        assert server.lines[-2:] == ["loading", "stopped"]
    assert not psutil.wait_procs(children, timeout=5)[1]


class Tagged:
    def __init__(self, tag: str | None):
        self.tag = tag


class Breaking:
    """Systems of which one is long in loading, and whose memory nobody knows at first."""

    def __init__(self):
        self.served = [Tagged("slow"), Tagged(None), Tagged("desk")]
        self.rounds, self.asked, self.broken_off = 0, [], False

    def __iter__(self):
        return iter(list(self.served))

    async def tidy(self) -> None:
        self.rounds += 1
        if self.rounds < 3:
            raise RuntimeError("nobody tells the memory")

    async def follow(self, served: Tagged) -> str | None:
        self.asked.append(served.tag)
        if served.tag == "slow":
            try:
                await asyncio.Event().wait()
            finally:
                self.broken_off = True
        return "desk was tagged anew" if self.asked.count("desk") == 2 else None


def test_tags_are_followed_and_memory_is_kept_though_something_broke_once_or_is_long_in_loading(monkeypatch):
    monkeypatch.setattr(module, "TAGS_S", 0.01)
    lines: list[str] = []
    systems = Breaking()

    async def run() -> None:
        follows = asyncio.ensure_future(module._follow(systems, lines.append))
        async with asyncio.timeout(10):
            while systems.rounds < 5 or systems.asked.count("desk") < 5:
                await asyncio.sleep(0.01)
        assert not systems.broken_off
        follows.cancel()
        await asyncio.gather(follows, return_exceptions=True)

    asyncio.run(run())
    assert sorted(lines) == [
        "desk was tagged anew",
        "memory isn't kept to the limit for now: RuntimeError('nobody tells the memory'); it is tried again",
    ]
    assert systems.asked.count("slow") == 1 and systems.broken_off
    assert None not in systems.asked


def test_while_requests_are_finished_the_server_takes_no_new_ones(tmp_path):
    gguf = make_tiny_gguf(tmp_path / "long.gguf", context=2048)
    with Server(f"base={gguf}", "--slots", "1", home=tmp_path) as server:
        with server.http() as kept:
            assert kept.get("/readyz").json() == {"status": "ready", "waiting_for": []}

            async def ask_and_stop():
                async with server.async_client() as client:
                    asked = asyncio.ensure_future(
                        client.chat.completions.create(
                            model="base", messages=HELLO, n=16, temperature=1, seed=1, max_tokens=1900
                        )
                    )
                    await asyncio.to_thread(eventually, lambda: server.gauge("rung_waiting") > 5)
                    server.process.send_signal(signal.SIGTERM)

                    def closed():
                        try:
                            socket.create_connection(
                                ("127.0.0.1", int(server.address.rpartition(":")[2]))
                            ).close()
                        except ConnectionRefusedError:
                            return True
                        return False

                    await asyncio.to_thread(eventually, closed)
                    return await asked

            assert len(asyncio.run(ask_and_stop()).choices) == 16
        assert server.ended() == 0


def test_a_file_of_keys_from_which_the_last_was_taken_asks_for_none(refused, tmp_path, tiny_systems):
    add_key(tmp_path / "keys.json", "ci")
    remove_key(tmp_path / "keys.json", "ci")
    with Server(str(tiny_systems["desk"].folder), home=tmp_path) as server:
        assert "for this machine alone" in server.said and server.get("/v1/models").status_code == 200
    line = refused(str(tiny_systems["desk"].folder), "--host", "0.0.0.0")
    assert "rung keys add" in line


@pytest.mark.parametrize("option", ["--context", "--threads", "--memory-mb"])
def test_a_size_that_cant_be_is_refused(refused, tiny_systems, option):
    assert option in refused(str(tiny_systems["desk"].folder), option, "-5")
