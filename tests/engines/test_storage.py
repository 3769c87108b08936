import torch
from torch import nn

from rung.engines.storage import side_by_side


def test_tensors_keep_their_values_and_are_parts_of_one_memory():
    layers = [nn.Linear(3, 2), nn.Linear(3, 4)]
    before = [layer.weight.detach().clone() for layer in layers]
    flat = side_by_side([layer.weight for layer in layers])
    assert flat.shape == (18,)
    assert all(torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True))
    flat.view(6, 3)[2:] = 7
    assert torch.equal(layers[0].weight, before[0])
    assert bool((layers[1].weight == 7).all())


def test_what_stands_together_is_left_where_it_is():
    layers = [nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(3, 1)]
    weights = [layer.weight for layer in layers]
    first = side_by_side(weights)
    assert side_by_side(weights).data_ptr() == first.data_ptr()
    assert side_by_side(weights[1:]).data_ptr() == weights[1].data_ptr()
    assert side_by_side([weights[0], weights[2]]).data_ptr() != first.data_ptr()
