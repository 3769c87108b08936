"""Parts of a decoder block as single autograd functions over flat tokens [tokens, width].

Each does what the model's own modules do, with fewer passes over memory and the way back written by hand:
all linear layers that read the same input are one product, a residual is added where it's normalised, and
nothing is computed for frozen weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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


Pair: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values."""


def working(dtype: torch.dtype) -> torch.dtype:
    """The type that reductions run in: fp32, or finer where the model is."""
    return torch.promote_types(dtype, torch.float32)


class _Linear(Function):
    """y = x Wᵀ + b with s (x Aᵀ) Bᵀ added to some slices of the outputs; W and b are frozen.

    x [tokens, in] → [tokens, outputs]. `matrices`: A [rank, in] and B [out, rank] of each slice in turn. With
    an `activation`, x is act(gate) · up of [tokens, gate and up], and is made again on the way back: kept, it
    would be a third of all that a block keeps.
    """

    @staticmethod
    def forward(ctx, source, activation, weight, bias, slices, *matrices):
        x = source if activation is None else _gate(source, activation)
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
        ctx.save_for_backward(source, weight, a, hidden, *bs)
        return out

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        source, weight, a, hidden, *bs = ctx.saved_tensors
        x, act = (source, None) if ctx.activation is None else _gated(source, ctx.activation)
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
        return grad_x, None, None, None, None, *found


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
    """(x + y, RMS norm of x + y); y may be None. The norm's weight is frozen."""

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
        if ctx.style == "llama":
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


class _Attend(Function):
    """Attention of short rows, all of a row's scores at once.

    q [rows · groups, queries, size], k and v [rows · groups, keys, size]: a group is one key head, its
    queries those of all query heads that read it. k_ahead and v_ahead [groups, ahead, size], or None, stand
    before every row and are multiplied once for all of them. `seen` [places, ahead + keys] is added to the
    scores of each query head.
    """

    @staticmethod
    def forward(ctx, q, k, v, k_ahead, v_ahead, seen, scale):  # noqa: PLR0913 (autograd fixes the signature)
        asked, rest = _scaled(q, scale)
        scores = torch.bmm(asked, k.transpose(1, 2))
        if k_ahead is not None:
            before = torch.bmm(_by_group(asked, len(k_ahead)), k_ahead.transpose(1, 2))
            scores = torch.cat([_by_row(before, len(q)), scores], 2)
        scores.view(len(q), -1, *seen.shape).add_(seen)
        weights = _weights(scores, rest)
        ctx.save_for_backward(q, k, v, k_ahead, v_ahead, weights)
        ctx.scale = scale
        if k_ahead is None:
            return torch.bmm(weights, v)
        ahead = k_ahead.shape[1]
        out = torch.bmm(weights[..., ahead:], v)
        return out.add_(_by_row(torch.bmm(_by_group(weights[..., :ahead], len(v_ahead)), v_ahead), len(q)))

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        q, k, v, k_ahead, v_ahead, weights = ctx.saved_tensors
        slope = torch.bmm(grad, v.transpose(1, 2))
        if k_ahead is None:
            slope = _score_slope(slope, weights, ctx.scale)
            grad_v = torch.bmm(weights.transpose(1, 2), grad)
            return torch.bmm(slope, k), torch.bmm(slope.transpose(1, 2), q), grad_v, None, None, None, None
        groups, ahead = k_ahead.shape[:2]
        grouped = _by_group(grad, groups)
        slope = torch.cat([_by_row(torch.bmm(grouped, v_ahead.transpose(1, 2)), len(q)), slope], 2)
        slope = _score_slope(slope, weights, ctx.scale)
        own, before = slope[..., ahead:], _by_group(slope[..., :ahead], groups)
        grad_q = torch.bmm(own, k).add_(_by_row(torch.bmm(before, k_ahead), len(q)))
        grad_k = torch.bmm(own.transpose(1, 2), q)
        grad_v = torch.bmm(weights[..., ahead:].transpose(1, 2), grad)
        grad_k_ahead = torch.bmm(before.transpose(1, 2), _by_group(q, groups))
        grad_v_ahead = torch.bmm(_by_group(weights[..., :ahead], groups).transpose(1, 2), grouped)
        return grad_q, grad_k, grad_v, grad_k_ahead, grad_v_ahead, None, None


def _scaled(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Queries times the scale, if that is a power of two and rounds nothing, and the scale that is left."""
    return (q * scale, 1.0) if math.frexp(scale)[0] == 0.5 else (q, scale)


def _weights(scores: Tensor, scale: float) -> Tensor:
    """Softmax over the last dimension in fp32 or finer, as torch takes that of a coarser type by itself."""
    if scale == 1.0:
        return scores.softmax(-1)
    return scores.to(working(scores.dtype)).mul_(scale).softmax(-1).to(scores.dtype)


def _score_slope(slope: Tensor, weights: Tensor, scale: float) -> Tensor:
    """From the gradient of softmax's outputs to that of its unscaled inputs, in the weights' type."""
    slope, wide = slope.to(working(weights.dtype)), weights.to(working(weights.dtype))
    return (slope - torch.linalg.vecdot(slope, wide)[..., None]).mul_(wide).mul_(scale).to(weights.dtype)


class _AttendInBlocks(Function):
    """Attention of long rows, a block of queries at a time against the keys that it may see and no others.

    q [rows, groups, queries, places, size], k and v [rows · groups, ahead + places, size]; `added` [places,
    ahead + places] is 0 where a place sees a key and -inf elsewhere. On a CPU at 256 places this takes half
    of the time of torch's fused kernel, which multiplies small tiles.
    """

    @staticmethod
    def forward(ctx, q, k, v, added, scale, window):  # noqa: PLR0913 (autograd fixes the signature)
        rows, rest = _scaled(q.flatten(0, 1), scale)
        out, kept = torch.empty_like(rows), []
        for first, last, low, high in _blocks(added, window):
            scores = torch.bmm(rows[:, :, first:last].flatten(1, 2), k[:, low:high].transpose(1, 2))
            split = scores.view(len(rows), -1, last - first, high - low)
            unsure = low if window is not None else max(low, high - (last - first))
            split[..., unsure - low :].add_(added[first:last, unsure:high])
            weights = _weights(scores, rest)
            kept.append(weights)
            out[:, :, first:last] = torch.bmm(weights, v[:, low:high]).view(split.shape[:3] + v.shape[-1:])
        ctx.save_for_backward(q, k, v, added, *kept)
        ctx.scale, ctx.window = scale, window
        return out.view(q.shape)

    @staticmethod
    def backward(ctx, *grads):
        q, k, v, added, *kept = ctx.saved_tensors
        rows, grad = q.flatten(0, 1), grads[0].flatten(0, 1)
        grad_q = torch.empty_like(rows)
        grad_k, grad_v = (torch.zeros(t.shape, dtype=working(t.dtype), device=t.device) for t in (k, v))
        for (first, last, low, high), weights in zip(_blocks(added, ctx.window), kept, strict=True):
            own, asked = grad[:, :, first:last].flatten(1, 2), rows[:, :, first:last].flatten(1, 2)
            slope = torch.bmm(own, v[:, low:high].transpose(1, 2))
            slope = _score_slope(slope, weights, ctx.scale)
            grad_v[:, low:high] += torch.bmm(weights.transpose(1, 2), own)
            grad_k[:, low:high] += torch.bmm(slope.transpose(1, 2), asked)
            found = torch.bmm(slope, k[:, low:high])
            grad_q[:, :, first:last] = found.view(len(rows), -1, last - first, q.shape[-1])
        return grad_q.view(q.shape), grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None


def attend_to_all(q: Tensor, ahead: Pair | None, pairs: Sequence[Pair], seen: Tensor, scale: float) -> Tensor:
    """Attention to several stretches of keys and values, where they lie; without a way back.

    q [rows · groups, queries · places, size]; `ahead` [groups, tokens, size] stands before every row, `pairs`
    [rows · groups, slots, size] are the rows' own. `seen` [rows, 1, places, all slots] is added to scores.
    """
    q, rest = _scaled(q, scale)
    parts = [torch.bmm(q, k.transpose(1, 2)) for k, _ in pairs]
    if ahead is not None:
        before = torch.bmm(_by_group(q, len(ahead[0])), ahead[0].transpose(1, 2))
        parts.insert(0, _by_row(before, len(q)))
    scores = torch.cat(parts, 2)
    scores.view(len(seen), -1, *seen.shape[2:]).add_(seen)
    weights = _weights(scores, rest).split([part.shape[2] for part in parts], 2)
    own = weights if ahead is None else weights[1:]
    out = torch.bmm(own[0], pairs[0][1])
    for some, (_, v) in zip(own[1:], pairs[1:], strict=True):
        out.baddbmm_(some, v)
    if ahead is not None:
        out.add_(_by_row(torch.bmm(_by_group(weights[0], len(ahead[1])), ahead[1]), len(q)))
    return out


def attend_by_kernel(
    q: Tensor, own: Pair, ahead: Pair | None, added: Tensor, scale: float, window: int | None
) -> Tensor:
    """Attention of long rows by torch's fused kernels, which are made for GPUs.

    q [rows, heads, places, size], `own` keys and values [rows, key heads, places, size], `ahead` [key heads,
    tokens, size] before each row; `added` [places, tokens + places] as in `attend_in_blocks`.
    """
    k, v = own
    if ahead is not None:
        before = (old.expand(len(q), *old.shape) for old in ahead)
        k, v = (torch.cat([old, new], 2) for old, new in zip(before, own, strict=True))
    queries = q.shape[1] // k.shape[1]
    if queries > 1:
        k, v = (x.repeat_interleave(queries, 1) for x in (k, v))
    causal = ahead is None and window is None
    mask = None if causal else added
    return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


BLOCK = 64
"""Queries of a row that are taken at once."""


def _blocks(added: Tensor, window: int | None) -> list[tuple[int, int, int, int]]:
    """Places from and to, and the keys from and to that they may see."""
    places, keys = added.shape
    ahead = keys - places
    return [
        (
            first,
            min(places, first + BLOCK),
            0 if window is None else max(0, ahead + first - window + 1),
            ahead + min(places, first + BLOCK),
        )
        for first in range(0, places, BLOCK)
    ]


def _by_group(x: Tensor, groups: int) -> Tensor:
    """[rows · groups, queries, n] → [groups, rows · queries, n]."""
    return x.unflatten(0, (-1, groups)).transpose(0, 1).flatten(1, 2)


def _by_row(x: Tensor, count: int) -> Tensor:
    """[groups, rows · queries, n] → [count = rows · groups, queries, n]."""
    return x.unflatten(1, (count // len(x), -1)).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Linear layers that read the same input, as one: weight [outputs, in], bias [outputs] or None."""

    weight: Tensor
    bias: Tensor | None

    @property
    def unbiased(self) -> "Weights":
        """The same without the bias."""
        return Weights(weight=self.weight, bias=None)


def linear(
    x: Tensor, frozen: Weights, slices: Sequence[Slice], matrices: Any, activation: str | None = None
) -> Tensor:
    """x [tokens, in] → [tokens, outputs], with the LoRA layers of `slices`: their A and B in turn.

    With an `activation`, x is [tokens, gate and up], of which act(gate) · up goes in.
    """
    return _Linear.apply(x, activation, frozen.weight, frozen.bias, tuple(slices), *matrices)  # type: ignore[return-value]


def add_norm(x: Tensor, y: Tensor | None, norm: "Norm") -> tuple[Tensor, Tensor]:
    """(x + y, its RMS norm), both [tokens, width]."""
    return _AddNorm.apply(x, y, norm.weight, norm.eps, norm.style)  # type: ignore[return-value]


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [tokens, heads, size] by cos and sin [tokens, 1, size]."""
    return _Rotate.apply(heads, cos, sin)  # type: ignore[return-value]


def pick(x: Tensor, places: Tensor) -> Tensor:
    """The tokens at `places`; where a gradient is wanted, no place twice."""
    return _Pick.apply(x, places)  # type: ignore[return-value]


def fill(x: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
    """Tokens into slots, `slots` being the way back."""
    return _Fill.apply(x, tokens, slots)  # type: ignore[return-value]


def attend(q: Tensor, kv: Pair, ahead: Pair | None, seen: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + seen) v within rows, and to the keys and values ahead of all of them."""
    return _Attend.apply(q, *kv, *(ahead or (None, None)), seen, scale)  # type: ignore[return-value]


def attend_in_blocks(q: Tensor, kv: Pair, added: Tensor, scale: float, window: int | None) -> Tensor:
    """softmax(scale · q kᵀ + added) v of q [rows, groups, queries, places, size], block by block."""
    return _AttendInBlocks.apply(q, *kv, added, scale, window)  # type: ignore[return-value]


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
