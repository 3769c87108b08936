"""Turns at an engine: whose they are, and that everybody gets one, whoever leaves when."""

import asyncio
import contextlib
import itertools
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rung.serve import lanes as module
from rung.serve.lanes import TAIL, TURN_S, Full, Lanes, let_in

ADAPTERS = ("a", "b", "c", None)
STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(ADAPTERS)),
    st.tuples(st.just("ask"), st.sampled_from(ADAPTERS[:2])),
    st.tuples(st.just("end"), st.integers(0, 30)),
    st.tuples(st.just("leave"), st.integers(0, 30)),
    st.tuples(st.just("leave as one ends"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.sampled_from((0.1, 0.6, TURN_S, 3.0))),
    st.tuples(st.just("ask and leave"), st.sampled_from(ADAPTERS)),
)


STARTS = itertools.count(1)


class Clock:
    """The time that the lanes see."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Asking:
    """One request: it waits for its turn, holds a slot until it is told to end, and is over."""

    def __init__(self, lanes: Lanes, lane: str | None) -> None:
        self.lane, self.state, self.started = lane, "waiting", 0
        self._end = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(lanes))

    async def _run(self, lanes: Lanes) -> None:
        try:
            async with lanes.turn(self.lane):
                self.state, self.started = "running", next(STARTS)
                await self._end.wait()
            self.state = "served"
        except Full:
            self.state = "refused"
        except asyncio.CancelledError:
            self.state = "left"

    def end(self) -> None:
        self._end.set()

    def leave(self) -> None:
        self._task.cancel()


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def check(lanes: Lanes, asking: list[Asking], slots: int, room: int) -> None:
    """What holds at any moment."""
    running = [one.lane for one in asking if one.state == "running"]
    waiting = {one.lane for one in asking if one.state == "waiting"}
    assert lanes.running == len(running) <= slots
    assert lanes.waiting == sum(one.state == "waiting" for one in asking) <= room
    last = max(asking, key=lambda one: one.started, default=None)
    if last is None or not waiting:
        return
    # When a lane has begun, of those before it the tail is left and no more.
    assert sum(lane != last.lane for lane in running) <= TAIL
    # No slot is idle that whoever waits may have.
    if len(running) < slots:
        assert waiting != {last.lane}, "one lane waits alone"
        assert len(running) > TAIL or last.lane in waiting, "the next lane isn't let in"


async def act(what: str, value: Any, asking: list[Asking], lanes: Lanes, clock: Clock) -> None:
    """One step of a story."""

    def among(state: str, place: int) -> Asking | None:
        found = [one for one in asking if one.state == state]
        return found[place % len(found)] if found else None

    if what == "wait":
        clock.now += value
    elif what.startswith("ask"):
        asking.append(Asking(lanes, value))
        if what == "ask and leave":
            await asyncio.sleep(0)
            asking[-1].leave()
    elif what == "end" and (one := among("running", value)):
        one.end()
    elif what.startswith("leave") and (one := among("waiting", value) or among("running", value)):
        if what == "leave as one ends" and (other := among("running", value + 1)):
            other.end()
            for _ in range(value % 4):
                await asyncio.sleep(0)
        one.leave()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.lists(STEP, min_size=20, max_size=60))
@example(1, 8, [("ask", "a"), ("ask", "a"), ("leave as one ends", 1)])
@example(3, 8, [*[("ask", "a")] * 4, ("ask", "b"), ("wait", TURN_S), ("end", 0), ("leave", 1)])
def test_turns_are_kept_whatever_happens_and_all_who_stay_are_served(slots, room, steps):
    async def run(clock: Clock) -> None:
        lanes, asking = Lanes(slots, room), []
        for what, value in steps:
            await act(what, value, asking, lanes, clock)
            await settle()
            check(lanes, asking, slots, room)
        # Whoever still waits is served in the end, in so many rounds as there are requests at most.
        for _ in range(len(asking) + 1):
            for one in asking:
                if one.state == "running":
                    one.end()
            clock.now += 0.3
            await settle()
            check(lanes, asking, slots, room)
        assert {one.state for one in asking} <= {"served", "left", "refused"}
        assert (lanes.running, lanes.waiting) == (0, 0)

    clock = Clock()
    with patch.object(module, "time", clock):
        asyncio.run(run(clock))


def test_a_lane_gives_way_when_its_turn_is_over_though_more_of_it_come():
    async def run(clock: Clock) -> list[str | None]:
        lanes = Lanes(2, 100)
        asking = [Asking(lanes, "a") for _ in range(10)] + [Asking(lanes, "b")]
        served = []
        await settle()
        while asking[10].state == "waiting":
            assert len(served) < 20, "the other lane is never served"
            for one in [one for one in asking if one.state == "running"]:
                one.end()
                served.append(one.lane)
                asking.append(Asking(lanes, "a"))
            clock.now += 0.3
            await settle()
        for one in asking:
            one.leave()
        await settle()
        return served

    clock = Clock()
    with patch.object(module, "time", clock):
        served = asyncio.run(run(clock))
    # Within its turn the first lane keeps both slots; then no more of it start.
    assert served == ["a"] * len(served) and 2 * int(TURN_S / 0.3) <= len(served) <= 2 * int(TURN_S / 0.3) + 4


def test_the_lane_that_has_waited_longest_is_next():
    async def run(clock: Clock) -> list[str | None]:
        lanes, order = Lanes(1, 100), []
        asking = []
        for lane in ("a", "b", "c", "a", "d", "b"):
            asking.append(Asking(lanes, lane))
            await settle()
            clock.now += 0.1
        while running := [one for one in asking if one.state == "running"]:
            order.append(running[0].lane)
            running[0].end()
            clock.now += 2 * TURN_S
            await settle()
        return order

    clock = Clock()
    with patch.object(module, "time", clock):
        assert asyncio.run(run(clock)) == ["a", "b", "c", "a", "d", "b"]


def test_who_comes_when_too_many_wait_is_told_when_to_come_again():
    async def run() -> None:
        lanes = Lanes(1, 2)
        asking = [Asking(lanes, "a") for _ in range(3)]
        await settle()
        assert [one.state for one in asking] == ["running", "waiting", "waiting"]
        with pytest.raises(Full) as caught:
            async with asyncio.timeout(5), lanes.turn("b"):
                raise AssertionError("it was let in")
        assert caught.value.waiting == 2 and caught.value.retry_after_s > 0
        asking[1].leave()
        await settle()
        late = Asking(lanes, "b")
        with let_in():
            parts = [Asking(lanes, "b") for _ in range(3)]
        await settle()
        assert [one.state for one in (late, *parts)] == ["waiting"] * 4
        for one in (*asking, late, *parts):
            one.leave()
        await settle()

    asyncio.run(run())


def test_a_turn_ends_when_its_request_breaks():
    async def run() -> None:
        lanes = Lanes(1, 2)
        for _ in range(3):
            with contextlib.suppress(ValueError):
                async with lanes.turn("a"):
                    assert lanes.running == 1
                    raise ValueError
        assert (lanes.running, lanes.waiting) == (0, 0)

    asyncio.run(run())
