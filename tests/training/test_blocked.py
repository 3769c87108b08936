"""A LoRA over the blocks of a GGUF file is one over the numbers that the blocks stand for."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rung.engines import lora
from rung.engines.block_weight import BlockWeight
from rung.engines.packed import packed
from rung.engines.torch import load_model
from rung.errors import ModelError
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.training import blocked
from rung.training.activations import Kept, Room, run_again
from rung.training.batches import Row
from rung.training.blocked import blocks_for, in_blocks, load_in_blocks, said_of_blocks
from rung.training.learned import low_rank
from rung.training.loop import Settings, Trainer, summed_logprobs
from tests.fixtures_climb import make_tiny_gguf, make_tiny_gguf_in_blocks
from tests.fixtures_tiny import randomise

ROWS = [Row(prompt=tuple(range(5, 9 + i)), answer=(20 + i, 30 + i)) for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return resolve(str(make_tiny_gguf_in_blocks(tmp_path_factory.mktemp("blocks") / "tiny.gguf", "q4_1")))


def loaded(model, monkeypatch, dtype=torch.float32):
    monkeypatch.setattr(blocked, "best_dtype", lambda: dtype)
    return load_in_blocks(dequantised(model), model.gguf)


def twin_of(network, model):
    """The same model dense, with the very numbers that the blocks stand for."""
    twin = load_model(dequantised(model), dtype=torch.float32)
    for name, layer in lora.block_linears(network):
        twin.get_submodule(name).weight.data.copy_(layer.weight.dense())
    return twin


def test_all_matrices_stay_in_blocks_and_rounded_are_the_folders(model, monkeypatch):
    network = loaded(model, monkeypatch, torch.bfloat16)
    stored = load_file(next(dequantised(model).glob("*.safetensors")))
    linears = lora.block_linears(network)
    assert len(linears) == 14 and in_blocks(network)
    for name, layer in linears:
        assert isinstance(layer.weight, BlockWeight)
        assert torch.equal(layer.weight.dense(), stored[f"{name}.weight"])
    dense = load_model(dequantised(model), dtype=torch.bfloat16)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        assert torch.equal(network(ids).logits, dense(ids).logits)
    assert not in_blocks(dense) and said_of_blocks(dense) is None


@pytest.mark.parametrize("over_packs", [True, False])
def test_loss_and_gradient_are_those_over_the_dense_numbers(model, monkeypatch, over_packs):
    network = loaded(model, monkeypatch)
    twin = twin_of(network, model)
    for one in (network, twin):
        lora.attach(one, rank=4, alpha=8.0, seed=0)
    randomise(network)
    lora.restore(twin, lora.state(network))
    made = [packed(one) if over_packs else None for one in (network, twin)]
    assert (made[0] is not None) == over_packs
    losses = [summed_logprobs(one, ROWS, it).sum() for one, it in zip((network, twin), made, strict=True)]
    ours, theirs = (
        torch.autograd.grad(loss, lora.parameters(one))
        for loss, one in zip(losses, (network, twin), strict=True)
    )
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert any(bool(a.any()) for a in ours)


def test_blocks_of_a_model_that_run_again_over_blocks_of_its_file_have_the_same_gradient(model, monkeypatch):
    network = loaded(model, monkeypatch)
    lora.attach(network, rank=4, alpha=8.0, seed=0)
    randomise(network)
    reads: list[int] = []
    network.model.layers[0].mlp.register_forward_pre_hook(lambda *_: reads.append(1))
    kept = Kept(call=0, token=1, pair=0, state=1, blocks=2)
    found = []
    for room in (None, Room(kept=kept, free=1)):
        with run_again(network, room):
            loss = summed_logprobs(network, ROWS).sum()
            found.append((loss, *torch.autograd.grad(loss, lora.parameters(network))))
    assert len(reads) == 3, "the second time once more on the way back"
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.any()


def test_a_tune_over_blocks_learns_what_one_over_dense_numbers_learns(model, monkeypatch, tmp_path):
    network = loaded(model, monkeypatch)
    found = []
    for number, one in enumerate((twin_of(network, model), network)):
        lora.attach(one, rank=4, alpha=8.0, seed=0)
        settings = Settings(learning_rate=1e-2, batch_size=3, rank=4, warmup=2, seed=1)
        trainer = Trainer(one, ROWS, settings, tmp_path / str(number), "d", learned=low_rank(one))
        ticks = list(trainer.run(12))
        assert ticks[-1].loss < ticks[0].loss
        found.append(lora.state(one))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_numbers_that_are_not_the_folders_are_not_taken(model, monkeypatch, tmp_path):
    """Another architecture's order of rows, say: the folder's numbers were proved, the file's weren't."""
    source = dequantised(model)
    stored = load_file(next(source.glob("*.safetensors")))
    name = "model.layers.0.mlp.up_proj.weight"
    stored[name] = stored[name].flip(0).contiguous()
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    monkeypatch.setattr(blocked, "best_dtype", lambda: torch.bfloat16)
    network = load_in_blocks(tmp_path, model.gguf)
    weights = {key: layer.weight for key, layer in lora.block_linears(network)}
    odd = weights.pop(name.removesuffix(".weight"))
    assert not isinstance(odd, BlockWeight) and torch.equal(odd, stored[name])
    assert all(isinstance(weight, BlockWeight) for weight in weights.values())
    assert packed(network) is not None


def test_a_folder_that_lacks_a_weight_is_refused(model, tmp_path):
    source = dequantised(model)
    stored = load_file(next(source.glob("*.safetensors")))
    del stored["model.norm.weight"]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(
        ModelError, match=r"lacks 1 weights of its architecture, such as 'model\.norm\.weight"
    ):
        load_in_blocks(tmp_path, model.gguf)


def test_which_tunes_are_over_blocks(model, monkeypatch, tmp_path):
    monkeypatch.setattr(blocked, "best_device", lambda: "cpu")
    assert blocks_for(model, "qlora") == model.gguf
    assert blocks_for(model, "lora") is None
    assert blocks_for(replace(model, gguf=None), "qlora") is None
    assert blocks_for(resolve(str(make_tiny_gguf(tmp_path / "plain.gguf"))), "qlora") is None
    monkeypatch.setattr(blocked, "best_device", lambda: "cuda")
    assert blocks_for(model, "qlora") is None
    monkeypatch.setattr(blocked, "best_device", lambda: "cpu")
    said = said_of_blocks(load_in_blocks(dequantised(model), model.gguf))
    assert said is not None and said.startswith("learned over the blocks of the model's own file: ")
