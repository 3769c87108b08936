import threading

from hypothesis import given
from hypothesis import strategies as st

from rung.engines.slots import Slots, common_length

tokens = st.lists(st.integers(0, 1), max_size=12).map(tuple)


def test_a_prompt_goes_to_the_slot_that_holds_most_of_it():
    slots = Slots(2)
    with slots.reserve((1, 2, 3)) as first, slots.reserve((7, 8, 9)) as second:
        assert first != second
    with slots.reserve((7, 8, 1)) as again:
        assert again == second
    with slots.reserve((1, 2, 4)) as again:
        assert again == first


def test_an_unknown_prompt_replaces_what_was_used_longest_ago():
    slots = Slots(2)
    with slots.reserve((1,)) as oldest:
        pass
    with slots.reserve((2,)):
        pass
    with slots.reserve((3,)) as taken:
        assert taken == oldest


def test_a_caller_waits_while_all_slots_are_taken():
    slots = Slots(1)
    entered = threading.Event()

    def other() -> None:
        with slots.reserve((2,)):
            entered.set()

    thread = threading.Thread(target=other)
    with slots.reserve((1,)):
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(5)
    thread.join()


@given(tokens, tokens)
def test_the_common_length_is_that_of_a_plain_loop(left, right):
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1
    assert common_length(left, right) == expected
