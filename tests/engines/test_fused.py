"""The ways back that are written by hand, against finite differences in fp64, where each is used."""

import pytest
import torch

from rung.engines import fused

ENTRIES = {"as it is": 6, "gate": 12, "gains": 6}
"""How wide what comes is for an input of 6."""


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


def test_a_norm_whose_weights_are_left_to_the_linear_layers_is_the_same():
    norm = fused.Norm(weight=drawn(6), eps=1e-6, style="llama")
    x, frozen = asked(4, 6), fused.Weights(weight=drawn(5, 6), bias=None)

    def apart(x: torch.Tensor) -> torch.Tensor:
        _, normed, entry = fused.add_norm_for(x, None, norm)
        return fused.linear(normed, frozen, (), (), entry)

    assert torch.allclose(apart(x), fused.add_norm(x, None, norm)[1] @ frozen.weight.t())
    assert torch.autograd.gradcheck(apart, (x,))


def test_a_norm_that_rounds_its_weighed_states_is_weighed_by_itself():
    _, normed, entry = fused.add_norm_for(
        drawn(4, 6), None, norm := fused.Norm(weight=drawn(6), eps=1e-6, style="gemma")
    )
    assert entry is fused.AS_IT_IS
    assert torch.equal(normed, fused.add_norm(drawn(4, 6), None, norm)[1])


@pytest.mark.parametrize("slices", [0, 1, 2], ids=["frozen", "one layer", "two layers"])
@pytest.mark.parametrize("name", ENTRIES)
def test_linear_layers_have_the_gradient_of_what_they_add(name, slices):
    entry = {
        "as it is": fused.AS_IT_IS,
        "gate": fused.Entry(activation="silu"),
        "gains": fused.Entry(gains=drawn(6)),
    }[name]
    frozen = fused.Weights(weight=drawn(7, 6), bias=drawn(7))
    places = (fused.Slice(start=0, end=4, scale=0.5), fused.Slice(start=4, end=7, scale=2.0))[:slices]
    matrices = [m for place in places for m in (asked(3, 6), asked(place.end - place.start, 3))]

    def through(x: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        return fused.linear(x, frozen, places, matrices, entry)

    assert torch.autograd.gradcheck(through, (asked(4, ENTRIES[name]), *matrices))


def test_a_step_keeps_a_normed_state_once():
    """What the way back of a norm needs is what the linear layers after it keep."""
    norm = fused.Norm(weight=drawn(6), eps=1e-6, style="llama")
    frozen, matrices = fused.Weights(weight=drawn(6, 6), bias=None), (asked(2, 6), asked(6, 2))
    kept: dict[int, torch.Size] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.shape
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, normed, entry = fused.add_norm_for(asked(40, 6), None, norm)
        fused.linear(normed, frozen, (fused.Slice(start=0, end=6, scale=1.0),), matrices, entry)
    assert list(kept.values()).count(torch.Size([40, 6])) == 1
