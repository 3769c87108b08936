import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from rung.engines import lora
from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine
from rung.engines.torch import TorchEngine, load_model
from rung.errors import ModelError
from rung.training import adapter
from rung.training.adapter import permute, to_gguf
from tests.fixtures_ship import make_gguf
from tests.fixtures_tiny import randomise, tiny

TEXTS = (
    "The capital of France is",
    "Translate to German: good morning",
    "def add(a, b):\n    return",
    "Water boils at a temperature of",
    "She opened the door and",
    "1, 2, 3, 4,",
)
SIZE = 0.1
"""Of a random adapter: it changes what the model says by much, and leaves likely tokens likely."""


def saved(folder: Path, kind: str) -> dict:
    """A random adapter of the tiny model as a PEFT folder; returns the model's config."""
    model = tiny(kind, dtype=torch.float32)
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    lora.save(model, folder, base="tiny")
    return model.config.to_dict()


def field(reader: GGUFReader, name: str):
    found = reader.get_field(name)
    assert found is not None, name
    return found.contents()


@pytest.mark.parametrize(("kind", "architecture"), [("llama", "llama"), ("gemma", "gemma3")])
def test_every_matrix_is_in_the_file_under_llama_cpps_name(tmp_path, kind, architecture):
    config = saved(tmp_path / "peft", kind)
    reader = GGUFReader(to_gguf(tmp_path / "peft", tmp_path / "a.gguf", config=config))
    assert field(reader, "general.architecture") == architecture
    assert field(reader, "general.type") == "adapter"
    assert field(reader, "adapter.type") == "lora"
    assert field(reader, "adapter.lora.alpha") == 6.0
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert sorted(found) == sorted(
        f"blk.{n}.{part}.weight.lora_{m}" for n in range(2) for part in parts for m in "ab"
    )
    ours = load_file(tmp_path / "peft" / lora.ADAPTER_WEIGHTS)
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "ffn_down": "mlp.down_proj"}
    heads = {"attn_q": 4, "attn_k": 2}
    for part, module in names.items():
        for matrix in "ab":
            tensor = ours[f"base_model.model.model.layers.1.{module}.lora_{matrix.upper()}.weight"].numpy()
            if kind == "llama" and matrix == "b" and part in heads:
                assert not np.array_equal(found[f"blk.1.{part}.weight.lora_b"], tensor.astype(np.float16))
                tensor = permute(tensor, heads[part])
            assert np.array_equal(found[f"blk.1.{part}.weight.lora_{matrix}"], tensor.astype(np.float16))


@pytest.mark.parametrize(("heads", "key_heads"), [(9, 3), (4, 4), (8, 1)])
def test_the_permutation_is_undone_by_the_one_that_reads_llama_files(heads, key_heads):
    reader = LlamaTensorProcessor()
    for count in (heads, key_heads):
        rows = np.arange(count * 8 * 3).reshape(count * 8, 3)
        assert np.array_equal(reader._reverse_permute_weights(permute(rows, count), heads, count), rows)
        assert not np.array_equal(permute(rows, count), rows)


def test_the_first_half_of_each_head_goes_to_the_even_places():
    assert permute(np.arange(12), 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_mistral_goes_by_the_name_of_llama(tmp_path):
    config = saved(tmp_path / "peft", "llama") | {"model_type": "mistral"}
    reader = GGUFReader(to_gguf(tmp_path / "peft", tmp_path / "a.gguf", config=config))
    assert field(reader, "general.architecture") == "llama"


def test_what_llama_cpp_has_no_place_for_is_refused(tmp_path):
    config = saved(tmp_path / "peft", "llama")
    with pytest.raises(ModelError, match="'martian'; answer with the torch engine"):
        to_gguf(tmp_path / "peft", tmp_path / "a.gguf", config=config | {"model_type": "martian"})
    with pytest.raises(ModelError, match=r"no place for the tensor .*layers\.1"):
        to_gguf(tmp_path / "peft", tmp_path / "a.gguf", config=config | {"num_hidden_layers": 1})
    assert not (tmp_path / "a.gguf").exists()


class Twin:
    """One base model with the torch engine and, adapter by adapter, the llama engine."""

    def __init__(self, model: str | Path, texts: Sequence[str] = TEXTS) -> None:
        from rung.models.chat import load_chat
        from rung.models.resolve import resolve
        from rung.models.weights import dequantised

        self.model = resolve(str(model))
        chat = load_chat(self.model)
        self.prompts = [chat._with_bos(chat.tokens.encode(text, special=False)) for text in texts]
        self.weights = dequantised(self.model)
        self.config = json.loads((self.weights / "config.json").read_text())
        self.network = load_model(self.weights)
        spec = EngineSpec(engine="torch", weights=self.weights, threads=1)
        self.torch = TorchEngine(spec, model=self.network)

    def difference(self, adapter: Path | None) -> float:
        """Mean absolute difference of the two engines' log-probabilities over torch's likely next tokens."""
        with torch.inference_mode():
            top = [
                self.network(torch.tensor([p])).logits[0, -1].topk(5).indices.tolist() for p in self.prompts
            ]
        llama = LlamaEngine(
            EngineSpec(
                engine="llama", gguf=self.model.gguf, adapter=adapter, context=256, parallel=1, threads=1
            )
        )
        pairs = [
            pair
            for prompt, tokens in zip(self.prompts, top, strict=True)
            for engine_pair in (
                zip(
                    self.torch.next_logprobs([prompt], tokens)[0],
                    llama.next_logprobs([prompt], tokens)[0],
                    strict=True,
                ),
            )
            for pair in engine_pair
            if max(pair) > -4.6
        ]
        llama.close()
        assert len(pairs) > len(self.prompts)
        return sum(abs(a - b) for a, b in pairs) / len(pairs)

    def tuned(self, size: float, folder: Path) -> float:
        """Put a random adapter of a size on torch's network, and into the folder; how much that changes."""
        plain, _ = self._says(), lora.attach(self.network, rank=16, alpha=32, seed=0)
        generator = torch.Generator().manual_seed(1)
        for _, layer in lora.layers(self.network):
            layer.lora_b.data.copy_(torch.empty(layer.lora_b.shape).normal_(0, size, generator=generator))
        lora.save(self.network, folder, base="tiny")
        return sum(abs(a - b) for a, b in zip(plain, self._says(), strict=True)) / len(plain)

    def _says(self) -> list[float]:
        return [row[0] for row in self.torch.next_logprobs(self.prompts, [self.prompts[0][-1]])]


@pytest.mark.parametrize(("architecture", "wrongly"), [("llama", "nothing"), ("gemma3", "gemma3")])
def test_llama_cpp_with_the_converted_adapter_says_what_torch_says_with_the_peft_one(
    architecture, wrongly, tmp_path, monkeypatch
):
    twin = Twin(make_gguf(tmp_path / "tiny.gguf", architecture))
    without = twin.difference(None)
    effect = twin.tuned(SIZE, tmp_path / "peft")
    right = twin.difference(to_gguf(tmp_path / "peft", tmp_path / "right.gguf", config=twin.config))
    monkeypatch.setattr(adapter, "PERMUTED", frozenset({wrongly}))
    wrong = twin.difference(to_gguf(tmp_path / "peft", tmp_path / "wrong.gguf", config=twin.config))
    missing = twin.difference(None)
    assert effect > 0.3
    assert right < 0.15
    assert right < 3 * max(without, 0.03)
    assert wrong > 3 * right
    assert missing > 3 * right


@pytest.mark.models
@pytest.mark.parametrize(("name", "size"), [("smollm2-135m", 0.1), ("gemma-3-270m", 0.02)])
def test_so_it_does_over_the_quantised_weights_of_the_models_that_people_use(name, size, tmp_path):
    twin = Twin(name, TEXTS[:4])
    effect = twin.tuned(size, tmp_path / "peft")
    right = twin.difference(to_gguf(tmp_path / "peft", tmp_path / "right.gguf", config=twin.config))
    assert effect > 0.3
    assert right < 0.15
