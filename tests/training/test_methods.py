"""Every way to tune on a very small model: it learns, goes on from where it was, and shares its model."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from rung.engines import lora
from rung.task import Tuning
from rung.task.model import TuningMethod
from rung.training.loop import Settings, Trainer
from rung.training.methods import ALPHA, METHODS, RANK, RATES, begun
from tests.fixtures_tiny import tiny
from tests.training.test_loop import ROWS, parameters, same

NAMES = [*METHODS]


def trainer(folder: Path, method: TuningMethod, *, model=None, rate: float | None = None) -> Trainer:
    model = tiny() if model is None else model
    settings = Settings(
        learning_rate=rate or 10 * METHODS[method].rates[2], batch_size=4, rank=4, warmup=5, seed=1
    )
    return Trainer(
        model, ROWS, settings, folder, "d", learned=begun(model, Tuning(method=method, rank=4), seed=1)
    )


def test_the_table_has_every_method_that_a_task_may_name():
    assert set(NAMES) == set(get_args(TuningMethod))
    assert all(len(method.rates) == len(RATES) for method in METHODS.values())
    assert all(sorted(method.rates) == list(method.rates) for method in METHODS.values())


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_loss_falls(tmp_path, method, dtype):
    ticks = list(trainer(tmp_path, method, model=tiny(dtype=dtype)).run(60))
    assert sum(t.loss for t in ticks[-10:]) < 0.7 * sum(t.loss for t in ticks[:10])


@pytest.mark.parametrize("method", NAMES)
def test_a_run_in_parts_is_the_run_at_once(tmp_path, method):
    whole = trainer(tmp_path / "whole", method)
    list(whole.run(12))
    for until in (1, 7, 12):
        part = trainer(tmp_path / "parts", method)
        list(part.run(until))
        part.close()
    assert same(parameters(whole), parameters(part))
    assert same(whole.moments, part.moments)


@pytest.mark.parametrize("method", NAMES)
def test_arms_take_turns_on_one_model(tmp_path, method):
    rates = METHODS[method].rates[::2]
    alone = {}
    for rate in rates:
        one = trainer(tmp_path / f"alone-{rate}", method, rate=rate)
        list(one.run(6))
        alone[rate] = parameters(one)
    model = tiny()
    learned = begun(model, Tuning(method=method, rank=4), seed=1)
    for rate in rates:
        settings = Settings(learning_rate=rate, batch_size=4, rank=4, warmup=5, seed=1)
        arm = Trainer(model, ROWS, settings, tmp_path / f"arm-{rate}", "d", learned=learned)
        list(arm.run(6))
        assert same(parameters(arm), alone[rate])
        arm.close()
    assert not same(*alone.values())


def test_rslora_at_the_usual_rank_is_lora_and_keeps_its_size_above():
    found = {}
    for method in ("lora", "rslora"):
        for rank in (RANK, 4 * RANK):
            model = tiny()
            begun(model, Tuning(method=method, rank=rank), seed=0)
            found[method, rank] = next(lora.layers(model))[1].form
    assert found["lora", RANK].scale == found["rslora", RANK].scale == ALPHA / RANK
    assert found["lora", 4 * RANK].scale == ALPHA / RANK / 4
    assert found["rslora", 4 * RANK].scale == ALPHA / RANK / 2
