"""Rows in groups for attention: nothing lost, nothing twice, and no dearer than another way to group them."""

import itertools
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.layout import ROUND, ROUND_ROWS, Shape, _group_tokens, grouped, pack, slot_tokens, up

CPU = torch.device("cpu")
sizes = st.lists(st.integers(1, 400), min_size=1, max_size=8)


def rows_of(sizes: list[int]) -> list[list[int]]:
    fresh = itertools.count(1)
    return [[next(fresh) for _ in range(size)] for size in sizes]


@given(sizes, st.integers(0, 9), st.booleans())
def test_every_token_has_one_slot_among_those_of_its_row_in_order(sizes, prefix, together):
    one = pack(rows_of(sizes), CPU, prefix=[0] * prefix, together=together)
    assert len(set(one.slots.tolist())) == len(one.slots) == len(one.ids) - prefix
    assert one.tokens[one.slots].tolist() == list(range(len(one.slots)))
    assert sum(rows * width for rows, width in one.groups) == len(one.tokens)
    bounds = list(itertools.accumulate((r * w for r, w in one.groups), initial=0))
    for start, size in zip(one.starts, one.sizes, strict=True):
        own = one.slots[start - prefix : start - prefix + size].tolist()
        assert own == list(range(own[0], own[0] + size))
        group = max(i for i, bound in enumerate(bounds) if bound <= own[0])
        width = one.groups[group][1]
        assert (own[0] - bounds[group]) % width == 0
        assert size <= width
    if together:
        assert one.groups[0][0] >= len(sizes)
        assert one.slots.tolist() == sorted(one.slots.tolist())


@given(sizes)
def test_groups_cost_no_more_than_any_other_grouping_of_neighbours(sizes):
    found = grouped(sizes, CPU)
    assert sorted(i for members, _ in found for i in members) == list(range(len(sizes)))
    cost = sum(_group_tokens(len(members), width) for members, width in found)
    assert cost == pytest.approx(slot_tokens(sizes, CPU))
    widths = sorted(up(size, ROUND_ROWS) for size in sizes)
    for cuts in itertools.product([False, True], repeat=len(widths) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(widths)]
        other = sum(_group_tokens(end - first, widths[end - 1]) for first, end in pairwise([0, *ends]))
        assert cost <= other + 1e-9


def test_one_long_row_makes_only_itself_wide():
    assert grouped([9] * 12 + [300], CPU) == [(list(range(12)), 12), ([12], 300)]
    assert grouped([9, 12, 10, 16], CPU) == [([0, 1, 2, 3], 16)]
    assert grouped([9] * 12 + [300], torch.device("cuda")) == [(list(range(13)), 300)]


def test_filling_is_no_row_as_wide_as_a_long_one():
    assert pack(rows_of([600, 590]), CPU, together=True).groups == ((2, 600), (1, 12))
    assert pack(rows_of([600]), CPU).groups == ((1, 8), (1, 600))
    assert pack(rows_of([6, 5]), CPU, together=True).groups == ((3, 8),)


def test_tokens_are_filled_up_and_what_is_filled_is_a_row_of_its_own():
    one = pack([(5, 6, 7), (8,) * 30], CPU, prefix=(1, 2))
    assert len(one.ids) % ROUND == 0
    assert len(one.ids) - 35 < ROUND
    assert one.sizes == (3, 30)
    assert sum(rows for rows, _ in one.groups) == 3
    assert one.positions[:6].tolist() == [0, 1, 2, 3, 4, 2]
    with pytest.raises(ValueError, match="no token of its own"):
        pack([(1,), ()], CPU)


def test_a_shape_is_one_group_with_rows_to_spare():
    one = pack([(5, 6, 7), (8,) * 30], CPU, shape=Shape(tokens=48, rows=4, longest=32))
    assert one.groups == ((4, 32),)
    assert (len(one.ids), len(one.tokens)) == (48, 128)
