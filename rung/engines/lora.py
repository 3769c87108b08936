"""LoRA layers that train and answer: attach, count, save and load in PEFT's own folder format."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rung.engines.rows import Network
from rung.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
UNREAD = (
    "use_dora",
    "use_rslora",
    "bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
)
"""Settings of PEFT that change what an adapter does and that aren't read here."""


class _LoraFunction(torch.autograd.Function):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ with W frozen: no gradient of W, and the low-rank part added in place."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):  # noqa: PLR0913 (autograd fixes the signature)
        rows = x.reshape(-1, x.shape[-1])
        out, hidden, a_cast, b_cast = _product(rows, weight, bias, a, b, scale)
        ctx.save_for_backward(rows, weight, a_cast, b_cast, hidden)
        ctx.scale, ctx.master = scale, a.dtype
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        rows, weight, a, b, hidden = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_hidden = (grad_rows @ b).mul_(ctx.scale)
        grad_a = grad_hidden.t() @ rows
        grad_b = (grad_rows.t() @ hidden).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ weight).addmm_(grad_hidden, a)
            grad_x = grad_x.view(*grad.shape[:-1], weight.shape[1])
        return grad_x, None, None, grad_a.to(ctx.master), grad_b.to(ctx.master), None


def _product(rows, weight, bias, a, b, scale):
    a_cast, b_cast = a.to(rows.dtype), b.to(rows.dtype)
    hidden = rows @ a_cast.t()
    out = nn.functional.linear(rows, weight, bias)
    return out.addmm_(hidden, b_cast.t(), alpha=scale), hidden, a_cast, b_cast


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update: W + (alpha / rank) B A.

    A is [rank, in] and B is [out, rank], both master weights in fp32, or in the base's own type where that
    is finer. `draw` sets them to where training starts.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight = base.weight
        self.bias = base.bias
        self.scale = alpha / rank
        kind = {
            "dtype": torch.promote_types(base.weight.dtype, torch.float32),
            "device": base.weight.device,
        }
        self.lora_a = nn.Parameter(torch.zeros(rank, base.in_features, **kind))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, **kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] → [..., out]."""
        if torch.is_grad_enabled():
            return _LoraFunction.apply(x, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)  # type: ignore[return-value]
        rows = x.reshape(-1, x.shape[-1])
        out, *_ = _product(rows, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)
        return out.view(*x.shape[:-1], self.weight.shape[0])


def attach(model: Network, *, rank: int, alpha: float, seed: int) -> None:
    """Freeze `model` and put a LoRA layer on every linear layer of its decoder blocks (all-linear)."""
    _attach(model, _block_linears(model), rank, alpha)
    draw(model, seed)


def draw(model: Network, seed: int) -> None:
    """Where training starts: every A random by the seed, every B zero (Hu et al. 2021)."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        bound = 1 / math.sqrt(layer.lora_a.shape[1])
        start = torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator)
        layer.lora_a.data.copy_(start)
        layer.lora_b.data.zero_()


def layers(model: Network) -> Iterator[tuple[str, LoraLinear]]:
    """The LoRA layers with their module paths, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def parameters(model: Network) -> list[nn.Parameter]:
    """The trainable parameters: every layer's A, then its B."""
    return [p for _, layer in layers(model) for p in (layer.lora_a, layer.lora_b)]


@contextmanager
def switched_off(model: Network) -> Iterator[None]:
    """The base model's own answers while the block runs: every layer's update counts for nothing."""
    scales = [(layer, layer.scale) for _, layer in layers(model)]
    try:
        for layer, _ in scales:
            layer.scale = 0.0
        yield
    finally:
        for layer, scale in scales:
            layer.scale = scale


def state(model: Network) -> dict[str, torch.Tensor]:
    """Copies of all A and B by PEFT's tensor names."""
    tensors = {}
    for name, layer in layers(model):
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_a.detach().clone()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_b.detach().clone()
    return tensors


def restore(model: Network, tensors: dict[str, torch.Tensor]) -> None:
    """Set all A and B from PEFT's tensor names. Raises ModelError where a tensor is missing or misshapen."""
    wanted = state(model)
    wrong = sorted(k for k in wanted.keys() | tensors.keys() if not _same_shape(wanted, tensors, k))
    if wrong:
        raise ModelError(
            f"the adapter doesn't fit the model: {len(wrong)} of {len(wanted)} tensors are missing or "
            f"misshapen, the first is {wrong[0]!r}; it was made for another base model"
        )
    for name, layer in layers(model):
        layer.lora_a.data.copy_(tensors[f"{PREFIX}{name}.lora_A.weight"])
        layer.lora_b.data.copy_(tensors[f"{PREFIX}{name}.lora_B.weight"])


def save(model: Network, folder: Path, *, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
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


def load(model: Network, folder: Path) -> None:
    """Put LoRA layers on the linear layers that a PEFT folder names, and fill them.

    Raises ModelError where the adapter isn't a plain LoRA or doesn't fit the model.
    """
    config = read_config(folder)
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"no readable adapter weights in {folder}: {error}") from None
    named = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in tensors}
    found = [(name, layer) for name, layer in _block_linears(model) if name in named]
    _attach(model, found, int(config["r"]), float(config["lora_alpha"]))
    restore(model, tensors)


def read_config(folder: Path) -> dict:
    """PEFT's adapter_config.json. Raises ModelError where it isn't a plain LoRA."""
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no readable adapter at {folder}: {error}; a PEFT folder holds {ADAPTER_CONFIG}"
        ) from None
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{path}: only LoRA adapters are read, this is {config.get('peft_type')!r}")
    odd = [name for name in UNREAD if config.get(name) not in (None, False, "none", [], {})]
    if odd:
        raise ModelError(
            f"{path}: only plain LoRA adapters are read, this one sets {odd[0]} = {config[odd[0]]!r}; "
            "train it again without"
        )
    return config


def _same_shape(wanted: dict, given: dict, key: str) -> bool:
    return key in wanted and key in given and wanted[key].shape == given[key].shape


def _block_linears(model: Network) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{name}"
    ]


def _attach(model: Network, found: list[tuple[str, nn.Linear]], rank: int, alpha: float) -> None:
    if not found:
        raise ModelError(
            f"nothing to adapt: {model.config.model_type!r} has no such linear layers, or has LoRA "
            "layers already"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in found:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, LoraLinear(layer, rank, alpha))
