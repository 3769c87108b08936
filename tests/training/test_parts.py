"""A batch cut among workers: nothing lost, nothing changed, all of them busy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.training import loop
from rung.training.loop import parts
from tests.training.test_loop import trainer


@given(st.lists(st.integers(1, 400), min_size=1, max_size=32), st.integers(1, 4), st.integers(1, 3000))
def test_parts_hold_every_row_once_few_tokens_and_feed_all_workers(lengths, count, tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TOKENS_AT_ONCE", tokens)
        cut = parts(lengths, count)
    assert sorted(i for part in cut for i in part) == list(range(len(lengths)))
    sizes = [len(part) * max(lengths[i] for i in part) for part in cut]
    assert all(size <= max(tokens // count, max(lengths)) for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    if max(lengths) * len(lengths) <= tokens // count:
        least = max(max(lengths), min(_cuts(sorted(lengths), count)))
        assert _finished(sizes, count) <= least + loop.PART_TOKENS + tokens // count // loop.CUTS_TRIED


def _finished(sizes: list[int], count: int) -> int:
    """When the last of `count` workers ends, each of whom takes the next part once it is free."""
    free = [0] * count
    for size in sizes:
        free = sorted(free)
        free[0] += size + loop.PART_TOKENS
    return max(free)


def _cuts(lengths: list[int], count: int) -> list[int]:
    """The largest part's size, for every cut of sorted rows into `count` parts or fewer."""
    if count == 1 or len(lengths) == 1:
        return [lengths[-1] * len(lengths)]
    found = [lengths[-1] * len(lengths)]
    for first in range(1, len(lengths)):
        rest = min(_cuts(lengths[first:], count - 1)) if count > 2 else lengths[-1] * (len(lengths) - first)
        found.append(max(lengths[first - 1] * first, rest))
    return found


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
