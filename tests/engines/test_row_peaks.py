"""What rows in flight take while they are read, grow and are left out: a layer is held twice, and not all."""

import pytest
import torch

from rung.engines.held import HeldRows, most_slots
from rung.engines.packed import packed
from tests.fixtures_peaks import peak_bytes
from tests.fixtures_tiny import tiny

LONG = [tuple((7 * i + row) % 299 + 1 for i in range(96)) for row in range(10)]


@pytest.fixture(scope="module")
def over():
    """So many layers that what one takes is little beside their keys and values."""
    made = packed(tiny(num_hidden_layers=48, num_key_value_heads=4))
    assert made is not None
    return made


@pytest.fixture(scope="module")
def small():
    made = packed(tiny())
    assert made is not None
    return made


def held_bytes(rows: HeldRows) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in rows.own)


@torch.inference_mode()
def test_what_is_read_is_held_once(over):
    rows = HeldRows(over, len(LONG))
    assert peak_bytes(lambda: rows.feed(LONG)) < 1.7 * held_bytes(rows)


@torch.inference_mode()
def test_rows_whose_room_is_used_up_grow_a_layer_at_a_time(over):
    rows = HeldRows(over, len(LONG))

    def written():
        rows.feed(LONG)
        rows.feed([(5,)] * len(LONG))

    peak = peak_bytes(written)
    assert rows.own[0][0].shape[2] > len(LONG[0]) + 1
    assert peak < 1.4 * held_bytes(rows)


@torch.inference_mode()
def test_rows_that_go_on_are_taken_over_a_layer_at_a_time(over):
    rows = HeldRows(over, len(LONG))

    def left():
        rows.feed(LONG)
        rows.keep([*range(len(LONG))][::-1])

    assert peak_bytes(left) < 1.7 * held_bytes(rows)


@torch.inference_mode()
def test_of_what_is_only_looked_at_nothing_is_held(over):
    rows = HeldRows(over, 32)

    def looked():
        rows.feed([(3, 4, 5, 6) * 4] * 32)
        rows.peek([(7, 8, 9, 10) * 8] * 32)

    assert peak_bytes(looked) < 3 * held_bytes(rows)


@torch.inference_mode()
def test_rows_have_no_more_slots_than_are_counted(small):
    rows = HeldRows(small, 1)
    for tokens in range(1, 200):
        rows.feed([(tokens,)])
        assert tokens <= rows.own[0][0].shape[2] <= most_slots(tokens)
