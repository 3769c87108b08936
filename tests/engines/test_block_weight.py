"""Weights held in a GGUF file's blocks: the numbers are ggml's, and operations see a dense matrix."""

import threading
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engines.block_weight import DENSE_AT_ONCE, READ, BlockWeight, Scratch, blocks_of, joined

KINDS = [GGMLQuantizationType(kind) for kind in READ]


def random_bytes(kind: GGMLQuantizationType, rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Bytes of a tensor whose scales are ordinary numbers: any others are those of some matrix."""
    count, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, width // count, size), dtype=np.uint8)
    places = {"Q6_K": [208]}.get(kind.name, [0] if kind.name in {"Q4_0", "Q5_0", "Q8_0"} else [0, 2])
    for place in places:
        scales = rng.normal(size=raw.shape[:2]).astype(np.float16)
        raw[..., place : place + 2] = scales[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def weight(kind: GGMLQuantizationType, rows: int = 6, width: int = 512, seed: int = 0) -> BlockWeight:
    found = blocks_of(random_bytes(kind, rows, width, seed), int(kind), (rows, width))
    assert found is not None
    return BlockWeight([found], torch.float32)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_the_numbers_are_those_of_ggml_bit_by_bit(kind, seed, rows, blocks):
    width = blocks * GGML_QUANT_SIZES[kind][0]
    raw = random_bytes(kind, rows, width, seed)
    found = blocks_of(raw, int(kind), (rows, width))
    expected = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(BlockWeight([found], dtype).dense(), expected.to(dtype))


def test_a_matrix_of_many_rows_is_made_dense_in_parts():
    width, rows = 512, 3 * DENSE_AT_ONCE // 512 + 7
    raw = random_bytes(GGMLQuantizationType.Q4_1, rows, width)
    found = blocks_of(raw, int(GGMLQuantizationType.Q4_1), (rows, width))
    expected = gguf.quants.dequantize(raw, GGMLQuantizationType.Q4_1)
    assert np.array_equal(BlockWeight([found], torch.float32).dense().numpy(), expected)


def test_scales_that_fp16_has_no_room_for_eight_times():
    raw = random_bytes(GGMLQuantizationType.Q4_0, 4, 64).reshape(4, 2, 18)
    raw[1, 1, :2] = np.array([60_000], np.float16).view(np.uint8)
    raw = raw.reshape(4, -1)
    found = blocks_of(raw, int(GGMLQuantizationType.Q4_0), (4, 64))
    expected = gguf.quants.dequantize(raw, GGMLQuantizationType.Q4_0)
    assert np.array_equal(BlockWeight([found], torch.float32).dense().numpy(), expected)


def test_kinds_that_are_not_read_give_nothing():
    raw = np.zeros((2, 84 * 2), np.uint8)
    assert blocks_of(raw, int(GGMLQuantizationType.Q2_K), (2, 512)) is None


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 5), ("Q4_1", 5), ("Q4_K", 6.125), ("Q8_0", 10)])
def test_what_is_held_is_little_more_than_the_file(kind, bits):
    held = weight(GGMLQuantizationType[kind], rows=64)
    assert sum(part.bytes for part in held.parts) == bits / 8 * held.numel()


def test_rows_in_another_order():
    held = weight(GGMLQuantizationType.Q4_K)
    order = np.array([3, 0, 5, 1, 2, 4])
    moved = BlockWeight([held.parts[0].in_order(order)], torch.float32)
    assert torch.equal(moved.dense(), held.dense()[order])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_operations_and_gradients_are_those_of_the_dense_matrix(kind):
    held = torch.nn.Parameter(weight(kind), requires_grad=False)
    assert isinstance(held, BlockWeight) and held.shape == (6, 512) and len(held) == 6
    dense = held.dense()
    for one in (torch.nn.functional.linear, lambda x, w: x @ w.t()):
        x, y = (torch.ones(3, 512, requires_grad=True) for _ in range(2))
        found, expected = one(x, held), one(y, dense)
        assert type(found) is torch.Tensor and torch.equal(found, expected)
        (found.square().sum()).backward()
        (expected.square().sum()).backward()
        assert torch.equal(x.grad, y.grad)
    with torch.inference_mode():
        assert torch.equal(
            torch.nn.functional.linear(torch.ones(3, 512), held), one(torch.ones(3, 512), dense)
        )
    assert isinstance(held.detach(), BlockWeight) and held.new_zeros(3).shape == (3,)


def test_matrices_one_under_the_other_are_held_once():
    first, second = weight(GGMLQuantizationType.Q4_1), weight(GGMLQuantizationType.Q6_K, rows=4, seed=1)
    both = joined([first, second])
    assert both is not None and both.parts == (*first.parts, *second.parts)
    assert torch.equal(both.dense(), torch.cat([first.dense(), second.dense()]))
    dense = torch.ones(2, 512)
    mixed = joined([first, dense])
    assert mixed is not None and torch.equal(mixed.dense(), torch.cat([first.dense(), dense]))
    assert joined([dense, dense]) is None


def pair(scratch: Scratch, dtype: torch.dtype = torch.float32) -> tuple[BlockWeight, BlockWeight]:
    """Two matrices of one model, the second one larger."""
    found = [weight(GGMLQuantizationType.Q4_1), weight(GGMLQuantizationType.Q6_K, rows=9, seed=1)]
    first, second = (BlockWeight(one.parts, dtype, scratch) for one in found)
    return first, second


def test_a_dense_matrix_takes_the_memory_of_the_last_one_that_nobody_reads():
    first, second = pair(Scratch())
    second.dense()
    place = second.dense().data_ptr()
    assert first.dense().data_ptr() == place
    kept = torch.nn.Parameter(first, requires_grad=False).detach().dense()
    assert kept.data_ptr() == place
    assert second.dense().data_ptr() != place


@pytest.mark.parametrize("read", [lambda m: m, lambda m: m.t(), lambda m: m[1:3], lambda m: m.view(-1)[5:9]])
def test_what_is_read_still_is_never_written_over(read):
    first, second = pair(Scratch())
    second.dense()  # so there is room for both
    kept = read(first.dense())
    before = kept.clone()
    for other in (second, first, second):
        other.dense()
        other @ torch.ones(512)
    assert torch.equal(kept, before)


def test_a_way_back_that_keeps_dense_matrices_gets_those_it_kept():
    first, second = pair(Scratch())
    x, y = (torch.linspace(-1, 1, 512, requires_grad=True) for _ in range(2))
    found = (first.t() @ torch.tanh(first @ x)).square().sum() + (second @ x).square().sum()
    plain = [one.dense() for one in (first, second)]
    expected = (plain[0].t() @ torch.tanh(plain[0] @ y)).square().sum() + (plain[1] @ y).square().sum()
    found.backward()
    expected.backward()
    assert torch.equal(x.grad, y.grad)


def test_memory_first_taken_without_gradients_serves_with_them_and_each_thread_has_its_own():
    first, second = pair(Scratch())
    with torch.inference_mode():
        second.dense()
    x = torch.ones(512, requires_grad=True)
    (first @ x).sum().backward()
    assert torch.equal(x.grad, first.dense().sum(0))
    begun = threading.Barrier(2)

    def own(_: int) -> int:
        place = first.dense().data_ptr()
        begun.wait()
        return place

    with ThreadPoolExecutor(2) as threads:
        assert len({*threads.map(own, range(2))}) == 2
