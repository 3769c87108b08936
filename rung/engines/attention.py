"""Attention as single autograd functions: short rows at once, long ones in blocks; torch's kernels on a GPU.

Rows stand side by side, a key head's queries together; what stands before all rows is multiplied once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from rung.engines.fused import working

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values."""


BLOCK = 64
"""Queries of a row that are taken at once."""
KEPT_PLACES = 256
"""Of longer rows the weights are made again on the way back: a twentieth more time, and at a thousand places
half of the memory."""


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
        rows = q.flatten(0, 1)
        out, kept = torch.empty_like(rows), []
        for block in _blocks(added, window):
            weights = _block_weights(rows, k, added, block, scale, window)
            if len(added) <= KEPT_PLACES:
                kept.append(weights)
            found = torch.bmm(weights, v[:, block.low : block.high])
            out[:, :, block.first : block.last] = found.unflatten(1, (rows.shape[1], -1))
        ctx.save_for_backward(q, k, v, added, *kept)
        ctx.scale, ctx.window = scale, window
        return out.view(q.shape)

    @staticmethod
    def backward(ctx, *grads):
        q, k, v, added, *kept = ctx.saved_tensors
        rows, grad = q.flatten(0, 1), grads[0].flatten(0, 1)
        grad_q = torch.empty_like(rows)
        grad_k, grad_v = (torch.zeros(t.shape, dtype=working(t.dtype), device=t.device) for t in (k, v))
        for number, block in enumerate(_blocks(added, ctx.window)):
            first, last, low, high = block
            again = not kept
            weights = _block_weights(rows, k, added, block, ctx.scale, ctx.window) if again else kept[number]
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


class _Block(NamedTuple):
    """Places from and to, and the keys from and to that they may see."""

    first: int
    last: int
    low: int
    high: int


def _blocks(added: Tensor, window: int | None) -> list[_Block]:
    places, keys = added.shape
    ahead = keys - places
    return [
        _Block(
            first=first,
            last=min(places, first + BLOCK),
            low=0 if window is None else max(0, ahead + first - window + 1),
            high=ahead + min(places, first + BLOCK),
        )
        for first in range(0, places, BLOCK)
    ]


def _block_weights(
    rows: Tensor, k: Tensor, added: Tensor, block: _Block, scale: float, window: int | None
) -> Tensor:
    """The weights [rows · groups, queries · places, keys] of a block of places."""
    first, last, low, high = block
    asked, rest = _scaled(rows[:, :, first:last].flatten(1, 2), scale)
    scores = torch.bmm(asked, k[:, low:high].transpose(1, 2))
    unsure = low if window is not None else max(low, high - (last - first))
    split = scores.view(len(rows), -1, last - first, high - low)
    split[..., unsure - low :].add_(added[first:last, unsure:high])
    return _weights(scores, rest)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """[rows · groups, queries, n] → [groups, rows · queries, n]."""
    return x.unflatten(0, (-1, groups)).transpose(0, 1).flatten(1, 2)


def _by_row(x: Tensor, count: int) -> Tensor:
    """[groups, rows · queries, n] → [count = rows · groups, queries, n]."""
    return x.unflatten(1, (count // len(x), -1)).transpose(0, 1).flatten(0, 1)


def attend(q: Tensor, kv: Pair, ahead: Pair | None, seen: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + seen) v within rows, and to the keys and values ahead of all of them."""
    return _Attend.apply(q, *kv, *(ahead or (None, None)), seen, scale)  # type: ignore[return-value]


def attend_in_blocks(q: Tensor, kv: Pair, added: Tensor, scale: float, window: int | None) -> Tensor:
    """softmax(scale · q kᵀ + added) v of q [rows, groups, queries, places, size], block by block."""
    return _AttendInBlocks.apply(q, *kv, added, scale, window)  # type: ignore[return-value]
