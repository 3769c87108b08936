"""The threads of what blocks: batches, their order, and what becomes of errors and of those who leave."""

import asyncio
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.serve.bench import LARGEST_BATCH, MOST_AWAY, Bench
from rung.serve.lanes import Full


class Work:
    """Calls that a gate holds back, and what they were given."""

    def __init__(self, *, closed: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        if not closed:
            self.gate.set()

    def double(self, items: Sequence[int]) -> list[int]:
        assert self.gate.wait(10)
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        return [2 * item for item in items]


async def closed_after(bench: Bench, work: asyncio.Future) -> object:
    try:
        return await asyncio.wait_for(work, 20)
    finally:
        bench.close()


def test_what_comes_while_a_call_runs_is_the_next_batch():
    async def run() -> list[int]:
        bench, work = Bench(room=200), Work(closed=True)
        asked = [asyncio.ensure_future(bench.ask("a", item, work.double)) for item in range(80)]
        await asyncio.sleep(0.05)
        work.gate.set()
        found = await closed_after(bench, asyncio.gather(*asked))
        assert work.batches == [
            list(range(32)),
            list(range(32, 64)),
            list(range(64, 80)),
        ]
        assert len(work.threads) == 1 and (bench.running, bench.waiting) == (0, 0)
        return found

    assert asyncio.run(run()) == [2 * item for item in range(80)]
    assert LARGEST_BATCH == 32


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=90))
def test_each_gets_its_own_answer_in_batches_of_one_key_in_the_order_of_coming(asked):
    async def run() -> None:
        bench, seen = Bench(room=100), defaultdict(list)

        def call(key: str):
            def answered(items: Sequence[int]) -> list[str]:
                seen[key].append(list(items))
                return [f"{key}{item}" for item in items]

            return answered

        tasks = []
        for place, (key, pause) in enumerate(asked):
            tasks.append(asyncio.ensure_future(bench.ask(key, place, call(key))))
            for _ in range(pause):
                await asyncio.sleep(0)
        found = await closed_after(bench, asyncio.gather(*tasks))
        assert found == [f"{key}{place}" for place, (key, _) in enumerate(asked)]
        for key, batches in seen.items():
            assert [i for batch in batches for i in batch] == [
                p for p, (k, _) in enumerate(asked) if k == key
            ]
            assert all(1 <= len(batch) <= LARGEST_BATCH for batch in batches)

    asyncio.run(run())


def test_keys_take_turns():
    async def run() -> list[str]:
        bench, order = Bench(room=200), []
        gate = threading.Event()

        def call(key: str):
            def answered(items: Sequence[int]) -> list[int]:
                assert gate.wait(10)
                order.append(key)
                return list(items)

            return answered

        tasks = [asyncio.ensure_future(bench.ask("long", item, call("long"))) for item in range(100)]
        tasks.append(asyncio.ensure_future(bench.ask("short", 0, call("short"))))
        await asyncio.sleep(0.05)
        gate.set()
        await closed_after(bench, asyncio.gather(*tasks))
        return order

    assert asyncio.run(run()) == ["long", "short", "long", "long", "long"]


@pytest.mark.parametrize(
    "wrong", (lambda items: 1 / 0, lambda items: [], lambda items: [*items, 1], lambda items: None)
)
def test_an_error_reaches_all_of_its_batch_and_nobody_else(wrong):
    async def run() -> None:
        bench, work = Bench(room=10), Work()
        bad = [asyncio.ensure_future(bench.ask("bad", item, wrong)) for item in range(3)]
        good = [asyncio.ensure_future(bench.ask("good", item, work.double)) for item in range(3)]
        found = await closed_after(bench, asyncio.gather(*bad, *good, return_exceptions=True))
        assert isinstance(found, list)
        assert all(isinstance(one, Exception) for one in found[:3]) and found[3:] == [0, 2, 4]

    asyncio.run(run())


def test_who_leaves_is_asked_for_no_more_and_the_others_are_answered():
    async def run() -> None:
        bench, work = Bench(room=20), Work(closed=True)
        asked = [asyncio.ensure_future(bench.ask("a", item, work.double)) for item in range(3)]
        await asyncio.sleep(0.05)
        late = [asyncio.ensure_future(bench.ask("a", item, work.double)) for item in range(3, 9)]
        await asyncio.sleep(0)
        for task in (asked[1], *late[:2], late[4]):  # one of them while the thread is at it
            task.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        found = await closed_after(bench, asyncio.gather(*asked, *late, return_exceptions=True))
        assert isinstance(found, list)
        left = [place for place, one in enumerate(found) if isinstance(one, asyncio.CancelledError)]
        assert left == [1, 3, 4, 7]
        assert [one for place, one in enumerate(found) if place not in left] == [0, 4, 10, 12, 16]
        assert work.batches == [[0, 1, 2], [5, 6, 8]]

    asyncio.run(run())


def test_who_comes_when_too_many_wait_is_refused_at_once():
    async def run() -> None:
        bench, work = Bench(room=2), Work(closed=True)
        first = asyncio.ensure_future(bench.ask("a", 0, work.double))
        await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(bench.ask(key, 1, work.double)) for key in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(Full) as caught:
            await asyncio.wait_for(bench.ask("c", 2, work.double), 5)
        assert caught.value.waiting == 2 and caught.value.retry_after_s > 0
        work.gate.set()
        assert await closed_after(bench, asyncio.gather(first, *waiting)) == [0, 2, 2]

    asyncio.run(run())


def test_the_loop_goes_on_while_the_thread_works():
    async def run() -> int:
        bench, turns = Bench(room=2), 0
        call = asyncio.ensure_future(bench.run(lambda: time.sleep(0.2)))
        while not call.done():
            await asyncio.sleep(0.01)
            turns += 1
        await closed_after(bench, call)
        return turns

    assert asyncio.run(run()) > 5


def test_what_waits_for_another_computer_holds_up_nothing_else_and_is_asked_alone():
    async def run() -> None:
        bench, far, near = Bench(room=50, away=lambda key: key == "far"), Work(closed=True), Work()
        asked = [asyncio.ensure_future(bench.ask("far", item, far.double)) for item in range(MOST_AWAY + 3)]
        asked.append(asyncio.ensure_future(bench.ask("far", 0, lambda items: [1 / 0])))
        await asyncio.sleep(0.05)
        assert (bench.running, bench.waiting) == (MOST_AWAY, 4)
        assert await asyncio.wait_for(bench.ask("near", 1, near.double), 5) == 2
        asked[-2].cancel()
        await asyncio.sleep(0)
        assert bench.waiting == 3
        far.gate.set()
        found = await closed_after(bench, asyncio.gather(*asked, return_exceptions=True))
        assert isinstance(found, list)
        assert found[:-2] == [2 * item for item in range(MOST_AWAY + 2)]
        assert isinstance(found[-2], asyncio.CancelledError) and isinstance(found[-1], ZeroDivisionError)
        assert sorted(far.batches) == [[item] for item in range(MOST_AWAY + 2)]
        assert (bench.running, bench.waiting) == (0, 0)

    asyncio.run(run())


def test_each_that_is_away_has_room_of_its_own():
    async def run() -> None:
        bench, work = Bench(room=1, away=lambda key: key != "near"), Work(closed=True)
        asked = [asyncio.ensure_future(bench.ask("far", item, work.double)) for item in range(MOST_AWAY + 1)]
        await asyncio.sleep(0.05)
        with pytest.raises(Full) as caught:
            await bench.ask("far", 0, work.double)
        assert caught.value.waiting == 1
        assert await asyncio.wait_for(bench.ask("near", 1, Work().double), 5) == 2
        assert await asyncio.wait_for(bench.ask("farther", 1, Work().double), 5) == 2
        work.gate.set()
        await closed_after(bench, asyncio.gather(*asked))

    asyncio.run(run())


@pytest.mark.parametrize(
    "call", ("bench.ask('far', 0, lambda items: time.sleep(60))", "aside(lambda: time.sleep(60))")
)
def test_threads_that_are_away_do_not_keep_a_program_from_ending(call):
    code = (
        "import asyncio, time; from rung.serve.bench import Bench, aside\n"
        "async def run():\n"
        "    bench = Bench(room=9, away=lambda key: True)\n"
        f"    asked = asyncio.ensure_future({call})\n"
        "    await asyncio.sleep(0.1); bench.close(); asked.cancel()\n"
        "asyncio.run(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
