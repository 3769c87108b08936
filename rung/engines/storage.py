"""Tensors that stand side by side in memory, so that one operation can take them all."""

from collections.abc import Sequence

import torch

from rung.engines.block_weight import joined


def stacked(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Matrices [out, in] one under the other, each a part of the whole from now on."""
    found = joined(weights)
    return side_by_side(weights).view(-1, weights[0].shape[1]) if found is None else found


def side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One flat tensor of which the given ones are consecutive parts from now on.

    They are moved together, keeping their identity, unless they stand together already: a second call gives
    the same memory. All must have one type and device.
    """
    found = [tensor.data for tensor in tensors]
    first = found[0]
    place = first.storage_offset()
    for data in found:
        elsewhere = data.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        if elsewhere or data.storage_offset() != place or not data.is_contiguous():
            break
        place += data.numel()
    else:
        return first.as_strided((place - first.storage_offset(),), (1,), first.storage_offset())
    flat = torch.cat([data.reshape(-1) for data in found])
    parts = flat.split([data.numel() for data in found])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.data = part.view(tensor.shape)
    return flat
