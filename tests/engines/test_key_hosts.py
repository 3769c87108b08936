"""To whom RUNG_API_KEY goes, over a real connection: 0.0.0.0 leads to this machine and isn't known as it."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import rung
from rung.cli.main import run
from rung.climb.hosted import named_hosts, till_for
from rung.climb.judge_cost import ready_to_pay
from rung.climb.options import Options
from rung.engines.endpoint import EndpointEngine
from rung.engines.key_hosts import is_meant_for, origin_of
from rung.engines.till import Till
from rung.errors import EngineError, TaskError
from rung.hosted import hosted_engine_spec, hosted_ref
from rung.models.hosted import hosted
from rung.records import TokenPrice
from rung.rungs.api import cannot_pay
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, save
from rung.task import Task
from rung.task.model import DataFiles, JudgeSpec
from tests.fixtures_hosted import KEY, MODEL, PRICES, Hosted

ROOT = Path(__file__).parents[2]
PRICE = TokenPrice(input_usd_per_m=1.0, output_usd_per_m=4.0, cached_input_usd_per_m=0.1)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.delenv("RUNG_API_HOST", raising=False)


@pytest.fixture
def server():
    with Hosted(lambda text, body: text.upper()) as found:
        yield found


@pytest.fixture
def away(server) -> str:
    """The server's URL by a host of which nobody knows that it is this machine."""
    return server.url.replace("127.0.0.1", "0.0.0.0")


def ask(url: str, till: Till | None = None) -> str:
    model = hosted(f"openai:oracle@{url}")
    assert model is not None
    with closing(EndpointEngine(hosted_engine_spec(model), till=till, attempts=1)) as engine:
        return engine.chat([("user", "hello")], max_tokens=8).text


def system(folder: Path, url: str) -> Path:
    model = hosted(f"openai:oracle@{url}")
    assert model is not None
    spec = Spec(
        rung="api",
        task="loud",
        kind="text",
        engine="endpoint",
        model=hosted_ref(model, MODEL),
        answer=AnswerSpec(form="free", max_tokens=16),
        instruction="Shout.",
    )
    return save(folder / "stranger", spec, {}).folder


def test_a_host_that_only_a_system_names_gets_neither_key_nor_question(server, away):
    port = httpx.URL(away).port
    said = rf"0\.0\.0\.0 isn't named .* set RUNG_API_HOST=http://0\.0\.0\.0:{port} if the key is for it"
    with pytest.raises(EngineError, match=said) as raised:
        ask(away)
    assert not server.seen and KEY not in str(raised.value)


def test_without_a_key_any_host_may_be_asked(server, away, monkeypatch):
    for value in ("", " "):
        monkeypatch.setenv("RUNG_API_KEY", value)
        assert ask(away) == "HELLO"
    assert server.keys == [None, None]


def test_this_machine_and_the_hosts_that_the_variable_names_are_sent_the_key(server, away, monkeypatch):
    assert ask(server.url) == "HELLO"
    assert ask(server.url.replace("127.0.0.1", "localhost")) == "HELLO"
    monkeypatch.setenv("RUNG_API_HOST", f"openrouter.ai, {away}")
    assert ask(away) == "HELLO"
    assert server.keys == [f"Bearer {KEY}"] * 3


def test_once_the_variable_names_a_host_all_others_are_asked_without_a_key(server, away, monkeypatch):
    monkeypatch.setenv("RUNG_API_HOST", "https://openrouter.ai")
    assert ask(away) == ask(server.url) == "HELLO"
    assert server.keys == [None, None]
    server.faults = [(401, {}, {})]
    with pytest.raises(EngineError, match="RUNG_API_KEY, which is for other hosts by RUNG_API_HOST"):
        ask(away)


def test_hosts_that_the_command_or_its_task_names_are_sent_the_key_until_the_variable_names_others(
    server, away, tmp_path, monkeypatch
):
    model = hosted(f"openai:oracle@{away}")
    assert model is not None
    till = Till(tmp_path / "paid.jsonl", 1.0, {(model.url, model.model): PRICE})
    with pytest.raises(EngineError, match="RUNG_API_HOST="):
        ask(away, till)
    assert ask(away, replace(till, named=frozenset([origin_of(away)]))) == "HELLO"
    monkeypatch.setenv("RUNG_API_HOST", "https://openrouter.ai")
    other = Till(tmp_path / "other.jsonl", 1.0, till.prices, named=frozenset([origin_of(away)]))
    assert ask(away, other) == "HELLO"
    assert server.keys == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://h.example/v1", "https://H.example:443/api", True),
        ("https://h.example", "http://h.example", False),
        ("https://h.example", "https://h.example:8443", False),
        ("https://h.example", "https://h.example.evil.example", False),
        ("https://bücher.example", "https://xn--bcher-kva.example/v1", True),
        ("http://[::1]:80", "http://[::1]", True),
    ],
)
def test_a_key_goes_where_scheme_host_and_port_are_the_same(monkeypatch, one, other, same):
    monkeypatch.setenv("RUNG_API_HOST", one)
    assert is_meant_for(httpx.URL(other)) == same
    assert (origin_of(one) == origin_of(other)) == same


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.9.9.9/v1", "http://[::1]:9/v1"])
def test_this_machine_is_known_by_its_addresses(url):
    assert is_meant_for(httpx.URL(url))


@pytest.mark.parametrize("url", ["http://localhost.example", "http://127.0.0.1.example", "http://10.0.0.1"])
def test_names_that_look_like_this_machine_are_others(url):
    with pytest.raises(EngineError, match="RUNG_API_HOST"):
        is_meant_for(httpx.URL(url))


@pytest.mark.parametrize("value", ["ftp://h", "https://me:sk-secret@h", "https://h:port", "https://"])
def test_hosts_that_cannot_be_read_are_told_without_showing_them(monkeypatch, value):
    monkeypatch.setenv("RUNG_API_HOST", value)
    with pytest.raises(EngineError, match="RUNG_API_HOST can't be read") as raised:
        is_meant_for(httpx.URL("https://h.example"))
    assert "sk-secret" not in str(raised.value)


def test_a_task_names_its_models_its_teacher_and_its_judge_and_not_what_a_system_names(tmp_path):
    stranger = system(tmp_path, "https://s.example/v1")
    task = Task(
        data=DataFiles(train=tmp_path / "rows.jsonl"),
        models=("smollm2-135m", "openai:a@https://a.example/v1"),
        teacher="openai:b@https://b.example:8000/v1",
        judge=JudgeSpec(model="openai:c@https://c.example/v1"),
        prices=PRICES,
        metric="judge",
    )
    found = {"https://a.example", "https://b.example:8000", "https://c.example"}
    assert named_hosts(task) == found
    till = till_for(task, Options(), tmp_path)
    assert till is not None and till.named == found
    taught = task.model_copy(update={"teacher": str(stranger), "judge": None, "metric": None})
    assert named_hosts(taught) == {"https://a.example"}
    till = till_for(taught, Options(), tmp_path)
    assert till is not None and ("https://s.example/v1", "oracle") in till.prices


def test_a_teacher_or_a_judge_of_a_strangers_host_is_not_begun_with(away, tmp_path, monkeypatch):
    model = hosted(f"openai:oracle@{away}")
    assert model is not None
    till = Till(path=tmp_path / "paid.jsonl", cap_usd=1.0, prices={(away, "oracle"): PRICE})
    context: Any = SimpleNamespace(pool=Pool(till=till))
    said = cannot_pay(context, model, lambda: 0.0)
    assert said is not None and "set RUNG_API_HOST=http://0.0.0.0:" in said
    with pytest.raises(TaskError, match="^judge.model: 0.0.0.0 isn't named"):
        ready_to_pay(model, context.pool)
    till.named = frozenset({origin_of(away)})
    assert cannot_pay(context, model, lambda: 0.0) is None
    ready_to_pay(model, context.pool)
    till.named = frozenset()
    monkeypatch.setenv("RUNG_API_HOST", away)
    assert cannot_pay(context, model, lambda: 0.0) is None
    ready_to_pay(model, context.pool)


def test_a_strangers_system_is_told_of_in_one_line_by_every_command_that_asks_it(
    server, away, tmp_path, monkeypatch, capsys
):
    folder = system(tmp_path, away)
    assert run(["ask", str(folder), "hello"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "set RUNG_API_HOST=http://0.0.0.0:" in said[1]
    done = subprocess.run(
        [sys.executable, "-m", "rung", "serve", str(folder), "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNG_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "set RUNG_API_HOST=http://0.0.0.0:" in done.stderr
    with rung.load(folder) as loaded, pytest.raises(EngineError, match="set RUNG_API_HOST="):
        loaded.ask("hello")
    assert not server.seen
    monkeypatch.setenv("RUNG_API_HOST", away)
    assert run(["ask", str(folder), "hello"]) == 0
    assert capsys.readouterr().out == "HELLO\n" and server.keys == [f"Bearer {KEY}"]
