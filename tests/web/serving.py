"""A real server in a process of its own, with small Systems, and a real browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rung.models import head as heads
from rung.models.resolve import resolve
from rung.spec import AnswerSpec, Spec, StepsSpec
from rung.system import System, ref_to, save
from tests.fixtures_climb import TOPICS, label_rows, make_tiny_gguf

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
"""A label that is markup, in the place of `login`."""
LABELS = (HOSTILE, "billing", "delivery")
START_S = 60


def small_systems(folder: Path) -> dict[str, Path]:
    """A head, a label System under llama.cpp, and the base model of the latter, by what they are."""
    rows = label_rows(60)
    targets = [row["output"] if row["output"] != "login" else HOSTILE for row in rows]
    head = heads.fit_tfidf(heads.counted([row["input"] for row in rows]), targets, 1.0, 0)
    assert head.labels == LABELS and len(TOPICS) == len(LABELS)
    gguf = make_tiny_gguf(folder / "tiny.gguf")
    fields = {"task": "topics", "kind": "label", "labels": LABELS}
    save(
        folder / "head",
        Spec(rung="head", engine="head", features="tfidf", **fields),
        heads.head_files(head),
    )
    prompt = Spec(
        rung="prompt",
        engine="llama",
        model=ref_to(resolve(str(gguf)), str(gguf)),
        instruction="Name the topic.",
        answer=AnswerSpec(form="words"),
        **fields,
    )
    save(folder / "prompt", prompt, {})
    return {"head": folder / "head", "prompt": folder / "prompt", "tiny": gguf}


def several_calls(folder: Path, system: Path) -> dict[str, Path]:
    """That label System with an answer of several calls: a label alone, and one with its probability."""
    steps = {
        "voted": StepsSpec(kind="think", samples=3, temperature=0.7, max_tokens=4, close="Now the answer."),
        "thought": StepsSpec(kind="think", max_tokens=4, close="Now the answer."),
    }
    spec = System.load(system).spec
    for name, made in steps.items():
        save(folder / name, spec.model_copy(update={"steps": made, "rung": "workflow"}), {})
    return {name: folder / name for name in steps}


@contextmanager
def serving(given: Sequence[str], home: Path) -> Iterator[str]:
    """`rung serve` on a free port; its address. `home` is where it finds the user's keys."""
    home.mkdir(exist_ok=True)
    log = home / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUNG_HOME": str(home)}
    command = [sys.executable, "-m", "rung", "serve", *given, "--port", "0", "--threads", "1", "--slots", "2"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=home
        )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                return
        pytest.fail(f"the server didn't start: {''.join(said)}{log.read_text()}")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def browsing() -> Iterator:
    """Chromium; skips where there is none."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed, nor Playwright's own")
        # Root has no sandbox, and containers often run as root.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
