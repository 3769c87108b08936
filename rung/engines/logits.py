"""From hidden states to logits, exact where they decide.

A bf16 product rounds a logit of 20 to the nearest 0.125, which makes ties of tokens that aren't equally
likely. So the few logits that are near the top, or that are asked about, are computed again in fp32.
"""

import torch

from rung.engines.rows import Network

NEAR = 2.0
"""Logits less than this under the row's top are computed again; those further down carry little weight."""


def next_logits(model: Network, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [rows, vocabulary] in fp32 or better, the ones near each row's top exact."""
    logits = model.lm_head(hidden)
    if logits.dtype not in (torch.bfloat16, torch.float16):
        return logits
    return exact_near_top(model, hidden, logits.float())


def exact_near_top(model: Network, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """`logits` with those near each row's top computed again in their own precision; changed in place."""
    head = model.lm_head
    if head.weight.dtype == logits.dtype:
        return logits
    near = logits > logits.amax(-1, keepdim=True) - NEAR
    rows, tokens = near.nonzero(as_tuple=True)
    found = (hidden[rows].to(logits.dtype) * head.weight[tokens].to(logits.dtype)).sum(-1)
    logits[rows, tokens] = found if head.bias is None else found + head.bias[tokens].to(logits.dtype)
    return logits


def logits_of(model: Network, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Exact logits [rows, tokens] of a few tokens, without the rest of the vocabulary."""
    head = model.lm_head
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    weight = head.weight[tokens].to(dtype)
    bias = None if head.bias is None else head.bias[tokens].to(dtype)
    return torch.nn.functional.linear(hidden.to(dtype), weight, bias)
