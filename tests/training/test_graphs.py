"""Rows filled up to few shapes: the same loss and gradient, to the last digits of fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engines import lora, packed
from rung.training.batches import Row
from rung.training.graphs import EAGER_RUNS, Graphs, grid
from rung.training.loop import Settings, Trainer, packed_loss
from tests.fixtures_tiny import randomise, tiny
from tests.training.test_loop import ROWS

KINDS = ("llama", "qwen3", "gemma")


def adapted(kind):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=6, seed=1)
    randomise(model)
    return model


MODELS = {kind: adapted(kind) for kind in KINDS}
ids = st.lists(st.integers(1, 299), min_size=1, max_size=40).map(tuple)
rows = st.builds(lambda prompt, answer: Row(prompt=prompt, answer=answer), ids, ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    prefix=st.lists(st.integers(1, 299), max_size=20).map(tuple), batch=st.lists(rows, min_size=1, max_size=9)
)
def test_filling_changes_neither_the_loss_nor_its_gradient(kind, prefix, batch):
    model = MODELS[kind]
    made = packed.packed(model)
    batch = [Row(prompt=prefix + row.prompt, answer=row.answer) for row in batch]
    parameters = lora.parameters(model)
    slope = torch.ones(sum(p.numel() for p in parameters), dtype=torch.float64, device=made.device)
    graphs = Graphs(made, parameters, slope)
    expected = 0.25 * packed_loss(made, batch, len(prefix))
    gradients = torch.autograd.grad(expected, parameters)
    runs = EAGER_RUNS + 2
    for _ in range(runs):
        assert graphs.add(batch, len(prefix), 0.25) == pytest.approx(expected.item(), rel=1e-10)
    whole = torch.cat([gradient.reshape(-1) for gradient in gradients])
    assert torch.allclose(slope, 1 + runs * whole, rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(st.integers(1, 100_000), st.sampled_from([4, 8]))
def test_sizes_are_few_and_hardly_larger(size, parts):
    filled = grid(size, parts)
    assert size <= filled < max(size + 16, size * (1 + 1 / parts) + 1)
    assert len({grid(k, parts) for k in range(filled, 2 * filled)}) <= 2 * parts + 2


def test_a_trainer_takes_the_same_steps_with_filled_rows(tmp_path):
    options = Settings(learning_rate=5e-3, batch_size=4, rank=4, alpha=8, warmup=5, seed=1)
    plain = Trainer(tiny(), ROWS, options, tmp_path / "plain", "d")
    plain.graphs = None
    filled = Trainer(tiny(), ROWS, options, tmp_path / "filled", "d")
    filled.graphs = Graphs(filled.packed, filled.parameters, filled._slope)
    for one, other in zip(plain.run(25), filled.run(25), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-8)
    for one, other in zip(plain.parameters, filled.parameters, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records them")
def test_where_nothing_can_be_recorded_the_passes_go_on_as_they_are():
    made = packed.packed(MODELS["llama"])
    parameters = lora.parameters(made.model)
    slope = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    graphs = Graphs(made, parameters, slope)
    graphs._pool = object()  # as if there were a GPU, whose graphs torch's build for a CPU can't make
    first = graphs.add(ROWS[:4], 0, 1.0)
    once = slope.clone()
    for _ in range(EAGER_RUNS + 2):
        assert graphs.add(ROWS[:4], 0, 1.0) == first
    assert graphs._pool is None
    assert torch.allclose(slope, (EAGER_RUNS + 3) * once)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU records passes")
def test_a_shape_is_recorded_and_replayed():
    made = packed.packed(MODELS["llama"])
    parameters = lora.parameters(made.model)
    slope = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=made.device)
    graphs = Graphs(made, parameters, slope)
    for _ in range(EAGER_RUNS + 2):
        graphs.add(ROWS[:4], 0, 1.0)
    assert [held.graph is not None for held in graphs._held.values()] == [True]
