"""Prefix tuning: keys and values that are learned, in front of every layer's own, in PEFT's folder format.

They stand where the first tokens of a prompt would: all tokens after them look at them and count their
positions on from them (Li & Liang 2021, arXiv:2101.00190, without the network that makes them there).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rung.engines.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, form_of, read_config
from rung.engines.packed import Memory, Packed, packed
from rung.engines.rows import Network
from rung.errors import ModelError

NAME = "learned_prefix"
TENSOR = "prompt_embeddings"
KIND = "PREFIX_TUNING"


class Prefix(nn.Module):
    """`numbers` [tokens, layers · 2 · key heads · size]: each layer's key and value, as PEFT lays them out.

    In fp32, or in the model's own type where that is finer.
    """

    def __init__(self, made: Packed, tokens: int) -> None:
        super().__init__()
        block = made.blocks[0]
        self.layers, self.heads = len(made.blocks), block.key_heads
        self.size = made.model.model.layers[0].self_attn.head_dim
        weight = made.model.lm_head.weight
        kind = torch.promote_types(weight.dtype, torch.float32)
        width = self.layers * 2 * self.heads * self.size
        self.numbers = nn.Parameter(torch.zeros(tokens, width, dtype=kind, device=weight.device))

    def memory(self, dtype: torch.dtype) -> Memory:
        """Keys and values [key heads, tokens, size] by layer."""
        laid = self.numbers.to(dtype).view(len(self.numbers), self.layers, 2, self.heads, self.size)
        by_layer = laid.permute(1, 2, 3, 0, 4)
        return [(pair[0], pair[1]) for pair in by_layer]


def attach(model: Network, tokens: int, seed: int) -> Prefix:
    """Freeze `model` and put a prefix of so many tokens before it, as `draw` begins it."""
    prefix = _put(model, tokens)
    draw(model, seed)
    return prefix


def draw(model: Network, seed: int) -> None:
    """Where training starts: the keys and values of as many tokens, drawn by the seed."""
    prefix, made = prefix_of(model), _known(model)
    assert prefix is not None, "attached before"
    generator = torch.Generator().manual_seed(seed)
    vocabulary = made.model.lm_head.weight.shape[0]
    ids = torch.randint(vocabulary, (len(prefix.numbers),), generator=generator).tolist()
    with torch.no_grad():
        _, memory = made.read([ids])
        laid = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in memory])
        prefix.numbers.copy_(laid.permute(3, 0, 1, 2, 4).reshape(prefix.numbers.shape))


def prefix_of(model: Network) -> Prefix | None:
    """A model's prefix, if it has one."""
    return getattr(model, NAME, None)


def memory_of(model: Network) -> Memory | None:
    """What stands before every row of a model: its prefix, in the model's own type; None without one."""
    prefix = prefix_of(model)
    return None if prefix is None else prefix.memory(model.lm_head.weight.dtype)


def restore(model: Network, tensors: Mapping[str, torch.Tensor]) -> None:
    """Set the prefix from PEFT's tensor. Raises ModelError where that is missing or misshapen."""
    prefix = prefix_of(model)
    assert prefix is not None, "attached before"
    found = tensors.get(TENSOR)
    if found is None or found.shape != prefix.numbers.shape:
        shape = None if found is None else tuple(found.shape)
        raise ModelError(
            f"the prefix doesn't fit the model: {TENSOR} is {shape!r}, {tuple(prefix.numbers.shape)!r} is "
            "needed; it was made for another base model"
        )
    prefix.numbers.data.copy_(found)


def save(model: Network, folder: Path, *, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
    prefix = prefix_of(model)
    assert prefix is not None, "attached before"
    config = {
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": len(prefix.numbers),
        "token_dim": prefix.heads * prefix.size,
        "num_attention_heads": prefix.heads,
        "num_layers": prefix.layers,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": prefix.heads * prefix.size,
        "prefix_projection": False,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    numbers = prefix.numbers.detach().cpu().clone()
    save_file({TENSOR: numbers}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(model: Network, folder: Path) -> None:
    """Put the prefix of a PEFT folder before a model. ModelError where it can't be read or doesn't fit."""
    config = kind_and_config(folder)[1]
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        tokens = int(config["num_virtual_tokens"])
    except (OSError, SafetensorError) as error:
        raise ModelError(f"no readable adapter weights in {folder}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{folder / ADAPTER_CONFIG} names no num_virtual_tokens; tune again") from None
    if config.get("prefix_projection"):
        raise ModelError(f"{folder / ADAPTER_CONFIG}: prefixes that a network makes aren't read")
    shape = tensors[TENSOR].shape if TENSOR in tensors else ()
    if shape[:1] != (tokens,):
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} says num_virtual_tokens: {tokens}, but {TENSOR} has the shape "
            f"{tuple(shape)!r}; tune again"
        )
    _put(model, tokens)
    restore(model, tensors)


def kind_and_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """What a PEFT folder's adapter is, by PEFT's names, and its settings. ModelError where none is there."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return str(config["peft_type"]), config
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no readable adapter at {folder}: {error}; a PEFT folder holds {ADAPTER_CONFIG}"
        ) from None


def adapter_form(folder: Path) -> Literal["lora", "dora", "prefix"]:
    """What a PEFT folder's adapter is. Raises ModelError for one that isn't read here."""
    if kind_and_config(folder)[0] == KIND:
        return "prefix"
    return "dora" if form_of(read_config(folder)).dora else "lora"


def _put(model: Network, tokens: int) -> Prefix:
    made = _known(model)
    if tokens < 1:
        raise ModelError(f"a prefix of {tokens!r} tokens is none; tune again")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    prefix = Prefix(made, tokens)
    setattr(model, NAME, prefix)
    return prefix


def _known(model: Network) -> Packed:
    made = packed(model)
    if made is None:
        raise ModelError(
            f"no prefix can stand before {model.config.model_type!r}: only models of Llama's family are read "
            "with one; write `method: lora` under tuning in task.yaml"
        )
    return made
