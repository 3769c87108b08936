"""Frozen linear layers whose weights lie in blocks of four-bit numbers, by bitsandbytes."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

BLOCK = 64
"""Weights that share a scale."""


class Nf4(nn.Module):
    """x Wᵀ + b with W in NF4, its blocks' scales quantised again (Dettmers et al. 2023, arXiv:2305.14314).

    The gradient of x goes through W as it is de-quantised, which is done anew on the way back. W is quantised
    on `device`.
    """

    def __init__(self, base: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        codes, self.state = _package().functional.quantize_4bit(
            base.weight.detach().to(device), blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        self.codes: torch.Tensor
        self.register_buffer("codes", codes, persistent=False)
        self.bias = base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] → [..., out]."""
        return _package().matmul_4bit(x, self.codes.t(), self.state, bias=self.bias)

    def dense(self) -> torch.Tensor:
        """W [out, in] as it is de-quantised."""
        return _package().functional.dequantize_4bit(self.codes, self.state)


def _package() -> Any:
    """bitsandbytes, which isn't everywhere."""
    return import_module("bitsandbytes")
