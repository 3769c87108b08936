"""A batch cut among workers: nothing lost, nothing changed, all of them busy."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.layout import slot_tokens
from rung.training.batches import Row, Tied
from rung.training.parts import PART_TOKENS, families, parts
from tests.training.test_loop import trainer

SLOTS = partial(slot_tokens, device=torch.device("cpu"))


@given(
    st.lists(st.integers(21, 400), min_size=1, max_size=32),
    st.integers(1, 4),
    st.integers(1, 3000),
    st.integers(0, 20),
    st.booleans(),
)
def test_parts_hold_every_row_once_few_tokens_and_feed_all_workers(lengths, count, tokens, shared, padded):
    cut = parts(lengths, count, shared=shared, slots=None if padded else SLOTS, most=tokens)
    assert sorted(i for part in cut for i in part) == list(range(len(lengths)))
    own = [sum(lengths[i] - shared for i in part) for part in cut]
    room = max(tokens // count - shared, shared, max(lengths) - shared)
    assert all(size <= room + max(lengths) for size in own)


def test_workers_get_equal_shares_of_tokens():
    lengths = [7, 60, 9, 12, 30, 11, 8, 10, 14, 25, 9, 16]
    cut = parts(lengths, 2, shared=0, slots=SLOTS, most=1024)
    loads = [sum(lengths[i] for i in part) for part in cut]
    assert len(cut) == 2
    assert max(loads) <= 0.55 * sum(lengths)


def test_a_shared_prefix_is_counted_once_for_each_part():
    """More parts would run it more often: a batch that fits stays in as many parts as there are workers."""
    assert len(parts([315] * 32, 2, shared=300, slots=SLOTS, most=1024)) == 2
    assert len(parts([315] * 32, 2, shared=0, slots=SLOTS, most=1024)) > 8


def test_rows_with_one_prompt_are_together_where_reading_it_once_saves_more_than_a_part_costs():
    long, short = tuple(range(100)), tuple(range(20))
    items = [Row(prompt=prompt, answer=(i, 1)) for i, prompt in enumerate([long, short, long, short, long])]
    apart = Row(prompt=(5, *long), answer=(9, 1))
    items += [Tied(rows=(apart, apart)), Tied(rows=(apart, items[0]))]
    saved = 2 * (len(long) - 1)
    assert saved > PART_TOKENS > 100
    found, others = families(items, range(7), 0)
    assert found == [[0, 2, 4]]
    assert others == [1, 3, 5, 6]
    # What all rows begin with is read once anyway.
    assert families(items, range(5), (saved - PART_TOKENS) // 2) == ([], [0, 1, 2, 3, 4])
    again, _ = families([Tied(rows=(apart,) * 3)], [0], 0)
    assert again == [[0]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_is_the_same_for_any_number_of_workers(tmp_path, threads):
    expected = trainer(tmp_path / "one")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = list(expected.run(3))
        torch.set_num_threads(threads)
        ours = trainer(tmp_path / "many")
        for tick, plain in zip(ours.run(3), whole, strict=True):
            assert tick.loss == pytest.approx(plain.loss, rel=1e-12)
            assert tick.grad_norm == pytest.approx(plain.grad_norm, rel=1e-10)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(ours.parameters, expected.parameters, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
