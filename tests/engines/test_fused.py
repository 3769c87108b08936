"""The ways back that are written by hand, against finite differences in fp64, where each is used."""

import pytest
import torch

from rung.engines import fused


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def asked(*shape: int) -> torch.Tensor:
    return drawn(*shape).requires_grad_()


@pytest.mark.parametrize("style", ["llama", "gemma"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_norm_with_any_weights_has_the_gradient_of_its_own_outputs(style, residual):
    norm = fused.Norm(weight=drawn(6), eps=1e-6, style=style)
    x, y = asked(4, 6), asked(4, 6) if residual else None
    assert torch.autograd.gradcheck(lambda *both: fused.add_norm(*both, norm), (x, y))
