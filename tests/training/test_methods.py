"""Every way to tune on a very small model: it learns, goes on from where it was, and shares its model."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from rung.engines import lora
from rung.errors import TrainingError
from rung.task import Tuning
from rung.task.model import TuningMethod
from rung.training import full
from rung.training.loop import Settings, Trainer
from rung.training.methods import ALPHA, METHODS, RANK, RATES, begun
from tests.fixtures_tiny import tiny
from tests.training.test_loop import ROWS, parameters, same

NAMES = [*METHODS]


def trainer(folder: Path, method: TuningMethod, *, model=None, rate: float | None = None) -> Trainer:
    model = tiny() if model is None else model
    settings = Settings(
        learning_rate=rate or (100 if method == "full" else 10) * METHODS[method].rates[2],
        batch_size=4,
        rank=4,
        warmup=5,
        seed=1,
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


def test_full_tuning_refuses_what_memory_cannot_hold(monkeypatch):
    monkeypatch.setattr(full, "free_bytes", lambda device: 10_000)
    with pytest.raises(
        TrainingError, match=r"full tuning of 15,\d+ weights .* 0.0 GiB are free.*method: lora"
    ):
        begun(tiny(), Tuning(method="full"), seed=0)


def test_full_tuning_leaves_embeddings_norms_and_biases_alone(tmp_path):
    model = tiny("qwen2")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(trainer(tmp_path, "full", model=model).run(5))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"{name}.weight" for name, _ in lora.block_linears(model)} and len(moved) == 14


def test_a_coarse_model_learns_by_steps_that_its_own_type_would_lose(tmp_path):
    model = tiny(dtype=torch.bfloat16)
    one = trainer(tmp_path, "full", model=model, rate=1e-6)
    start = one._flat.clone()
    list(one.run(8))
    assert one._flat.dtype == torch.float32
    moved = (one._flat - start).abs()
    assert 0 < moved.max() < 1e-5
    flat = torch.cat([p.detach().reshape(-1) for p in one.parameters])
    assert torch.equal(flat, one._flat.to(torch.bfloat16))


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
