"""Parts of a decoder block as single autograd functions over flat tokens [tokens, width].

Each does what the model's own modules do, with fewer passes over memory and the way back written by hand:
all linear layers that read the same input are one product, a residual is added where it's normalised, and
nothing is computed for frozen weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

NormStyle = Literal["llama", "gemma"]
"""`llama`: w · round(n). `gemma`: round((1 + w) · n). n is the normalised input in fp32 or finer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The outputs of one LoRA layer among those of a group: columns `start` to `end`, times `scale`."""

    start: int
    end: int
    scale: float


def working(dtype: torch.dtype) -> torch.dtype:
    """The type that reductions run in: fp32, or finer where the model is."""
    return torch.promote_types(dtype, torch.float32)


class _Linear(Function):
    """y = x Wᵀ + b with s (x Aᵀ) Bᵀ added to some slices of the outputs; W and b are frozen.

    x [tokens, in] → [tokens, outputs]. `matrices`: A [rank, in] and B [out, rank] of each slice in turn. With
    an `activation`, x is act(gate) · up of [tokens, gate and up]; with `gains` [in], what comes times these.
    Both are made again on the way back: kept, they would be more than a quarter of all that a block keeps.
    """

    @staticmethod
    def forward(ctx, source, activation, gains, weight, bias, slices, *matrices):  # noqa: PLR0913 (autograd's)
        x = _entered(source, activation, gains)
        out = functional.linear(x, weight, bias)
        hidden = a = None
        bs: list[Tensor] = []
        if slices:
            a = torch.cat([m.to(x.dtype) for m in matrices[0::2]])
            bs = [m.to(x.dtype) for m in matrices[1::2]]
            hidden = x @ a.t()
            for place, part, b in zip(slices, hidden.split([b.shape[1] for b in bs], 1), bs, strict=True):
                out[:, place.start : place.end].addmm_(part, b.t(), alpha=place.scale)
        ctx.slices, ctx.masters, ctx.activation = slices, [m.dtype for m in matrices], activation
        ctx.save_for_backward(source, gains, weight, a, hidden, *bs)
        return out

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        source, gains, weight, a, hidden, *bs = ctx.saved_tensors
        x, act = _gated(source, ctx.activation) if ctx.activation is not None else (source, None)
        if gains is not None and ctx.slices:
            x = x * gains
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        found = []
        if ctx.slices:
            grad_hidden, grad_bs = _hidden_slopes(grad, hidden, bs, ctx.slices)
            if grad_x is not None:
                grad_x.addmm_(grad_hidden, a)
            grad_as = (grad_hidden.t() @ x).split([b.shape[1] for b in bs])
            pairs = [m for both in zip(grad_as, grad_bs, strict=True) for m in both]
            found = [
                torch.empty(m.shape, dtype=dtype, device=m.device).copy_(m)
                for m, dtype in zip(pairs, ctx.masters, strict=True)
            ]
        if ctx.activation is not None and grad_x is not None:
            grad_x = _gate_slope(grad_x, source, act, ctx.activation)
        if gains is not None and grad_x is not None:
            grad_x.mul_(gains)
        return grad_x, None, None, None, None, None, *found


def _hidden_slopes(
    grad: Tensor, hidden: Tensor, bs: Sequence[Tensor], slices: Sequence[Slice]
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of the low-rank states [tokens, ranks] and of each B [out, rank]."""
    ranks = [b.shape[1] for b in bs]
    out, grad_bs = torch.empty_like(hidden), []
    for place, into, part, b in zip(slices, out.split(ranks, 1), hidden.split(ranks, 1), bs, strict=True):
        own = grad[:, place.start : place.end]
        torch.mm(own, b, out=into).mul_(place.scale)
        grad_bs.append((part.t() @ own).mul_(place.scale).t())
    return out, grad_bs


def _entered(source: Tensor, activation: str | None, gains: Tensor | None) -> Tensor:
    """What goes into a linear layer, of what is kept for the way back."""
    if activation is not None:
        return _gate(source, activation)
    return source if gains is None else source * gains


def _gate(both: Tensor, activation: str) -> Tensor:
    """act(gate) · up of [tokens, gate and up]."""
    gate, up = both.chunk(2, 1)
    return ACTIVATIONS[activation][0](gate).mul_(up)


def _gated(both: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """act(gate) · up of [tokens, gate and up], and act(gate)."""
    gate, up = both.chunk(2, 1)
    act = ACTIVATIONS[activation][0](gate)
    return act * up, act


def _gate_slope(grad: Tensor, both: Tensor, act: Any, activation: str) -> Tensor:
    """The gradient of [tokens, gate and up] from that of act(gate) · up."""
    gate, up = both.chunk(2, 1)
    out = torch.empty_like(both)
    into_gate, into_up = out.chunk(2, 1)
    into_gate.copy_(ACTIVATIONS[activation][1](grad * up, gate))
    torch.mul(grad, act, out=into_up)
    return out


class _AddNorm(Function):
    """(x + y, RMS norm of x + y); y may be None. The norm's weight is frozen; None stands for 1."""

    @staticmethod
    def forward(ctx, x, y, weight, eps, style):
        ctx.set_materialize_grads(False)
        total = x if y is None else x + y
        wide = total.to(working(total.dtype))
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = size.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
        wide = wide * inverse
        normed = wide.to(total.dtype)
        ctx.save_for_backward(normed, inverse, weight)
        ctx.style = style
        if weight is None:
            return total, normed
        # Not in place: where the model is in fp32, `normed` is `wide`, and is kept for the way back.
        out = normed * weight if style == "llama" else (wide * (weight.to(wide.dtype) + 1)).to(total.dtype)
        return total, out

    @staticmethod
    def backward(ctx, *grads):
        grad_total, grad_out = grads
        normed, inverse, weight = ctx.saved_tensors
        if grad_out is None:
            return grad_total, grad_total if ctx.needs_input_grad[1] else None, None, None, None
        wide = normed.to(inverse.dtype)
        if weight is None:
            slope = grad_out.to(inverse.dtype)
        elif ctx.style == "llama":
            slope = (grad_out * weight).to(inverse.dtype)
        else:
            slope = grad_out.to(inverse.dtype) * (weight.to(inverse.dtype) + 1)
        share = torch.linalg.vecdot(slope, wide).div_(wide.shape[-1])[..., None]
        grad = torch.addcmul(slope, wide, share, value=-1).mul_(inverse).to(normed.dtype)
        if grad_total is not None:
            grad.add_(grad_total)
        return grad, grad if ctx.needs_input_grad[1] else None, None, None, None


ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "silu": (functional.silu, torch.ops.aten.silu_backward),
    "gelu_pytorch_tanh": (
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
    ),
}
"""What a gate may be, and its way back, by transformers' names."""


class _Rotate(Function):
    """Rotary embedding of heads [tokens, heads, size], as transformers does it: halves, not pairs.

    cos and sin [tokens, 1, size] have equal halves (Su et al. 2021, arXiv:2104.09864).
    """

    @staticmethod
    def forward(ctx, heads, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _rotated(heads, cos, sin, 1)

    @staticmethod
    def backward(ctx, *grads):
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor, way: int) -> Tensor:
    half = heads.shape[-1] // 2
    sin = sin[..., :half]
    out = heads * cos
    out[..., :half].addcmul_(heads[..., half:], sin, value=-way)
    out[..., half:].addcmul_(heads[..., :half], sin, value=way)
    return out


class _Pick(Function):
    """Some of the tokens, each at most once."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.size = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, *grads):
        (places,) = ctx.saved_tensors
        (grad,) = grads
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, places, grad), None


class _Fill(Function):
    """Tokens in slots: `tokens[slot]` is read for every slot, `slots[token]` is where a token stands.

    A slot that no token stands in reads any token; what comes back for it must be zero or is ignored.
    """

    @staticmethod
    def forward(ctx, x, tokens, slots):
        ctx.save_for_backward(slots)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx, *grads):
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Linear layers that read the same input, as one: weight [outputs, in], bias [outputs] or None."""

    weight: Tensor
    bias: Tensor | None

    @property
    def unbiased(self) -> "Weights":
        """The same without the bias."""
        return Weights(weight=self.weight, bias=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """How the input of linear layers is made of what is kept for the way back, which is less.

    With an `activation` that is [tokens, gate and up], and act(gate) · up goes in; with `gains` [in] it's a
    normed state, and goes in times these.
    """

    activation: str | None = None
    gains: Tensor | None = None


AS_IT_IS = Entry()


def linear(
    x: Tensor, frozen: Weights, slices: Sequence[Slice], matrices: Any, entry: Entry = AS_IT_IS
) -> Tensor:
    """x [tokens, in] → [tokens, outputs], with the LoRA layers of `slices`: their A and B in turn."""
    return _Linear.apply(  # type: ignore[return-value]
        x, entry.activation, entry.gains, frozen.weight, frozen.bias, tuple(slices), *matrices
    )


def add_norm(x: Tensor, y: Tensor | None, norm: "Norm") -> tuple[Tensor, Tensor]:
    """(x + y, its RMS norm), both [tokens, width]."""
    return _AddNorm.apply(x, y, norm.weight, norm.eps, norm.style)  # type: ignore[return-value]


def add_norm_for(x: Tensor, y: Tensor | None, norm: "Norm") -> tuple[Tensor, Tensor, Entry]:
    """x + y, and what linear layers make its RMS norm of.

    Unweighed where that rounds alike, as `llama`'s does: then the norm's way back keeps nothing of its own.
    """
    if norm.style == "llama":
        total, normed = _AddNorm.apply(x, y, None, norm.eps, norm.style)  # type: ignore[misc]
        return total, normed, Entry(gains=norm.weight)
    return *add_norm(x, y, norm), AS_IT_IS


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [tokens, heads, size] by cos and sin [tokens, 1, size]."""
    return _Rotate.apply(heads, cos, sin)  # type: ignore[return-value]


def pick(x: Tensor, places: Tensor) -> Tensor:
    """The tokens at `places`; where a gradient is wanted, no place twice."""
    return _Pick.apply(x, places)  # type: ignore[return-value]


def fill(x: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
    """Tokens into slots, `slots` being the way back."""
    return _Fill.apply(x, tokens, slots)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """An RMS norm, recognised by what it does."""

    weight: Tensor
    eps: float
    style: NormStyle


@torch.no_grad()
def recognised(module: nn.Module) -> Norm | None:
    """The RMS norm that `module` computes, or None if it computes something else."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or not isinstance(eps, float):
        return None
    x = torch.linspace(-3, 2, weight.shape[0], dtype=weight.dtype, device=weight.device)[None]
    wanted = module(x)
    for style in ("llama", "gemma"):
        norm = Norm(weight=weight.detach(), eps=eps, style=style)
        if torch.allclose(add_norm(x, None, norm)[1], wanted, rtol=0.01, atol=0.01):
            return norm
    return None
