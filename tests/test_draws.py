"""What each row is drawn with: its group and its question, as a split keeps them together."""

import time
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.splits import _blocks, split
from rung.records import Example
from rung.task.draws import count_draws, drawn_with, named_draws


def row(name, asks, group=None, context=None):
    return Example(id=name, input=asks, output="a", group=group, context=context)


def test_rows_of_a_group_and_rows_that_ask_the_same_are_one_draw_through_each_other():
    rows = [
        row("a", "Hi", "g"),
        row("b", "the key", "g"),
        row("c", "another thing"),
        row("d", " the  KEY"),
        row("e", "\N{FULLWIDTH LATIN CAPITAL LETTER H}i", "h"),
        row("f", "other", "h"),
        row("g", "other", context="but of something else"),
    ]
    assert drawn_with(rows) == dict.fromkeys("abdef", "a")
    assert count_draws(rows) == 3
    assert drawn_with(rows[1:3]) == {} == drawn_with([])


def test_a_group_that_is_called_like_a_row_is_not_that_row():
    rows = [row("1", "one"), row("2", "two", "1"), row("3", "three", "1"), row("4", "four", "4")]
    assert drawn_with(rows) == {"2": "2", "3": "2"}


rows_of = st.lists(
    st.tuples(st.sampled_from("abcdefghijklm"), st.sampled_from([None] * 5 + list("vwxyz"))), max_size=30
).map(lambda drawn: [row(f"r{at}", asks, group) for at, (asks, group) in enumerate(drawn)])


@settings(deadline=None)
@given(rows_of)
def test_what_is_drawn_together_is_what_a_split_keeps_on_one_side(rows):
    drawn, found = drawn_with(rows), defaultdict(set)
    for one in rows:
        found[drawn.get(one.id, one.id)].add(one.id)
    blocks = [{one.id for one in block} for block in _blocks(rows)]
    assert list(found.values()) == blocks
    assert count_draws(rows) == len(blocks)
    assert set(drawn) == {one for block in blocks if len(block) > 1 for one in block}


@settings(deadline=None)
@given(rows_of, st.randoms(use_true_random=False))
def test_a_draw_has_the_same_name_in_any_order_of_the_rows(rows, random):
    names = named_draws(rows)
    mixed = [*rows]
    random.shuffle(mixed)
    assert named_draws(mixed) == names
    assert len(set(names.values())) == count_draws(rows)


def test_rows_without_groups_and_repeats_go_by_their_own_names():
    rows = [row(str(at), f"question {at}", "g" if at in (3, 4) else None) for at in range(6)]
    assert list(named_draws(rows).values()) == ["0", "1", "2", "g", "g", "5"]


def test_many_rows_take_no_longer_than_to_split_them():
    rows = [row(str(at), f"question {at // 3} of many", f"g{at}" if at % 2 else None) for at in range(60_000)]
    start = time.perf_counter()
    assert count_draws(rows) == 20_000
    took, start = time.perf_counter() - start, time.perf_counter()
    split(rows, test=None, seed=0, stratify=False)
    assert took < 2 * (time.perf_counter() - start)
