"""LoRA layers, plain, rank-stabilised or weight-decomposed: attach, save and load in PEFT's folder format."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rung.engines.rows import Network
from rung.errors import ModelError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
UNREAD = (
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


class _GainFunction(torch.autograd.Function):
    """y = g x for each row of x [..., out]: with less kept and done on the way back than autograd does."""

    @staticmethod
    def forward(ctx, x, gain):
        ctx.save_for_backward(x, gain)
        return x * gain.to(x.dtype)

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        x, gain = ctx.saved_tensors
        products = (grad * x).reshape(-1, len(gain))
        grad_gain = products.new_ones(1, len(products)) @ products
        return grad * gain.to(x.dtype), grad_gain[0].to(gain.dtype)


def _product(rows, weight, bias, a, b, scale):
    a_cast, b_cast = a.to(rows.dtype), b.to(rows.dtype)
    hidden = rows @ a_cast.t()
    out = nn.functional.linear(rows, weight, bias)
    return out.addmm_(hidden, b_cast.t(), alpha=scale), hidden, a_cast, b_cast


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a LoRA adds to a weight W [out, in]: s B A, where s is alpha / rank.

    `rslora`: s is alpha / √rank, so that a high rank learns as fast as a low one (Kalajdzievski 2023,
    arXiv:2312.03732). `dora`: each output's row of W + s B A is brought to a length that is learned (Liu et
    al. 2024, arXiv:2402.09353).
    """

    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update, as its `form` says.

    A is [rank, in], B is [out, rank] and the magnitude of DoRA [out], all master weights in fp32, or in the
    base's own type where that is finer. `draw` sets them to where training starts. With `blocks`, which stand
    for the base's weight, that isn't held.
    """

    def __init__(self, base: nn.Linear, form: Form, blocks: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = blocks
        self.weight: Any = base.weight if blocks is None else None
        self.bias = base.bias
        self.form, self.scale = form, form.scale
        kind = {
            "dtype": torch.promote_types(base.weight.dtype, torch.float32),
            "device": base.weight.device,
        }
        self.lora_a = nn.Parameter(torch.zeros(form.rank, base.in_features, **kind))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, form.rank, **kind))
        self.magnitude = nn.Parameter(torch.zeros(base.out_features, **kind)) if form.dora else None
        self._squares = _row_squares(base.weight) if form.dora else None
        self._lengths: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] → [..., out]."""
        if self.blocks is not None:
            added = (x @ self.lora_a.to(x.dtype).t()) @ self.lora_b.to(x.dtype).t()
            return torch.add(self.blocks(x), added, alpha=self.scale)
        gain = self.gain()
        bias = self.bias if gain is None else None
        if torch.is_grad_enabled():
            out = _LoraFunction.apply(x, self.weight, bias, self.lora_a, self.lora_b, self.scale)
        else:
            rows = x.reshape(-1, x.shape[-1])
            out, *_ = _product(rows, self.weight, bias, self.lora_a, self.lora_b, self.scale)
            out = out.view(*x.shape[:-1], self.weight.shape[0])
        return out if gain is None else gained(out, gain, self.bias)  # type: ignore[return-value]

    def gain(self) -> torch.Tensor | None:
        """What each output is multiplied by [out]: DoRA's magnitude over the length of the updated row.

        That length has no gradient of its own (section 4.3 of the paper). None for other forms, and while the
        update is switched off.
        """
        if self.magnitude is None or not self.scale:
            return None
        if torch.is_grad_enabled():
            with torch.no_grad():
                lengths = self._row_lengths()
            return self.magnitude / lengths
        if self._lengths is None:
            self._lengths = self._row_lengths()
        return self.magnitude / self._lengths

    def train(self, mode: bool = True) -> "LoraLinear":
        """As of any module; the rows' lengths, which are kept while nothing learns, are worked out anew."""
        self._lengths = None
        return super().train(mode)

    def _row_lengths(self) -> torch.Tensor:
        """‖W + s B A‖ of each row [out], from products as small as the rank."""
        a, b = self.lora_a, self.lora_b
        crossed = ((self.weight @ a.to(self.weight.dtype).t()).to(b.dtype) * b).sum(1)
        assert self._squares is not None, "DoRA alone asks"
        squares = self._squares + 2 * self.scale * crossed + self.scale**2 * ((b @ (a @ a.t())) * b).sum(1)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _row_squares(weight: torch.Tensor) -> torch.Tensor:
    """‖W‖² of each row [out], in fp32 or finer."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).square().sum(1)


def gained(out: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Outputs [..., out] times their gains [out], and the bias added."""
    out = _GainFunction.apply(out, gain)  # type: ignore[assignment]
    return out if bias is None else out + bias


def gains(members: Sequence[nn.Module]) -> torch.Tensor | None:
    """The gains [outputs] of layers side by side, 1 for those that have none; None where none has."""
    found = [member.gain() if isinstance(member, LoraLinear) else None for member in members]
    known = next((gain for gain in found if gain is not None), None)
    if known is None:
        return None
    sizes = [len(member.weight) for member in members]  # type: ignore[arg-type]
    parts = zip(found, sizes, strict=True)
    return torch.cat([known.new_ones(size) if gain is None else gain for gain, size in parts])


def attach(model: Network, *, seed: int, **form: Any) -> None:
    """Freeze `model` and put a LoRA layer on every linear layer of its decoder blocks (all-linear).

    `form` are the fields of a Form.
    """
    _attach(model, block_linears(model), Form(**form))
    draw(model, seed)


def draw(model: Network, seed: int) -> None:
    """Where training starts: A random by the seed, B zero (Hu et al. 2021), magnitudes those of W."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in layers(model):
        bound = 1 / math.sqrt(layer.lora_a.shape[1])
        start = torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator)
        layer.lora_a.data.copy_(start)
        layer.lora_b.data.zero_()
        if layer.magnitude is not None:
            layer.magnitude.data.copy_(_row_squares(layer.weight).sqrt())
    forget_lengths(model)


def forget_lengths(model: Network) -> None:
    """Work out anew, from now on, what depends on A and B: they were set from outside."""
    for _, layer in layers(model):
        layer._lengths = None


def layers(model: Network) -> Iterator[tuple[str, LoraLinear]]:
    """The LoRA layers with their module paths, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def parameters(model: Network) -> list[nn.Parameter]:
    """The trainable low-rank parameters: every layer's A, then its B."""
    return [p for _, layer in layers(model) for p in (layer.lora_a, layer.lora_b)]


def magnitudes(model: Network) -> list[nn.Parameter]:
    """DoRA's magnitudes, in the layers' order; none of other forms."""
    return [layer.magnitude for _, layer in layers(model) if layer.magnitude is not None]


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
    """Copies of all that learns by PEFT's tensor names."""
    return {key: value.detach().clone() for key, value in _named(model)}


def _named(model: Network) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in layers(model):
        yield f"{PREFIX}{name}.lora_A.weight", layer.lora_a
        yield f"{PREFIX}{name}.lora_B.weight", layer.lora_b
        if layer.magnitude is not None:
            yield f"{PREFIX}{name}.{MAGNITUDE}", layer.magnitude


def restore(model: Network, tensors: dict[str, torch.Tensor]) -> None:
    """Set all that learns from PEFT's tensor names. ModelError where a tensor is missing or misshapen."""
    wanted = state(model)
    wrong = sorted(k for k in wanted.keys() | tensors.keys() if not _same_shape(wanted, tensors, k))
    if wrong:
        raise ModelError(
            f"the adapter doesn't fit the model: {len(wrong)} of {len(wanted)} tensors are missing or "
            f"misshapen, the first is {wrong[0]!r}; it was made for another base model"
        )
    for key, parameter in _named(model):
        parameter.data.copy_(tensors[key])
    forget_lengths(model)


def save(model: Network, folder: Path, *, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` as PEFT reads them."""
    found = list(layers(model))
    form = found[0][1].form
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": form.rslora,
        "use_dora": form.dora,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name, _ in found}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(model), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(model: Network, folder: Path) -> None:
    """Put LoRA layers on the linear layers that a PEFT folder names, and fill them.

    Raises ModelError where the adapter isn't a LoRA of one form or doesn't fit the model.
    """
    config = read_config(folder)
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"no readable adapter weights in {folder}: {error}") from None
    form = form_of(config)
    downs = {key: value for key, value in tensors.items() if key.endswith(".lora_A.weight")}
    odd = sorted(key for key, value in downs.items() if value.shape[:1] != (form.rank,))
    if odd:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} says r: {form.rank}, but {odd[0]!r} has the shape "
            f"{tuple(downs[odd[0]].shape)!r}; tune again"
        )
    named = {key.removeprefix(PREFIX).removesuffix(".lora_A.weight") for key in downs}
    found = [(name, layer) for name, layer in block_linears(model) if name in named]
    _attach(model, found, form)
    restore(model, tensors)


def read_config(folder: Path) -> dict:
    """PEFT's adapter_config.json. Raises ModelError where it isn't a LoRA of one form."""
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
            f"{path}: only LoRA adapters of one form are read, this one sets {odd[0]} = {config[odd[0]]!r}; "
            "train it again without"
        )
    return config


def form_of(config: Mapping[str, Any]) -> Form:
    """The form that an adapter_config.json tells of. Raises ModelError where it names no rank or alpha."""
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError):
        rank, alpha = 0, 0.0
    if rank < 1:
        raise ModelError(f"{ADAPTER_CONFIG} names no rank and alpha of its LoRA; tune again")
    return Form(
        rank=rank, alpha=alpha, rslora=bool(config.get("use_rslora")), dora=bool(config.get("use_dora"))
    )


def _same_shape(wanted: dict, given: dict, key: str) -> bool:
    return key in wanted and key in given and wanted[key].shape == given[key].shape


def block_linears(model: Network) -> list[tuple[str, nn.Linear]]:
    """The linear layers of the decoder blocks with their module paths."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in f".{name}"
    ]


def attach_over_blocks(
    model: Network, blocks: Callable[[nn.Linear], nn.Module], *, rank: int, alpha: float, seed: int
) -> None:
    """As `attach`, with what `blocks` makes of each layer in the place of its weight, which is let go."""
    _attach(model, block_linears(model), Form(rank=rank, alpha=alpha), blocks)
    draw(model, seed)


def _attach(
    model: Network,
    found: list[tuple[str, nn.Linear]],
    form: Form,
    blocks: Callable[[nn.Linear], nn.Module] | None = None,
) -> None:
    if not found:
        raise ModelError(
            f"nothing to adapt: {model.config.model_type!r} has no such linear layers, or has LoRA "
            "layers already"
        )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, layer in found:
        parent, _, leaf = name.rpartition(".")
        made = LoraLinear(layer, form, blocks(layer) if blocks is not None else None)
        setattr(model.get_submodule(parent), leaf, made)
