"""A climb that is killed at any moment goes on where it was and ends as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung.cli.main import run
from rung.climb.climb import load_climb
from rung.records import Climb
from rung.rungs.batching import batch_size
from rung.training.methods import METHODS
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, os, re, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import sklearn.linear_model, torch, transformers.models.llama.modeling_llama
from rung.climb.climb import Options, climb
from rung.guards import forgetting
from rung.rungs import length, seeds, tuning

items = forgetting.general_items()
forgetting.general_items, forgetting.spread_items = (lambda: items[::15]), (lambda: items[::30])
tuning.MOST_EPOCHS, length.FEWEST_TRIAL_STEPS, seeds.CLOSE = 5, 10, 0

class Log:
    def note(self, text):
        global left
        with open(log, "a") as file:
            file.write(text + "\\n")
        if moment and re.search(moment, text):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), 9)
    def say(self, text):
        self.note("say " + text)
    def begin(self, what, total, done=0):
        self.note("begin " + what)
        return what
    def advance(self, handle, done, extra=""):
        self.note(f"advance {handle} {done}")
    def end(self, handle):
        self.note(f"end {handle}")

for line in sys.stdin:
    if (child := os.fork()) == 0:
        break
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    sys.exit()
signal.alarm(200)
data, model, run, log, moment, left = json.loads(line)
options = Options(models=(model,), out=Path(run), rungs=("prompt", "sft"), budget_s=900, dev_rows=60)
climb(Path(data), options, Log())
"""
"""Each line it's given is a climb, in a process of its own that begins where the packages are imported."""

_, SURE, HIGH = METHODS["lora"].rates_for(batch_size(162))
MOMENTS = [
    ("begin strict instruction", 1),
    (rf"advance sft: codes, rate {SURE:g} 2$", 1),
    (rf"advance sft: codes, rate {HIGH:g} \d+$", 9),
    ("say sft: about", 1),
    ("begin sft: .* on 54 dev rows", 2),
    (r"advance sft: \w+, rate \S+ \d+$", 70),
    ("begin sft, all dev rows", 1),
    ("begin sft on 162 training rows", 1),
    ("begin base and tune read", 1),
    ("begin the tune on 20 general items", 1),
    ("begin sft on 54 test rows", 1),
]
"""What is about to happen, and at which time that it does, when the process is killed."""


@dataclass(frozen=True)
class Place:
    """A folder with a task and a model, where climbs run in processes of their own."""

    folder: Path
    data: Path
    model: Path
    driver: subprocess.Popen[str]

    def drive(self, run: str, moment: str = "", count: int = 1) -> tuple[int, list[str]]:
        """Climb until the moment; the exit status and what the reporter was told."""
        log = self.folder / f"{run}.log"
        log.unlink(missing_ok=True)
        place = [self.data, self.model, self.folder / run, log]
        assert self.driver.stdin is not None and self.driver.stdout is not None
        print(json.dumps([*map(str, place), moment, count]), file=self.driver.stdin, flush=True)
        status = self.driver.stdout.readline().strip()
        assert status in ("0", str(-signal.SIGKILL)), (self.folder / "stderr").read_text()
        return int(status), log.read_text().splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory, no_weights) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("resume")
    data = write_rows(folder / "topics.jsonl", label_rows(270))
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(ROOT)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RUNG_CACHE": str(no_weights)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as driver,
    ):
        yield Place(folder=folder, data=data, model=make_tiny_gguf(folder / "tiny.gguf"), driver=driver)


@pytest.fixture(scope="module")
def whole(place) -> Climb:
    """A climb that nobody interrupted."""
    status, _ = place.drive("whole")
    assert status == 0
    found = load_climb(place.folder / "whole")
    assert [r.failed for r in found.results] == [None, None]
    return found


def prepare(place: Place, run: str) -> None:
    """A run in which the clock has spoken as in the whole one: the faster engine, and the time to tune."""
    for rung in ("prompt", "sft"):
        folder = place.folder / run / "rungs" / rung
        folder.mkdir(parents=True)
        told = (
            (place.folder / "whole" / "rungs" / rung / "settled.jsonl").read_text().splitlines(keepends=True)
        )
        # A tune's own first steps are what it's foretold by.
        kept = [line for line in told if rung != "sft" or json.loads(line)["question"] != "forecast"]
        (folder / "settled.jsonl").write_text("".join(kept))
    shutil.copy(place.folder / "whole" / "run.json", place.folder / run)


def outcome(climb: Climb):
    """All that a climb found out but times, memory and money."""
    found: list = [climb.decision, climb.dev_decision, climb.winner]
    for r in climb.results:
        # The engines' parity is theirs to the eighth digit or so: llama.cpp adds in another order each time.
        found += [r.rung, r.system, r.what, r.notes, r.parity and round(r.parity.mean_difference, 5)]
        if r.guards is not None and r.guards.forgetting is not None:
            found.append(replace(r.guards, forgetting=replace(r.guards.forgetting, seconds=0)))
        found += [(t.name, t.score, t.n, t.chosen) for t in r.trials]
        scored = [(m.split, p) for m in (r.dev, r.test) if m for p in m.predictions]
        found += [(split, p.example_id, p.answer.value, p.score) for split, p in scored]
    return found


def steps(log: list[str]) -> dict[str, list[int]]:
    """The training steps that a log tells of, by arm."""
    found: dict[str, list[int]] = {}
    for line in log:
        if match := re.fullmatch(r"advance sft: (\w+, rate \S+) (\d+)", line):
            found.setdefault(match[1], []).append(int(match[2]))
    return found


def test_a_climb_that_is_killed_again_and_again_ends_like_one_that_was_not(place, whole):
    prepare(place, "killed")
    reached: dict[str, int] = {}
    built = False
    for moment, count in MOMENTS:
        status, log = place.drive("killed", moment, count)
        assert status == -signal.SIGKILL, f"{moment!r} never came"
        for arm, numbers in steps(log).items():
            # A step that was done but not yet told of may be missing; none is ever done twice.
            assert numbers[0] in (reached.get(arm, 0) + 1, reached.get(arm, 0) + 2)
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            reached[arm] = numbers[-1]
        if built:
            assert not any("say prompt:" in line or "instruction" in line for line in log), "built twice"
        built = built or any(re.match(r"say prompt: \d", line) for line in log)
    status, log = place.drive("killed")
    assert status == 0
    assert not any("rate" in line or "instruction" in line for line in log if line.startswith("begin"))
    killed = load_climb(place.folder / "killed")
    assert outcome(killed) == outcome(whole)
    # The same test rows were opened once by each of the two runs, which lie side by side.
    assert (whole.openings, killed.openings) == (1, 2)


def test_the_engines_race_once_and_the_outcome_stays(place):
    """The third bar of this climb is that of the first variant: the race is over by then."""
    status, _ = place.drive("raced", "begin plain instruction", 1)
    assert status == -signal.SIGKILL
    settled = place.folder / "raced" / "rungs" / "prompt" / "settled.jsonl"
    line = json.loads(settled.read_text().splitlines()[0])
    assert line["question"] == "engine: zero-shot" and line["answer"][0] in ("llama", "torch")
    other = "torch" if line["answer"][0] == "llama" else "llama"
    settled.write_text(json.dumps({**line, "answer": [other, "as it was found"]}) + "\n")
    place.drive("raced", r"say prompt: \d", 1)
    kept = place.folder / "raced" / "rungs" / "prompt"
    assert json.loads((kept / "system" / "system.json").read_text())["engine"] == other


def test_a_tune_takes_up_its_trainers_and_scores(place, tmp_path):
    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import Arm, Plan, Tune

    arm = Arm(form="words", rate=1e-3)
    with opened(place.model, place.data, tmp_path) as context:
        plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
        with Tune(context, answer_forms(context), plan) as tune:
            tune.run(arm, 5)
            first = tune.score(arm, 5, context.dev)
            tune.keep(arm, 5)
        with Tune(context, answer_forms(context), plan) as tune:
            assert tune.trainer(arm).step == 5
            assert tune.score(arm, 5, context.dev) == first
            assert len(tune.run(arm, 8)) == 3
            tune.keep(arm, 5)
            assert [r["kind"] for r in tune.records] == ["score", "best"]


def test_an_interrupt_ends_with_130_and_the_same_command_goes_on(place, tmp_path, monkeypatch, capsys):
    data = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    command = [
        *("climb", str(data), "--models", str(place.model)),
        *("--rungs", "prompt,sft", "--out", "run", "--no-forgetting"),
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "rung", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # A shell makes what it starts in the background ignore interrupts, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = tmp_path / "run" / "rungs" / "sft" / "work" / "training" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said.decode()
    assert said.decode().endswith("interrupted; the same command resumes\n")
    assert "Traceback" not in said.decode()
    monkeypatch.chdir(tmp_path)
    status, told = run(command), capsys.readouterr().err
    assert status == 0, told
    assert "going on with run" in told and "prompt: " not in told
    assert load_climb(tmp_path / "run").results[1].failed is None
