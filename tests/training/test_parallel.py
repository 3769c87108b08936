import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.training import loop
from rung.training.loop import parts
from rung.training.parallel import side_by_side, workers
from tests.training.test_loop import trainer


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_items_order_from_threads_that_run_at_once(four_threads):
    both = threading.Barrier(2)

    def slow_first(item: int) -> tuple[int, int, str]:
        both.wait(timeout=30)
        time.sleep(0.05 * (item == 0))
        return item, torch.get_num_threads(), threading.current_thread().name

    found = list(side_by_side(slow_first, [0, 1], 2))
    assert [(item, threads) for item, threads, _ in found] == [(0, 2), (1, 2)]
    assert len({name for *_, name in found}) == 2
    assert torch.get_num_threads() == 4


def test_one_item_or_one_worker_keeps_this_thread_and_all_cores(four_threads):
    def here(_: int) -> tuple[str, int]:
        return threading.current_thread().name, torch.get_num_threads()

    own = (threading.current_thread().name, 4)
    assert list(side_by_side(here, [1], 4)) == [own]
    assert list(side_by_side(here, [1, 2], 1)) == [own, own]


def test_later_threads_start_with_all_cores(four_threads):
    list(side_by_side(abs, [1, 2], 2))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [4]


def test_an_error_reaches_the_caller_and_the_threads_live_on():
    def broken(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(broken, [1, 0], 2))
    assert list(side_by_side(broken, [1, 1], 2)) == [1, 1]


def test_a_gpu_has_one_worker_and_a_processor_few(four_threads):
    assert workers(torch.device("cuda")) == 1
    assert workers(torch.device("cpu")) == 4
    torch.set_num_threads(64)
    assert workers(torch.device("cpu")) == 4


@given(st.lists(st.integers(1, 400), min_size=1, max_size=32), st.integers(1, 4), st.integers(1, 3000))
def test_parts_hold_every_row_once_few_tokens_and_feed_all_workers(lengths, count, tokens):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TOKENS_AT_ONCE", tokens)
        cut = parts(lengths, count)
    assert sorted(i for part in cut for i in part) == list(range(len(lengths)))
    sizes = [len(part) * max(lengths[i] for i in part) for part in cut]
    assert all(size <= max(tokens // count, max(lengths)) for size in sizes)
    if max(lengths) * len(lengths) <= tokens // count:
        assert len(cut) <= count
        assert max(sizes) <= max(max(lengths), min(_cuts(sorted(lengths), count)))


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
