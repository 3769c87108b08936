import threading
import time

import pytest

from rung.engines.base import no_progress
from rung.engines.work import Shares, is_wanted, prefix_order, run_batch, wanted_until


def nothing() -> None:
    """An interrupt that has nothing to stop."""


def test_results_come_back_in_input_order_whatever_finishes_first():
    def call(index: int) -> int:
        time.sleep(0.02 if index % 2 else 0.0)
        return index * 10

    order = [3, 1, 4, 0, 2]
    found = run_batch(order, call, workers=3, progress=no_progress, interrupt=nothing)
    assert found == [0, 10, 20, 30, 40]


def test_progress_is_told_in_the_callers_thread_and_ends_at_the_total():
    told = []

    def progress(done: int, total: int) -> None:
        told.append((done, total, threading.current_thread()))

    run_batch(range(4), lambda index: index, workers=2, progress=progress, interrupt=nothing)
    assert [entry[:2] for entry in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {entry[2] for entry in told} == {threading.current_thread()}


def test_an_empty_batch_calls_nothing():
    assert run_batch([], lambda index: 1 / 0, workers=3, progress=no_progress, interrupt=nothing) == []


def test_the_first_fault_ends_the_batch():
    seen = []

    def call(index: int) -> int:
        seen.append(index)
        if index == 0:
            raise OSError("broken")
        time.sleep(0.01)
        return index

    with pytest.raises(OSError, match="broken"):
        run_batch(range(1000), call, workers=2, progress=no_progress, interrupt=nothing)
    assert len(seen) < 20


def test_an_interrupt_in_the_callers_thread_stops_the_workers_at_once():
    released = threading.Event()
    started = time.perf_counter()

    def call(index: int) -> int:
        if index:
            released.wait(30)
        return index

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(range(100), call, workers=4, progress=progress, interrupt=released.set)
    assert released.is_set()
    assert time.perf_counter() - started < 5


def test_the_threads_of_a_batch_know_whether_who_asked_has_left():
    left = threading.Event()

    def call(index: int) -> bool:
        if index == 1:
            left.set()
        return is_wanted()

    with wanted_until(left.is_set):
        found = run_batch(range(3), call, workers=1, progress=no_progress, interrupt=nothing)
    assert found == [True, False, False]
    assert is_wanted()


def test_shares_are_contiguous_and_the_idle_take_from_the_end_of_the_longest():
    shares = Shares([10, 11, 12, 13, 14], 2)
    assert [shares.take(0) for _ in range(3)] == [10, 11, 12]
    assert shares.take(0) == 14
    assert shares.take(1) == 13
    assert shares.take(1) is None


def test_prompts_with_a_common_prefix_become_neighbours():
    prompts = [(1, 2, 3), (9,), (1, 2), (9, 9), (1, 2, 4)]
    assert [prompts[index] for index in prefix_order(prompts)] == [(1, 2), (1, 2, 3), (1, 2, 4), (9,), (9, 9)]
