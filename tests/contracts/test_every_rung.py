"""What every rung must do. A new rung is added to LADDER and its reasons to skip to SKIPS, nowhere else."""

import re
import shutil
from dataclasses import fields, replace

import pytest

from rung.records import Example, Splits
from rung.rungs import LADDER
from rung.rungs.base import SETTLED_FILE, Context, Foreseen, Rung
from rung.system import System
from tests.fixtures_climb import (
    TASKS,
    label_rows,
    make_tiny_gguf,
    opened,
    write_rows,
)

EMBEDDING = {"head", "few_shot"}
"""Rungs that need the weights of the embedding model."""
RUNGS = [
    pytest.param(r, id=r.name, marks=[pytest.mark.models] if r.name in EMBEDDING else []) for r in LADDER
]
ROWS = 160

SKIPS = {
    "head": {"the output is text": lambda c: with_kind(c, "text")},
    "prompt": {"none of the .* rows fits": lambda c: replace(c, too_long=every_id(c))},
    "few_shot": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "7 training rows; .* at least 8": lambda c: replace(c, train=c.train[:7]),
        "one worked example and a question don't fit": lambda c: replace(c, train=long_rows(c.train)),
    },
    "sft": {
        "none of the .* rows fits": lambda c: replace(c, too_long=every_id(c)),
        "49 training rows; tuning needs at least 50": lambda c: replace(c, train=c.train[:49]),
    },
}


def with_kind(context: Context, kind) -> Context:
    output = context.task.output.model_copy(update={"kind": kind})
    return replace(context, task=context.task.model_copy(update={"output": output}))


def every_id(context: Context) -> frozenset[str]:
    return frozenset(e.id for e in (*context.train, *context.dev))


def long_rows(rows):
    return tuple(replace(e, input=f"{e.input} " * 50) for e in rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(ROWS)), tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """The same with room for prompts that hold functions."""
    return make_tiny_gguf(tmp_path_factory.mktemp("roomy") / "tiny.gguf", context=2048)


@pytest.fixture(scope="module")
def built(tiny, roomy, tmp_path_factory):
    """Each rung built once for each kind of output; the context that it was built in stays open."""
    kept = {}
    stack = []

    def build(rung: Rung, kind: str):
        if (rung.name, kind) not in kept:
            folder = tmp_path_factory.mktemp(f"{rung.name}-{kind}")
            model = roomy if kind == "tool_call" else tiny
            opening = opened(model, write_rows(folder / "topics.jsonl", TASKS[kind](ROWS)), folder)
            stack.append(opening)
            context = opening.__enter__()
            kept[rung.name, kind] = (context, rung.build(context))
        return kept[rung.name, kind]

    yield build
    for opening in reversed(stack):
        opening.__exit__(None, None, None)


def test_the_ladder_has_four_rungs_cheapest_first():
    assert [rung.name for rung in LADDER] == ["head", "prompt", "few_shot", "sft"]
    assert SKIPS.keys() == {rung.name for rung in LADDER}


def test_a_rung_is_given_no_test_rows():
    held = {field.name: field.type for field in fields(Context)}
    assert held.keys() == {
        *("task", "train", "dev", "too_long", "model", "folder", "bench", "reporter", "deadline", "seed"),
        "rival",
    }
    assert Splits not in held.values()


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_that_applies_gives_no_reason_to_skip_it(rung, context):
    assert rung.skip(context) is None


@pytest.mark.parametrize(
    ("rung", "reason"),
    [pytest.param(r, reason, id=f"{r.name}: {reason}") for r in LADDER for reason in SKIPS[r.name]],
)
def test_a_rung_that_does_not_apply_says_why(rung, reason, context):
    said = rung.skip(SKIPS[rung.name][reason](context))
    assert said is not None and re.search(reason, said)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_makes_a_system_that_answers_every_dev_row_with_a_label(rung, built):
    context, made = built(rung, "label")
    answers = made.system.answer(context.dev, context.pool)
    assert len(answers) == len(context.dev)
    assert all(a.failure is None and (a.value in context.labels or a.value is None) for a in answers)
    assert made.system.spec.rung == rung.name and made.what


@pytest.mark.parametrize("rung", RUNGS)
def test_the_chosen_trial_is_marked_and_none_scored_better(rung, built):
    context, made = built(rung, "label")
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    whole = [trial.score for trial in made.trials if trial.n == len(context.dev)]
    assert chosen.n == len(context.dev) and chosen.score == pytest.approx(max(whole), abs=0.051)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_score_of_the_chosen_trial_is_that_of_the_system(rung, built):
    context, made = built(rung, "label")
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    assert context.measure(made.system, context.dev, "again").score == chosen.score


@pytest.mark.parametrize("rung", RUNGS)
def test_a_system_that_is_loaded_again_gives_the_same_answers(rung, built):
    context, made = built(rung, "label")
    before = made.system.answer(context.dev, context.pool)
    again = System.load(made.system.folder)
    assert again.digest == made.system.digest
    after = again.answer(context.dev, context.pool)
    assert [a.value for a in after] == [a.value for a in before]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_same_rows_and_seed_make_the_same_system_once_the_clock_has_spoken(rung, built, tiny, tmp_path):
    context, made = built(rung, "label")
    path = write_rows(tmp_path / "topics.jsonl", label_rows(ROWS))
    with opened(tiny, path, tmp_path) as fresh:
        fresh.folder.mkdir()
        shutil.copy(context.folder / SETTLED_FILE, fresh.folder)
        again = rung.build(fresh)
    assert again.system.digest == made.system.digest
    assert [(t.name, t.score, t.n, t.chosen) for t in again.trials] == [
        (t.name, t.score, t.n, t.chosen) for t in made.trials
    ]
    assert again.notes == made.notes


@pytest.mark.parametrize("kind", ["json", "number", "text", "tool_call"])
@pytest.mark.parametrize("rung", [r for r in RUNGS if r.values[0].name != "head"])
def test_a_rung_answers_other_kinds_of_output_too(rung, kind, built):
    context, made = built(rung, kind)
    assert rung.skip(context) is None
    answers = made.system.answer(context.dev, context.pool)
    assert all(a.failure is None for a in answers)
    types = {"json": dict, "number": (int, float), "text": str, "tool_call": list}[kind]
    assert all(a.value is None or isinstance(a.value, types) for a in answers)
    if kind == "number":
        assert all(0 <= a.value <= 999 for a in answers if isinstance(a.value, (int, float)))
    if kind == "json":
        assert all(list(a.value) == ["topic", "first"] for a in answers if isinstance(a.value, dict))


@pytest.mark.parametrize("rung", RUNGS)
def test_the_rows_outputs_are_never_part_of_a_question(rung, built):
    context, made = built(rung, "label")
    blind = [Example(id=e.id, input=e.input, output=None) for e in context.dev]
    given = made.system.answer(context.dev, context.pool)
    assert [a.value for a in made.system.answer(blind, context.pool)] == [a.value for a in given]


@pytest.mark.parametrize("rung", [r for r in RUNGS if isinstance(r.values[0], Foreseen)])
def test_what_a_rung_foresees_is_positive_and_settles_what_it_is_built_from(rung, context):
    told = rung.outlook(context)
    assert told is not None and told.least_s > 0
    assert 0 < told.low_s <= told.seconds <= told.high_s
    assert rung.build(context).what
    again = rung.outlook(context)
    assert again is not None and (rung.name == "head" or again.least_s == told.least_s)
