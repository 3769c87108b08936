"""Which steps to come are out for sure: no time is kept for them."""

from dataclasses import replace

import pytest

from rung.climb.below import is_out
from rung.rungs import LADDER
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows

EVERY = {rung.name for rung in LADDER}
BY_NAME = {rung.name: rung for rung in LADDER}


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("below")
    gguf = make_tiny_gguf(folder / "tiny.gguf")
    with opened(gguf, write_rows(folder / "topics.jsonl", label_rows(120)), folder) as found:
        yield found


def out(context, name, chosen=frozenset(EVERY), **changes):
    task = context.task.model_copy(update=changes)
    return is_out(BY_NAME[name], task, chosen, lambda: replace(context, task=task))


def test_a_plain_task_keeps_time_for_what_learns_from_its_rows_alone(context):
    kept = {name for name in EVERY if not out(context, name)}
    assert kept == {"head", "prompt", "few_shot", "optimise", "workflow", "sft"}


def test_a_tune_on_too_few_rows_is_out(context):
    few = replace(context, train=context.train[:49])
    assert is_out(BY_NAME["sft"], few.task, EVERY, lambda: few)


def test_a_teacher_without_inputs_is_out_and_one_with_inputs_is_not(context):
    assert out(context, "distill", teacher="smollm2-135m")
    task = context.task.model_copy(update={"teacher": "smollm2-135m"})
    given = replace(context, task=task, unlabelled=context.dev)
    assert not is_out(BY_NAME["distill"], task, EVERY, lambda: given)


def test_a_rung_that_goes_on_from_one_that_is_not_climbed_is_out(context):
    paired = replace(context, train=tuple(replace(e, rejected="other") for e in context.train))
    assert not is_out(BY_NAME["preference"], paired.task, EVERY, lambda: paired)
    assert is_out(BY_NAME["preference"], paired.task, {"prompt", "preference"}, lambda: paired)


def test_a_hosted_model_without_a_key_is_out(context, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert out(context, "api", models=(*context.task.models, "openai:gpt-5-mini"))
