"""LoRA layers that train and answer: attach, count, save and load in PEFT's own folder format."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from rung.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class _LoraFunction(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ with W frozen: no gradient of W, and the low-rank part added in place."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):  # noqa: PLR0913 (autograd fixes the signature)
        a_cast, b_cast = a.to(x.dtype), b.to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ a_cast.t()
        out = nn.functional.linear(rows, weight, bias)
        out.addmm_(hidden, b_cast.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, a_cast, b_cast, hidden)
        ctx.scale = scale
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        rows, weight, a, b, hidden = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_hidden = (grad_rows @ b).mul_(ctx.scale)
        grad_a = grad_hidden.t() @ rows
        grad_b = (hidden.t() @ grad_rows).t() * ctx.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight).addmm_(grad_hidden, a)
            grad_x = grad_x.view(*grad.shape[:-1], weight.shape[1])
        return grad_x, None, None, grad_a.float(), grad_b.float(), None


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update: W + (alpha / rank) B A.

    A is [rank, in] and B is [out, rank], both fp32 master weights; B starts at zero (Hu et al. 2021).
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = base.weight
        self.bias = base.bias
        self.scale = alpha / rank
        bound = 1 / math.sqrt(base.in_features)
        start = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(start)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] → [..., out]."""
        return _LoraFunction.apply(x, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)  # type: ignore[return-value]


def attach(model: nn.Module, *, rank: int, alpha: float, seed: int) -> None:
    """Freeze `model` and put a LoRA layer on every linear layer of its decoder blocks (all-linear)."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in _block_linears(model):
        _replace(model, name, LoraLinear(layer, rank, alpha, generator))


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The LoRA layers with their module paths, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters: every A and B."""
    return [p for _, layer in layers(model) for p in (layer.lora_a, layer.lora_b)]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all A and B by PEFT's tensor names."""
    tensors = {}
    for name, layer in layers(model):
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_a.detach().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_b.detach().clone()
    return tensors


def restore(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Set all A and B from PEFT's tensor names. Raises ModelError where a tensor is missing or misshapen."""
    wanted = state(model)
    wrong = sorted(k for k in wanted.keys() | tensors.keys() if not _same_shape(wanted, tensors, k))
    if wrong:
        raise ModelError(
            f"the adapter doesn't fit the model: {len(wrong)} of {len(wanted)} tensors are missing or "
            f"misshapen, the first is {wrong[0]!r}; it was made for another base model"
        )
    for name, layer in layers(model):
        layer.lora_a.data.copy_(tensors[f"base_model.model.{name}.lora_A.weight"])
        layer.lora_b.data.copy_(tensors[f"base_model.model.{name}.lora_B.weight"])


def save(model: nn.Module, folder: Path, *, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
    from safetensors.torch import save_file

    found = list(layers(model))
    rank = found[0][1].lora_a.shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": found[0][1].scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in found}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(model), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(model: nn.Module, folder: Path) -> None:
    """Attach LoRA layers and fill them from a PEFT folder."""
    from safetensors.torch import load_file

    config = read_config(folder)
    attach(model, rank=int(config["r"]), alpha=float(config["lora_alpha"]), seed=0)
    restore(model, load_file(folder / ADAPTER_WEIGHTS))


def read_config(folder: Path) -> dict:
    """PEFT's adapter_config.json. Raises ModelError where it isn't a plain LoRA."""
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no readable adapter at {folder}: {error}; a PEFT folder holds {ADAPTER_CONFIG}"
        ) from None
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise ModelError(f"{path}: only plain LoRA adapters are read, this is {config.get('peft_type')!r}")
    return config


def _same_shape(wanted: dict, given: dict, key: str) -> bool:
    return key in wanted and key in given and wanted[key].shape == given[key].shape


def _block_linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{name}"
    ]


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
