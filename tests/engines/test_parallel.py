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
