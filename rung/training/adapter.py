"""A PEFT adapter as a GGUF LoRA: the same numbers under llama.cpp's names and row order."""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from rung.engines.lora import ADAPTER_WEIGHTS, PREFIX, form_of, read_config
from rung.errors import ModelError

NAMES = {"gemma3_text": "gemma3", "mistral": "llama"}
"""What llama.cpp calls an architecture, where transformers calls it otherwise."""
PERMUTED = frozenset({"llama", "granite", "smollm3", "arcee"})
"""Architectures whose query and key rows llama.cpp stores pairwise interleaved for its rotary kernel."""


def to_gguf(folder: Path, out: Path, *, config: dict) -> Path:
    """Write the PEFT adapter in `folder` as `out`, in fp16. `config` is the base's transformers config.

    llama.cpp scales by alpha over the rank: a rank-stabilised adapter gets the alpha that comes to the same.
    Raises ModelError for an unknown architecture or tensor, and for DoRA, which llama.cpp can't run.
    """
    form = form_of(read_config(folder))
    if form.dora:
        raise ModelError(
            f"{str(folder)!r} is a DoRA, which llama.cpp has no adapters for: answer with the torch engine, "
            "or merge it into the weights"
        )
    found = matrices(folder, config=config)
    tensors = {name: np.ascontiguousarray(tensor.astype(np.float16)) for name, tensor in found.items()}
    writer = gguf.GGUFWriter(str(out), architecture_of(config))
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, form.scale * form.rank)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def matrices(folder: Path, *, config: dict) -> dict[str, np.ndarray]:
    """What the PEFT adapter in `folder` holds under llama.cpp's names: `blk.0.attn_q.weight.lora_a`.

    Each A stays [rank, in], each B [out, rank] and each magnitude [out]; for llama's query and key the rows
    of B and the magnitudes follow the permutation that llama.cpp's converter gives the weight. Raises
    ModelError for an unknown architecture or tensor.
    """
    architecture, names = architecture_of(config), gguf_names(config)
    tensors = {}
    for key, tensor in sorted(load_file(folder / ADAPTER_WEIGHTS).items()):
        module, matrix = split(key)
        name = names.get_name(module)
        if name is None:
            raise ModelError(f"{folder}: llama.cpp has no place for the tensor {key!r} of {architecture!r}")
        if matrix != "lora_a" and architecture in PERMUTED:
            tensor = permuted(tensor, module, config)
        tensors[f"{name}.weight.{matrix}"] = tensor
    return tensors


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows [heads × width, …] from transformers' half-split rotary layout to llama.cpp's pairs."""
    return (
        rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows.shape)
    )


def permuted(tensor: np.ndarray, module: str, config: dict) -> np.ndarray:
    """The rows of a query's or key's tensor as llama.cpp orders them; another module's as they are."""
    if module.endswith("q_proj"):
        return permute(tensor, int(config["num_attention_heads"]))
    if module.endswith("k_proj"):
        return permute(tensor, int(config.get("num_key_value_heads") or config["num_attention_heads"]))
    return tensor


def split(key: str) -> tuple[str, str]:
    """The module that a tensor of a PEFT folder is of, and which: `lora_a`, `lora_b` or DoRA's `lora_m`."""
    module, _, rest = key.removeprefix(PREFIX).partition(".lora_")
    return module, f"lora_{rest[0].lower()}"


def gguf_names(config: dict) -> gguf.TensorNameMap:
    """llama.cpp's names of modules. Raises ModelError for an unknown architecture."""
    return gguf.get_tensor_name_map(_arch_enum(architecture_of(config)), int(config["num_hidden_layers"]))


def architecture_of(config: dict) -> str:
    """What llama.cpp calls the architecture of a transformers config."""
    kind = str(config["model_type"])
    return NAMES.get(kind, kind)


def _arch_enum(architecture: str):
    for enum, name in gguf.MODEL_ARCH_NAMES.items():
        if name == architecture:
            return enum
    raise ModelError(
        f"llama.cpp doesn't know the architecture {architecture!r}; answer with the torch engine"
    )
