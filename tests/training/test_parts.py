"""A batch cut among workers: nothing lost, nothing changed, all of them busy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.training.loop import parts
from tests.training.test_loop import trainer


@given(
    st.lists(st.integers(21, 400), min_size=1, max_size=32),
    st.integers(1, 4),
    st.integers(1, 3000),
    st.integers(0, 20),
    st.booleans(),
)
def test_parts_hold_every_row_once_few_tokens_and_feed_all_workers(lengths, count, tokens, shared, padded):
    cut = parts(lengths, count, shared=shared, padded=padded, most=tokens)
    assert sorted(i for part in cut for i in part) == list(range(len(lengths)))
    own = [sum(lengths[i] - shared for i in part) for part in cut]
    room = max(tokens // count - shared, shared, max(lengths) - shared)
    assert all(size <= room + max(lengths) for size in own)


def test_workers_get_equal_shares_of_tokens():
    lengths = [7, 60, 9, 12, 30, 11, 8, 10, 14, 25, 9, 16]
    cut = parts(lengths, 2, shared=0, padded=False)
    loads = [sum(lengths[i] for i in part) for part in cut]
    assert len(cut) == 2
    assert max(loads) <= 0.55 * sum(lengths)


def test_a_shared_prefix_is_counted_once_for_each_part():
    """More parts would run it more often: a batch that fits stays in as many parts as there are workers."""
    assert len(parts([315] * 32, 2, shared=300, padded=False)) == 2
    assert len(parts([315] * 32, 2, shared=0, padded=False)) > 8


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
