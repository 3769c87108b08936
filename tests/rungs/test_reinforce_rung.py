"""The rung reinforce on a tiny model: the gate, what it keeps, and that it can be killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rung import system as systems
from rung.errors import TrainingError
from rung.records import Example
from rung.rungs import reinforcing, reward_gate, tuning
from rung.rungs.reinforce import Reinforce
from rung.rungs.rollouts import drawn_groups, prompts_to_draw
from rung.rungs.sft import Sft
from rung.rungs.tune import Arm, Plan
from rung.system import System
from tests.fixtures_climb import make_tiny_gguf, number_rows, opened, write_rows
from tests.rungs.test_preference_rung import Ending, Stopped, stop

STEPS = 12
ROWS = number_rows(180)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory) -> System:
    """A System of sft with so few steps that there's more to learn."""
    folder = tmp_path_factory.mktemp("tuned")
    with (
        pytest.MonkeyPatch.context() as patch,
        opened(tiny, write_rows(folder / "rows.jsonl", ROWS), folder) as context,
    ):
        patch.setattr(tuning, "MOST_EPOCHS", 3)
        return Sft().build(context).system


@pytest.fixture(scope="module")
def short():
    """A course of few steps, whatever time there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcing, "MOST_STEPS", STEPS)
        patch.setattr(reward_gate, "MOST_PROMPTS", 40)
        yield


@pytest.fixture(scope="module")
def whole(tiny, tuned, tmp_path_factory, short):
    """The rung from start to end: its context, what it made, and how often its bars were moved."""
    folder, counting = tmp_path_factory.mktemp("whole"), Ending(-1, stop)
    path = write_rows(folder / "rows.jsonl", ROWS)
    with opened(tiny, path, folder, built={"sft": tuned}, reporter=counting) as found:
        context = replace(found, bench=replace(found.bench, metric="exact"))
        made = Reinforce().build(context)
        yield context, made, counting.moved


@pytest.fixture
def begin(tiny, tuned, tmp_path, short):
    """Opens a context of the rung; numbers are right or not."""
    stack = []

    def of(name: str = "a", share: float = 1.0, **changes):
        folder = tmp_path / name
        opening = opened(tiny, write_rows(tmp_path / "rows.jsonl", ROWS), folder, **changes)
        stack.append(opening)
        context = opening.__enter__()
        start = tuned if share == 1.0 else weakened(tuned, share, folder / "weak")
        return replace(context, bench=replace(context.bench, metric="exact"), built={"sft": start})

    yield of
    for opening in reversed(stack):
        opening.__exit__(None, None, None)


def weakened(start: System, share: float, folder: Path) -> System:
    """The System with an adapter of which a share is left, under torch alone."""
    from safetensors.torch import load_file, save

    files = {name: start.folder / name for name in start.spec.files if name.startswith("adapter/")}
    weights = "adapter/adapter_model.safetensors"
    tensors = load_file(files[weights])
    less = save({k: v * (share if "lora_B" in k else 1) for k, v in tensors.items()}, {"format": "pt"})
    spec = start.spec.model_copy(update={"engine": "torch"})
    return systems.save(folder, spec, {**files, weights: less})


def journal(context) -> list[dict]:
    path = context.work / "training" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_shipped_is_never_worse_on_dev_than_the_start_and_what_was_drawn_is_told(whole):
    context, made, _ = whole
    start = context.built["sft"]
    ours, theirs = (context.measure(one, context.dev, "again").score for one in (made.system, start))
    assert ours >= theirs
    changes = {"files": made.system.spec.files, "engine": made.system.spec.engine, "rung": "reinforce"}
    assert made.system.spec == start.spec.model_copy(update=changes)
    rollouts = [record for record in journal(context) if record["kind"] == "rollout"]
    assert [record["step"] for record in rollouts] == list(range(len(rollouts)))
    last = [record["step"] for record in journal(context) if record["kind"] == "score"][-1]
    assert len(rollouts) == last >= STEPS // 2
    assert all(0 < r["reward"] < 1 and r["mixed"] > 0 and r["tokens"] > 1 for r in rollouts)
    assert made.passes == pytest.approx(last * 8 / len(context.train))
    assert made.found[0].startswith("of 40 training prompts with 8 answers each ")
    first = [r["reward"] for r in rollouts[:10]]
    told = f"of {last} steps: mean reward {sum(first) / len(first):.3f}, then"
    assert told in made.found[1]
    assert "word for word as the row" in made.found[2]


def test_reward_alone_makes_a_weakened_adapter_better_on_dev(begin, monkeypatch):
    monkeypatch.setattr(reinforcing, "RATE", 3e-4)
    context = begin(share=0.5)
    plan = Plan(folder=context.work / "training", budget_s=500.0, reserve_s=10.0, seed=0)
    outcome = reinforcing.reinforce(context, context.built["sft"], plan)
    assert outcome.adapter is not None, outcome
    scores = [trial.score for trial in outcome.trials]
    best = [record for record in journal(context) if record["kind"] == "best"][-1]
    assert max(scores) > scores[0] and f"{best['step']} steps of 8 × 8 answers" in outcome.what
    kept = (outcome.adapter / "adapter_model.safetensors").read_bytes()
    assert kept != (context.built["sft"].adapter / "adapter_model.safetensors").read_bytes()


def test_where_nothing_earns_anything_the_gate_says_so_and_the_rung_is_not_built(begin):
    context = begin(share=0.0)
    told = Reinforce().outlook(context)
    assert told is not None and told.refusal is not None
    assert "of 40 training prompts" in told.refusal and "right answers are too rare" in told.refusal
    with pytest.raises(TrainingError, match="right answers are too rare to learn from"):
        Reinforce().build(context)
    assert {record["kind"] for record in journal(context)} == {"gate"}


def test_too_little_time_for_ten_steps_is_told_before_it_begins(begin, monkeypatch):
    monkeypatch.setattr(reinforcing, "MOST_STEPS", 9)
    told = Reinforce().outlook(begin())
    assert told is not None and "9 steps fit the time that is left" in str(told.refusal)


def test_a_course_that_gets_worse_at_once_is_foreseen_as_the_soonest_end(begin):
    context = begin()
    told = Reinforce().outlook(context)
    assert told is not None and told.refusal is None
    (course,) = (record for record in journal(context) if record["kind"] == "course")
    assert told.low_s == course["soonest_s"], "the start is kept then, and answers nothing anew"
    assert told.low_s < told.seconds == told.high_s and told.by == reinforcing.STAYS
    assert told.seconds > course["tuning_s"] + told.least_s > told.least_s > 0


def test_answers_are_drawn_as_the_system_is_asked_and_the_same_for_the_same_place(begin):
    context = begin()
    start = context.built["sft"]
    plan = Plan(folder=context.work / "training", budget_s=500.0, reserve_s=10.0, seed=0)
    with reinforcing._begun(context, start, plan) as begun:
        state, given = begun.state, begun.given
        state.trainer(Arm(form="schema", rate=reinforcing.RATE))
        first, again, other = (drawn_groups(state, given, [0, 5], at) for at in ("a", "a", "b"))
    assert [g.completions for g in first] != [g.completions for g in other]
    for one, two in zip(first, again, strict=True):
        assert [c.drawn for c in one.completions] == [c.drawn for c in two.completions]
    prompts = start.prompts(context.train, context.pool)
    assert [group.requests[0].prompt for group in first] == [prompts[0], prompts[5]]
    for request in first[0].requests:
        assert (request.temperature, request.schema) == (1.0, start.spec.schema_)
        assert request.max_tokens == start.spec.answer.max_tokens
    assert len({request.seed for group in first for request in group.requests}) == 16
    assert all(0 <= json.loads(c.text) <= 999 for group in first for c in group.completions)


def test_rows_that_leave_no_room_for_an_answer_are_not_drawn_to(begin):
    context = begin()
    long = Example(id="long", input="today " * 600, output=5.5)
    given = prompts_to_draw(replace(context, train=(*context.train, long)), context.built["sft"].spec)
    assert given.left_out == 1 and [e.id for e in given.examples] == [e.id for e in context.train]


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from rung.rungs import reinforcing, reward_gate
from rung.rungs.reinforce import Reinforce
from rung.system import System
from tests.fixtures_climb import opened
from tests.rungs.test_preference_rung import Ending
model, data, folder, start, most, threads, steps = sys.argv[1:]
reinforcing.MOST_STEPS, reward_gate.MOST_PROMPTS = int(steps), 40
torch.set_num_threads(int(threads))
kill = Ending(int(most), lambda: os.kill(os.getpid(), signal.SIGKILL))
built = {"sft": System.load(Path(start))}
with opened(Path(model), Path(data), Path(folder), built=built, reporter=kill) as context:
    Reinforce().build(replace(context, bench=replace(context.bench, metric="exact")))
"""


def test_a_rung_that_is_stopped_or_killed_wherever_it_is_goes_on_to_the_same_system(
    begin, tiny, tuned, whole
):
    uninterrupted, expected, begun = whole
    context = begin("killed")
    for moved in (2, 7):
        with pytest.raises(Stopped):
            Reinforce().build(replace(context, reporter=Ending(moved, stop)))
    places = [tiny, context.task.data.train, context.folder.parent, tuned.folder]
    root, limits = Path(__file__).parents[2], [begun // 3, torch.get_num_threads(), STEPS]
    child = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, (*places, *limits))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL
    made = Reinforce().build(context)
    # Which engine is faster is a matter of the clock, and of each run.
    assert made.system.spec.files == expected.system.spec.files
    assert [(t.name, t.score) for t in made.trials[:-1]] == [(t.name, t.score) for t in expected.trials[:-1]]
    kept = ("gate", "rollout", "score", "best")
    ours, theirs = ([r for r in journal(each) if r["kind"] in kept] for each in (context, uninterrupted))
    for one, other in zip(ours, theirs, strict=True):
        assert {**one, "pace": None, "seconds": 0} == {**other, "pace": None, "seconds": 0}
