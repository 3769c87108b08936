import threading
import time

import pytest
import torch

from rung.engines.parallel import side_by_side, workers


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


def test_where_memory_holds_few_calls_no_more_run_at_once_and_each_keeps_its_share_of_threads(four_threads):
    running, seen = [], []

    def noted(item: int) -> tuple[int, int]:
        running.append(item)
        time.sleep(0.02)
        seen.append(len(running))
        running.remove(item)
        return item, torch.get_num_threads()

    assert list(side_by_side(noted, range(8), 4, 2)) == [(item, 1) for item in range(8)]
    assert max(seen) == 2
    seen.clear()
    list(side_by_side(noted, range(8), 4))
    assert max(seen) > 2


def test_an_error_comes_when_no_call_runs_any_more(four_threads):
    begun, ended = threading.Event(), []

    def slow(item: int) -> None:
        if item == 0:
            begun.wait(timeout=30)
            raise ValueError("the first of them")
        begun.set()
        time.sleep(0.1)
        ended.append(item)

    with pytest.raises(ValueError, match="the first"):
        list(side_by_side(slow, range(40), 2))
    there = list(ended)
    time.sleep(0.3)
    assert 1 in there and there == ended and len(there) < 39


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
