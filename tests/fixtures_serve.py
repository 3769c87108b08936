"""`rung serve` as a process, the clients that ask it, and small Systems to be served."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from safetensors.numpy import save as save_tensors

from rung.models import head as heads
from rung.models.chat import load_chat
from rung.models.embed import Embedder
from rung.models.resolve import resolve
from rung.records import Example
from rung.spec import AnswerSpec, ShotSpec, Spec
from rung.system import SHOTS_FILE, VECTORS_FILE, System, ref_to, save
from tests.fixtures_climb import TOPICS, label_rows

ROOT = Path(__file__).parents[1]
LABELS = tuple(TOPICS)
SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"enum": list(TOPICS)},
        "urgent": {"type": "boolean"},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["topic", "urgent", "days"],
    "additionalProperties": False,
}
START_S = 60.0
RUNG = ("-m", "rung")


class Server(AbstractContextManager["Server"]):
    """A running `rung serve`. `lines` is what it has said so far, on standard output and standard error."""

    def __init__(
        self,
        *arguments: str,
        home: Path,
        threads: int = 1,
        wait: bool = True,
        program: Sequence[str] = RUNG,
    ) -> None:
        options = ("--port", "0", "--threads", str(threads))
        self.process = start(*arguments, *options, home=home, program=program)
        self.home = home
        self.lines: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.address = ""
        if wait:
            eventually(lambda: self._listening() or self.process.poll() is not None, within_s=START_S)
            assert self._listening(), f"the server did not start:\n{self.said}"

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    @cached_property
    def user(self) -> openai.OpenAI:
        """A client that lasts as long as the server."""
        return self.client()

    def client(self, **options: Any) -> openai.OpenAI:
        """The openai package's own client, as users have it, but for retries."""
        return openai.OpenAI(
            base_url=f"{self.address}/v1", **{"api_key": "none", "max_retries": 0, **options}
        )

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        options = {"api_key": "none", "max_retries": 0, **options}
        return openai.AsyncOpenAI(base_url=f"{self.address}/v1", **options)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client, for what openai's would never send."""
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def metrics(self) -> str:
        return self.get("/metrics").text

    def gauge(self, name: str) -> float:
        """A metric, summed over its labels. Raises KeyError where there is none of that name."""
        values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.metrics(), re.MULTILINE)
        if not values:
            raise KeyError(name)
        return sum(map(float, values))

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.http() as client:
            return client.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        with self.http() as client:
            return client.post(path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        with self.http() as client:
            return client.delete(path, **options)

    def children(self) -> list[psutil.Process]:
        """Its child processes, the engines."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 30) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.ended(within_s)

    def ended(self, within_s: float = 30) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(within_s)
        self._listener.join(5)
        return status

    def __exit__(self, *exc: object) -> None:
        if "user" in self.__dict__:
            self.user.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._listener.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listening(self) -> bool:
        found = re.search(r"listening on (http://\S+)/v1 ", self.said)
        self.address = found[1] if found else ""
        return found is not None

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


def start(*arguments: str, home: Path, program: Sequence[str] = RUNG) -> subprocess.Popen[str]:
    """`rung serve` with these arguments, standard error among its output. `program` is Python's `rung`."""
    return subprocess.Popen(
        [sys.executable, *program, "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RUNG_HOME": str(home), "NO_COLOR": "1"},
    )


@contextmanager
def also(server: Server, given: Mapping[str, Path]) -> Iterator[Server]:
    """A server that serves these too, by their names, until the block ends; then what it served before."""
    try:
        for name, path in given.items():
            made = server.post("/v1/systems", json={"system": str(path), "name": name})
            assert made.status_code == 201, made.text
        yield server
    finally:
        for name in given:
            server.delete(f"/v1/systems/{name}")


def eventually(true: Callable[[], Any], within_s: float = 10.0) -> Any:
    """What the call gives once that is true; AssertionError when it isn't in time."""
    end = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < end, f"not so within {within_s} s: {true}"
        time.sleep(0.05)
    return found


async def is_so(true: Callable[[], bool]) -> None:
    """Wait until it is, and let the event loop go on meanwhile."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.02)


def is_engine(child: psutil.Process) -> bool:
    """Whether a process is a child that llama.cpp answers in."""
    try:
        return any("llama_child" in part for part in child.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


def said(content: str, *before: tuple[str, str]) -> list[Any]:
    """A chat that ends with what the user says; `before` are (role, content)."""
    return [{"role": role, "content": text} for role, text in [*before, ("user", content)]]


def row(text: str, context: str | None = None) -> Example:
    return Example(id="row", input=text, output=None, context=context)


def make_head(folder: Path, *, task: str = "desk", seed: int = 0) -> System:
    """A linear head on TF-IDF: no language model, no sentence vectors."""
    rows = label_rows(60, seed)
    counts = heads.counted([r["input"] for r in rows])
    head = heads.fit_tfidf(counts, [r["output"] for r in rows], 1.0, seed)
    spec = Spec(
        rung="head", task=task, kind="label", labels=head.labels, engine="head", features=head.features
    )
    return save(folder, spec, heads.head_files(head))


def make_number_head(folder: Path, *, task: str = "worth") -> System:
    """A ridge regression on TF-IDF: how many letters a text has."""
    texts = [r["input"] for r in label_rows(60)]
    head = heads.fit_ridge("tfidf", heads.counted(texts), None, [float(len(text)) for text in texts], 1.0)
    spec = Spec(rung="head", task=task, kind="number", engine="head", features="tfidf")
    return save(folder, spec, heads.head_files(head))


def make_systems(folder: Path, given: str) -> dict[str, System]:
    """A System of each form of answer on a model, which is named as `resolve` takes it."""
    model = resolve(given)
    chat = load_chat(model)
    base = {"engine": "llama", "model": ref_to(model, given)}
    told = {**base, "instruction": "Help with the message."}
    codes = tuple(dict.fromkeys(chat.answer_ids(text, "terse")[0] for text in "ABCDEFGH"))
    specs = {
        "codes": Spec(
            rung="sft",
            task="codes",
            kind="label",
            labels=LABELS,
            style="terse",
            answer=AnswerSpec(form="codes", codes=codes[: len(LABELS)]),
            **base,
        ),
        "words": Spec(
            rung="prompt", task="words", kind="label", labels=LABELS, answer=AnswerSpec(form="words"), **told
        ),
        "json": Spec(
            rung="prompt",
            task="json",
            kind="json",
            schema_=SCHEMA,
            answer=AnswerSpec(form="schema", max_tokens=64),
            **told,
        ),
        "text": Spec(
            rung="prompt", task="text", kind="text", answer=AnswerSpec(form="free", max_tokens=24), **told
        ),
    }
    return {name: save(folder / name, spec, {}) for name, spec in specs.items()}


def make_nearest(folder: Path, system: System) -> System:
    """The same System with the examples in its prompt that are the nearest neighbours of each input."""
    rows = label_rows(12)
    embedder = Embedder()
    vectors = embedder.embed([r["input"] for r in rows])
    spec = system.spec.model_copy(
        update={"shots": ShotSpec(choice="nearest", k=2), "vectors": ref_to(embedder.model, "minilm-l6")}
    )
    shots = "".join(json.dumps(r) + "\n" for r in rows)
    return save(folder, spec, {SHOTS_FILE: shots, VECTORS_FILE: save_tensors({"vectors": vectors})})


async def gathered(calls: Sequence[Any]) -> list[Any]:
    """What calls at the same time give, exceptions among them."""
    return await asyncio.gather(*calls, return_exceptions=True)
