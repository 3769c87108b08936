"""A tune whose weights memory doesn't hold ends before anything is loaded, and says how much is needed."""

from dataclasses import replace

import pytest
import torch

from rung.engines import device
from rung.errors import TrainingError
from rung.rungs import tune as module
from rung.rungs.sft import answer_forms
from rung.rungs.tune import Plan, Tune
from rung.task.model import Tuning
from tests.fixtures_climb import make_tiny_gguf, opened, text_rows, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "texts.jsonl", text_rows(80)), tmp_path) as found:
        yield found


def begin(context) -> Tune:
    plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
    return Tune(context, answer_forms(context), plan)


def never(*_, **__):
    raise AssertionError("weights were made or loaded")


def test_weights_that_are_more_than_is_free_are_not_loaded(context, monkeypatch):
    with begin(context):
        pass
    monkeypatch.setattr(device, "loadable_bytes", lambda: 10_000)
    monkeypatch.setattr(module, "load_model", never)
    with pytest.raises(TrainingError, match=r"can't be loaded to be tuned: .* and 0\.0 are free"):
        begin(context)


def test_weights_that_the_machine_can_never_hold_are_not_made(context, monkeypatch):
    monkeypatch.setattr(device, "whole_bytes", lambda: 10_000)
    monkeypatch.setattr(module, "dequantised", never)
    with pytest.raises(TrainingError, match=r"0\.0 GiB of memory and there are 0\.0 with swap"):
        begin(context)


def test_weights_that_stay_in_their_blocks_are_not_counted_whole(context, monkeypatch):
    blocks = context.model.gguf
    monkeypatch.setattr(module, "blocks_for", lambda model, method: blocks if method == "qlora" else None)
    monkeypatch.setattr(device, "loadable_bytes", lambda: 10_000)
    with pytest.raises(TrainingError, match="so does `tuning: {method: qlora}`"):
        begin(context)
    task = context.task.model_copy(update={"tuning": Tuning(method="qlora")})
    with begin(replace(context, task=task)) as tune:
        assert tune.learned.groups


def test_a_tune_that_the_gpu_has_no_room_for_is_told_of_once(context, monkeypatch):
    there = device.Found(gpu="cuda:0", dtype=device.best_dtype())
    monkeypatch.setattr(device, "found", lambda: there)
    monkeypatch.setattr(device, "free_bytes", lambda name: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: (0, 2**36))
    monkeypatch.setattr(context.pool, "say", context.reporter.say)
    for _ in range(2):
        with begin(context):
            pass
    assert len(context.reporter.lines) == 1
    assert context.reporter.lines[0].startswith("sft: the weights in") and "cuda:0" in context.reporter.text
