"""A model whose frozen weights stay in the blocks of its GGUF file, for a LoRA to be learned over them."""

import mmap
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from rung.engines.block_weight import READ, Blocks, BlockWeight, Scratch, blocks_of
from rung.engines.device import best_device, best_dtype
from rung.engines.lora import block_linears
from rung.engines.rows import Network
from rung.engines.torch import require_plain
from rung.errors import ModelError
from rung.memory import give_back
from rung.models.resolve import Model, read_header
from rung.models.weights import quiet
from rung.task.model import TuningMethod
from rung.training.adapter import PERMUTED, architecture_of, gguf_names, permuted

MIB = 2**20


def blocks_for(model: Model, method: TuningMethod) -> Path | None:
    """The GGUF file over whose blocks such a tune is learned here; None where it is over other weights."""
    if method != "qlora" or best_device() != "cpu" or model.gguf is None:
        return None
    return model.gguf if _can_stay_packed(model.gguf) else None


def _can_stay_packed(gguf: Path) -> bool:
    """Whether most of the file's matrices are in blocks that are read here."""
    tensors = read_header(gguf).tensors
    wide = [t for t in tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    return 2 * sum(t.kind in READ for t in wide) > len(wide)


def in_blocks(model: Network) -> bool:
    """Whether a model is one of these."""
    return bool(_held(model))


def said_of_blocks(model: Network) -> str | None:
    """What such a model's matrices take, in a sentence; None for other models."""
    if not (found := _held(model)):
        return None
    held = sum(part.bytes for weight in found for part in weight.parts)
    dense = sum(weight.numel() * weight.element_size() for weight in found)
    return (
        f"learned over the blocks of the model's own file: {held / MIB:,.0f} MiB of memory in place of "
        f"{dense / MIB:,.0f} MiB, and each step makes them dense on its way"
    )


def _held(model: Network) -> list[BlockWeight]:
    return [p for p in model.parameters() if isinstance(p, BlockWeight)]


def load_in_blocks(folder: Path, gguf: Path, attention: str = "sdpa") -> Network:
    """The causal language model in `folder`, that was made of this GGUF file, on the CPU and in eval mode.

    A matrix of the decoder blocks stays in the file's blocks where these give, rounded, just what the folder
    holds; any other is dense. None of the matrices that stay is ever held dense with the others. Raises
    ModelError where the folder lacks a weight.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with quiet(), no_init_weights():
        model: Network = AutoModelForCausalLM.from_config(
            config, dtype=best_dtype(), attn_implementation=attention, trust_remote_code=False
        )
    model.tie_weights()
    model.requires_grad_(False)
    _fill(model, folder, _Packed(gguf, config.to_dict()))
    model.eval()
    require_plain(model)
    give_back()
    return model


class _Packed:
    """The matrices of a GGUF file by transformers' module names."""

    def __init__(self, gguf: Path, config: dict) -> None:
        self.path, self.config = gguf, config
        self.tensors = {tensor.name: tensor for tensor in read_header(gguf).tensors}
        self.names = gguf_names(config)

    def find(self, module: str, shape: tuple[int, int]) -> Blocks | None:
        """The module's weight [out, in] in its blocks and in transformers' order of rows."""
        tensor = self.tensors.get(f"{self.names.get_name(module)}.weight")
        if tensor is None or tensor.shape != shape or tensor.size is None:
            return None
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            raw = np.frombuffer(data[tensor.begin : tensor.begin + tensor.size], dtype=np.uint8)
        found = blocks_of(raw, tensor.kind, shape)
        if found is None or architecture_of(self.config) not in PERMUTED:
            return found
        return found.in_order(np.argsort(permuted(np.arange(shape[0]), module, self.config)))


def _stands_for(blocks: Blocks, stored: torch.Tensor) -> bool:
    return torch.equal(BlockWeight([blocks], stored.dtype).dense(), stored)


def _fill(model: Network, folder: Path, packed: _Packed) -> None:
    linears = {f"{name}.weight": layer for name, layer in block_linears(model)}
    missing, scratch = dict(model.named_parameters()), Scratch()
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for key in tensors.keys() & missing.keys():
                parameter, stored = missing.pop(key), tensors.get_tensor(key)
                if stored.shape != parameter.shape:
                    raise ModelError(f"{str(shard)!r}: {key!r} has the shape {tuple(stored.shape)}")
                layer = linears.get(key)
                found = None
                if layer is not None:
                    found = packed.find(key.removesuffix(".weight"), (layer.out_features, layer.in_features))
                if layer is None or found is None or not _stands_for(found, stored):
                    parameter.data.copy_(stored)
                    continue
                held = BlockWeight([found], parameter.dtype, scratch)
                layer.weight = nn.Parameter(held, requires_grad=False)
    if missing:
        first = next(iter(missing))
        raise ModelError(
            f"{str(folder)!r} lacks {len(missing)} weights of its architecture, such as {first!r}"
        )
