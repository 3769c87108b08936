"""Rows without padding against transformers' own forward pass, in fp64: states, gradients, memories."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from transformers import GraniteConfig, GraniteForCausalLM, Phi3Config, Phi3ForCausalLM

from rung.engines import attention, layout, lora, packed
from rung.engines.layout import ROUND, pack
from tests.fixtures_tiny import DEVICE, SIZES, randomise, tiny

KINDS = ("llama", "qwen2", "qwen3", "gemma")


def adapted(kind: str, **changes):
    model = tiny(kind, **changes)
    lora.attach(model, rank=4, alpha=6, seed=1)
    randomise(model)
    return model


MODELS = {kind: adapted(kind) for kind in KINDS}
ids = st.lists(st.integers(1, 299), min_size=1, max_size=12).map(tuple)


def alone(model, row) -> torch.Tensor:
    """The state after a row, by transformers, without a neighbour or padding."""
    return model.model(torch.tensor([list(row)], device=DEVICE), use_cache=False).last_hidden_state[0, -1]


def slopes(model, states: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 2, states.numel(), dtype=states.dtype, device=DEVICE).view_as(states)
    return list(torch.autograd.grad((states * weights).sum(), lora.parameters(model)))


def same(ours, theirs) -> bool:
    return all(
        torch.allclose(one, other, rtol=1e-9, atol=1e-10) for one, other in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("short", "kept"),
    [(packed.SHORT_ROWS, 0), (0, attention.KEPT_PLACES), (0, 0)],
    ids=["at once", "in blocks", "in blocks, their weights made again"],
)
@settings(max_examples=15, deadline=None)
@given(
    prefix=st.lists(st.integers(1, 299), max_size=9).map(tuple), rows=st.lists(ids, min_size=1, max_size=6)
)
def test_states_and_gradients_are_those_of_each_row_alone(kind, short, kept, prefix, rows):
    model = MODELS[kind]
    made = packed.packed(model)
    assert made is not None
    theirs = torch.stack([alone(model, prefix + row) for row in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "SHORT_ROWS", short)
        patch.setattr(attention, "KEPT_PLACES", kept)
        patch.setattr(attention, "BLOCK", 4)
        patch.setattr(layout, "GROUP_TOKENS", 0)
        one = pack(rows, made.device, prefix=prefix)
        ours = made.hidden(one, one.ends())
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)
        assert same(slopes(model, ours), slopes(model, theirs))


@pytest.mark.parametrize("prefix", [(), (1, 2, 3, 4)])
def test_long_rows_beside_short_ones_are_those_of_each_row_alone(prefix):
    """As laid out in a training step: some groups at once, others in blocks."""
    model = MODELS["gemma"]
    made = packed.packed(model)
    rows = [tuple((7 * i + size) % 299 + 1 for i in range(size)) for size in (3, 5, 40, 41, 9, 100, 4, 200)]
    one = pack(rows, made.device, prefix=prefix)
    if made.device.type == "cpu":
        assert len(one.groups) == 4
    ours = made.hidden(one, one.ends())
    theirs = torch.stack([alone(model, prefix + row) for row in rows])
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    assert same(slopes(model, ours), slopes(model, theirs))


def test_the_weights_of_long_rows_are_not_kept():
    made = packed.packed(MODELS["llama"])
    sizes: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.shape)
        return tensor

    for size, kept in ((attention.KEPT_PLACES, True), (attention.KEPT_PLACES + ROUND, False)):
        one = pack([[5] * size], made.device)
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            made.hidden(one, one.ends())
        if made.device.type == "cpu":
            assert any(shape[-2:] == (2 * attention.BLOCK, size) for shape in sizes) is kept


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_go_on_from_a_memory(kind):
    model = MODELS[kind]
    made = packed.packed(model)
    prefix, rows = tuple(range(3, 12)), [(20, 21), (30,), tuple(range(40, 55))]
    _, kept = made.read([prefix])
    memory = [(keys[0][:, : len(prefix)], values[0][:, : len(prefix)]) for keys, values in kept]
    states, found = made.read(rows, memory)
    for place, row in enumerate(rows):
        assert torch.allclose(states[place], alone(model, prefix + row), atol=1e-10)
        _, whole = made.read([prefix + row])
        for ours, theirs in zip(found, whole, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                mine = one[place, :, : len(row)]
                assert torch.allclose(mine, other[0, :, len(prefix) : len(prefix) + len(row)], atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_runs_again_on_the_way_back_gives_the_same_gradient(kind, monkeypatch):
    model = MODELS[kind]
    made = packed.packed(model)
    one = pack([(5, 6, 7), (8, 9)], made.device, prefix=(1, 2, 3))
    kept = slopes(model, made.hidden(one, one.ends()))
    ran = []

    def noted(*given, **how):
        ran.append(given[1])
        return checkpoint(*given, **how)

    monkeypatch.setattr(packed, "checkpoint", noted)
    made.room = len(one.ids)
    slopes(model, made.hidden(one, one.ends()))
    assert not ran
    made.room -= 1
    assert same(slopes(model, made.hidden(one, one.ends())), kept)
    assert ran == list(made.blocks)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU one call has all of its memory")
def test_what_calls_on_a_cpu_keep_for_the_way_back_is_bounded_by_the_memory_that_is_free(monkeypatch):
    model = MODELS["llama"]
    each = sum(map(packed._kept_bytes, packed.packed(model).blocks))

    def made(free: int) -> packed.Packed:
        monkeypatch.setattr(packed, "free_bytes", lambda device: free)
        return packed.packed(model)

    monkeypatch.setattr(packed, "workers", lambda device: 3)
    short = made(int(3 * 100 * each / packed.KEPT_SHARE))
    assert short.room == 100 and short.beside(100) == 3
    assert (short.beside(101), short.beside(200), short.beside(10**6)) == (2, 1, 1)
    assert made(0).room == 1
    ample = made(10**15)
    assert ample.room == packed.KEPT_TOKENS and ample.beside(10 * packed.KEPT_TOKENS) == 3


def test_the_weights_are_moved_not_copied_and_the_model_itself_answers_as_before():
    model = adapted("llama")
    before = alone(model, (5, 6, 7)).detach()
    made, again = packed.packed(model), packed.packed(model)
    assert torch.equal(alone(model, (5, 6, 7)), before)
    for one, other in zip(made.blocks, again.blocks, strict=True):
        for name in ("qkv", "out", "gate_up", "down"):
            assert (
                getattr(one, name).frozen.weight.data_ptr() == getattr(other, name).frozen.weight.data_ptr()
            )
    block, layer = made.blocks[1], model.model.layers[1]
    assert block.qkv.frozen.weight.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()
    assert torch.equal(block.gate_up.frozen.weight[48:], layer.mlp.up_proj.weight)


def test_layers_may_have_an_adapter_or_none_and_may_get_one_later():
    model = tiny()
    plain = packed.packed(model)
    assert plain is not None
    before = plain.last([(5, 6, 7)]).detach()
    assert torch.allclose(before[0], alone(model, (5, 6, 7)), atol=1e-10)
    found = [pair for pair in lora.block_linears(model) if pair[0].endswith(("k_proj", "down_proj"))]
    lora._attach(model, found, lora.Form(rank=4, alpha=8.0))
    lora.draw(model, 0)
    randomise(model)
    for made in (plain, packed.packed(model)):
        assert torch.allclose(made.last([(5, 6, 7)])[0], alone(model, (5, 6, 7)), atol=1e-10)
        assert not torch.allclose(made.last([(5, 6, 7)]), before, atol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        GraniteForCausalLM(GraniteConfig(**SIZES, residual_multiplier=0.2)),
        Phi3ForCausalLM(Phi3Config(**SIZES)),
    ],
    ids=["sums residuals otherwise", "has other parts"],
)
def test_models_of_another_make_are_left_to_transformers(model):
    assert packed.packed(model.eval()) is None
