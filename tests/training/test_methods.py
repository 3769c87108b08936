"""Every way to tune on a very small model: it learns, goes on from where it was, and shares its model."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from rung.engines import lora
from rung.engines.nf4 import Nf4
from rung.engines.packed import packed
from rung.errors import TrainingError
from rung.task import Tuning
from rung.task.model import TuningMethod
from rung.training import full
from rung.training.activations import counted
from rung.training.loop import Settings, Trainer, batch_loss
from rung.training.methods import ALPHA, METHODS, RANK, RATES, begun
from tests.fixtures_tiny import randomise, tiny
from tests.training.test_loop import ROWS, parameters, same

NAMES = list(METHODS)
LONGEST = max(row.tokens for row in ROWS)


def kind(method: str) -> torch.dtype:
    """The finest type of weights; bitsandbytes packs none of fp64."""
    return torch.float32 if method == "qlora" else torch.float64


def trainer(folder: Path, method: TuningMethod, *, model=None, rate: float | None = None) -> Trainer:
    model = tiny(dtype=kind(method)) if model is None else model
    settings = Settings(
        learning_rate=rate or (100 if method == "full" else 10) * METHODS[method].rates[2],
        batch_size=4,
        rank=4,
        warmup=5,
        seed=1,
    )
    learned = begun(model, Tuning(method=method, rank=4), seed=1, longest=LONGEST)
    return Trainer(model, ROWS, settings, folder, "d", learned=learned)


def test_the_table_has_every_method_that_a_task_may_name():
    assert set(METHODS) == set(get_args(TuningMethod))
    assert all(len(method.rates) == len(RATES) for method in METHODS.values())
    assert all(sorted(method.rates) == list(method.rates) for method in METHODS.values())


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("coarse", [False, True])
def test_the_loss_falls(tmp_path, method, coarse):
    dtype = torch.bfloat16 if coarse else kind(method)
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
    model = tiny(dtype=kind(method))
    learned = begun(model, Tuning(method=method, rank=4), seed=1, longest=LONGEST)
    for rate in rates:
        settings = Settings(learning_rate=rate, batch_size=4, rank=4, warmup=5, seed=1)
        arm = Trainer(model, ROWS, settings, tmp_path / f"arm-{rate}", "d", learned=learned)
        list(arm.run(6))
        assert same(parameters(arm), alone[rate])
        arm.close()
    assert not same(*alone.values())


@pytest.mark.parametrize("method", ["rslora", "dora"])
def test_a_run_may_begin_where_another_ended(tmp_path, method):
    model, other = tiny(), tiny()
    first = trainer(tmp_path / "first", method, model=model)
    list(first.run(5))
    learned = begun(other, Tuning(method=method, rank=4), seed=9, longest=LONGEST)
    settings = Settings(learning_rate=1e-3, batch_size=4, rank=4, warmup=5, seed=1)
    start = lora.state(model)
    second = Trainer(other, ROWS, settings, tmp_path / "second", "d", start=start, learned=learned)
    assert same(parameters(first), parameters(second))
    list(second.run(2))
    assert not same(parameters(first), parameters(second))


def test_full_tuning_refuses_what_memory_cannot_hold(monkeypatch):
    monkeypatch.setattr(full, "free_bytes", lambda device: 10_000)
    with pytest.raises(
        TrainingError, match=r"full tuning of 15,\d+ weights .* 0.0 GiB are free.*method: lora"
    ):
        begun(tiny(), Tuning(method="full"), seed=0, longest=LONGEST)


def test_full_tuning_counts_what_the_longest_row_keeps_for_the_way_back(monkeypatch):
    model, tuning = tiny(), Tuning(method="full")
    weights = sum(layer.weight.numel() for _, layer in lora.block_linears(model))
    each = 20 + 8 * (1 + full.workers(model.lm_head.weight.device))
    monkeypatch.setattr(full, "free_bytes", lambda device: int(full.ROOM * each * weights) + 2**20)
    begun(model, tuning, seed=0, longest=20)
    assert counted(model).again(20_000) > 2**20
    with pytest.raises(TrainingError, match=r"rows of up to 20,000 tokens needs about .*shorter rows"):
        begun(tiny(), tuning, seed=0, longest=20_000)


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


def test_qlora_is_a_lora_over_the_weights_as_four_bits_have_them():
    """Forward and gradient are those of a LoRA whose base holds the de-quantised weights."""
    model = tiny("qwen2", dtype=torch.float32, hidden_size=64, intermediate_size=128)
    begun(model, Tuning(method="qlora", rank=4), seed=0, longest=LONGEST)
    randomise(model)
    twin = tiny("qwen2", dtype=torch.float32, hidden_size=64, intermediate_size=128)
    for name, layer in lora.layers(model):
        assert isinstance(layer.blocks, Nf4) and layer.weight is None
        weight = twin.get_submodule(name).weight
        dense = layer.blocks.dense()
        assert 0.02 < (dense - weight).norm() / weight.norm() < 0.2
        weight.data.copy_(dense)
    lora.attach(twin, rank=4, alpha=ALPHA, seed=0)
    lora.restore(twin, lora.state(model))
    assert packed(model) is None
    losses = [batch_loss(one, ROWS[:6]) for one in (model, twin)]
    slopes = [
        torch.autograd.grad(loss, lora.parameters(one))
        for loss, one in zip(losses, (model, twin), strict=True)
    ]
    assert torch.allclose(*losses, rtol=1e-5)
    for ours, theirs in zip(*slopes, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() > 0


def test_rslora_at_the_usual_rank_is_lora_and_keeps_its_size_above():
    found = {}
    for method in ("lora", "rslora"):
        for rank in (RANK, 4 * RANK):
            model = tiny()
            begun(model, Tuning(method=method, rank=rank), seed=0, longest=LONGEST)
            found[method, rank] = next(lora.layers(model))[1].form
    assert found["lora", RANK].scale == found["rslora", RANK].scale == ALPHA / RANK
    assert found["lora", 4 * RANK].scale == ALPHA / RANK / 4
    assert found["rslora", 4 * RANK].scale == ALPHA / RANK / 2
