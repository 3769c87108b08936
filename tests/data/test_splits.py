import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rung.data.splits import SHARES, question, split
from rung.errors import DataError
from rung.records import Example, Splits


def row(number: int, *, text: str | None = None, output: str = "a", group: str | None = None) -> Example:
    return Example(id=f"{number:05}", input=text or f"question {number}", output=output, group=group)


def rows(count: int) -> list[Example]:
    return [row(number) for number in range(count)]


def sides(splits: Splits) -> dict[str, str]:
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    return {example.id: name for name, part in parts.items() for example in part}


def test_without_a_test_the_shares_are_60_20_20_and_beside_one_80_20() -> None:
    carved = split(rows(1000), test=None, seed=0, stratify=False)
    assert (len(carved.train), len(carved.dev), len(carved.test)) == (600, 200, 200)
    assert not carved.test_given
    given_rows = [row(5000)]
    beside = split(rows(1000), test=given_rows, seed=0, stratify=False)
    assert (len(beside.train), len(beside.dev), beside.test) == (800, 200, tuple(given_rows))
    assert beside.test_given


@pytest.mark.parametrize("stratify", [False, True])
def test_the_test_is_the_same_for_any_number_of_dev_rows(stratify: bool) -> None:
    examples = [row(n, output="abc"[n % 3], group=f"g{n}" if n % 7 else f"g{n // 40}") for n in range(1000)]
    usual = split(examples, test=None, seed=0, stratify=stratify)
    for wanted in (20, 60, 150, 199):
        found = split(examples, test=None, seed=0, stratify=stratify, dev_rows=wanted)
        assert found.test == usual.test
        assert abs(len(found.dev) - wanted) <= 3
        assert len(found.train) + len(found.dev) + len(found.test) == 1000
        assert {example.output for example in found.dev} == set("abc")
    enough = split(examples, test=None, seed=0, stratify=stratify, dev_rows=200)
    assert enough == usual


def test_few_dev_rows_beside_a_given_test_leave_the_rest_to_train() -> None:
    found = split(rows(1000), test=[row(5000)], seed=0, stratify=False, dev_rows=50)
    assert (len(found.train), len(found.dev)) == (950, 50)


def test_another_seed_gives_other_sides_and_another_digest() -> None:
    one, same, other = (split(rows(100), test=None, seed=seed, stratify=False) for seed in (1, 1, 2))
    assert one == same
    assert sides(one) != sides(other)
    assert one.digest != other.digest


def test_the_digest_depends_on_outputs_too() -> None:
    changed = [*rows(99), row(99, output="b")]
    digests = {split(each, test=None, seed=0, stratify=False).digest for each in (rows(100), changed)}
    assert len(digests) == 2


@pytest.mark.parametrize("change", [{"group": "g"}, {"context": "c"}, {"input": "e\u0301"}])
def test_the_digest_depends_on_everything_that_can_change_a_verdict(change: dict[str, str]) -> None:
    same = replace(row(99), input="\u00e9")
    digests = {
        split(rows(99), test=[given], seed=0, stratify=False).digest
        for given in (same, replace(same, **change))
    }
    assert len(digests) == 2


def test_the_side_of_a_row_hardly_depends_on_rows_that_come_later() -> None:
    before = sides(split(rows(1000), test=None, seed=0, stratify=False))
    after = sides(split(rows(1001), test=None, seed=0, stratify=False))
    shuffled = sum(SHARES[name] ** 2 for name in SHARES)
    assert sum(before[key] == after[key] for key in before) / 1000 > shuffled


def test_outputs_keep_their_shares_in_every_part() -> None:
    examples = [row(n, output="rare" if n % 10 == 0 else "common") for n in range(1000)]
    splits = split(examples, test=None, seed=3, stratify=True)
    counts = [
        Counter(example.output for example in part)["rare"]
        for part in (splits.train, splits.dev, splits.test)
    ]
    assert counts == [60, 20, 20]


def test_an_output_that_one_row_has_is_in_train() -> None:
    examples = [*rows(50), *(row(100 + n, output=f"only {n}") for n in range(10))]
    splits = split(examples, test=None, seed=0, stratify=True)
    assert {f"only {n}" for n in range(10)} <= {example.output for example in splits.train}


def test_the_only_group_with_an_output_is_in_train_even_where_it_fits_badly() -> None:
    examples = [
        *(row(n, group="large") for n in range(55)),
        *(row(100 + n, group="small", output="a" if n else "rare") for n in range(21)),
        *(row(200 + n) for n in range(24)),
    ]
    splits = split(examples, test=None, seed=0, stratify=True)
    assert "rare" in {example.output for example in splits.train}
    common = [replace(example, output="a") for example in examples]
    assert sides(split(common, test=None, seed=0, stratify=True))["00100"] != "train"


def test_inputs_that_differ_in_case_width_or_blanks_only_stay_together() -> None:
    spellings = ["Where  is\tit", "where is it", "WHERE IS IT", "ｗｈｅｒｅ is it\n"]
    for seed in range(20):
        examples = [*rows(30), *(row(100 + n, text=text) for n, text in enumerate(spellings))]
        placed = sides(split(examples, test=None, seed=seed, stratify=False))
        assert len({placed[f"{100 + n:05}"] for n in range(4)}) == 1


def test_the_same_input_in_another_context_is_another_question() -> None:
    one, two = (Example(id=c, input="total?", output="1", context=c) for c in "ab")
    assert question(one) != question(two)


def test_rows_linked_through_a_group_and_an_input_stay_together() -> None:
    chain = [
        row(100, text="p", group="g"),
        row(101, text="q", group="g"),
        row(102, text="q", group="h"),
        row(103, text="r", group="h"),
    ]
    for seed in range(20):
        placed = sides(split([*rows(30), *chain], test=None, seed=seed, stratify=False))
        assert len({placed[example.id] for example in chain}) == 1


def test_a_row_that_asks_what_a_given_test_asks_leaves_train_and_is_counted() -> None:
    test = [row(900, text="Question 7"), row(901, text="Question 7")]
    splits = split(rows(100), test=test, seed=0, stratify=False)
    assert splits.test == tuple(test)
    assert [example.id for example in splits.removed] == ["00007"]
    assert "00007" not in sides(splits)
    assert len(splits.train) + len(splits.dev) == 99


@pytest.mark.parametrize(
    ("examples", "test", "said"),
    [
        (rows(2), None, "no rows are left for"),
        (
            [row(n, group="one") for n in range(50)],
            None,
            "for dev: 50 rows, and they make 1 group that can't",
        ),
        ([row(n, text="The same") for n in range(50)], None, "50 rows, all with the same input; give rows"),
        (rows(20), rows(20), "20 of them in the given test"),
        (rows(20), [], "the test file holds no rows"),
    ],
)
def test_a_part_that_would_be_empty_is_refused(
    examples: list[Example], test: list[Example] | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        split(examples, test=test, seed=0, stratify=False)


def test_ten_thousand_rows_are_split_in_about_a_second() -> None:
    examples = [row(n, output=f"label {n % 77}", group=f"g{n // 3}") for n in range(10_000)]
    start = time.process_time()
    split(examples, test=None, seed=0, stratify=True)
    assert time.process_time() - start < 2


inputs = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from("abc"), st.none() | st.integers(0, 30)),
    min_size=5,
    max_size=80,
)


def examples_of(drawn: list[tuple[int, str, int | None]]) -> list[Example]:
    return [
        row(n, text=f"q{text}", output=output, group=None if group is None else f"g{group}")
        for n, (text, output, group) in enumerate(drawn)
    ]


@settings(max_examples=100, deadline=None)
@given(inputs, st.integers(0, 9), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_whole_and_independent_of_row_order(
    drawn: list[tuple[int, str, int | None]],
    seed: int,
    stratify: bool,
    with_test: bool,
    shuffle: random.Random,
) -> None:
    examples = examples_of(drawn)
    test = [row(9000 + n, text=f"q{n}") for n in range(3)] if with_test else None
    try:
        splits = split(examples, test=test, seed=seed, stratify=stratify)
    except DataError:
        assume(False)
        return
    placed = [
        example.id for part in (splits.train, splits.dev, splits.test, splits.removed) for example in part
    ]
    assert sorted(placed) == sorted(example.id for example in [*examples, *(test or [])])
    by_id = sides(splits)
    for key in ("input", "group"):
        seen: dict[str, set[str]] = {}
        for example in examples:
            if example.id in by_id and getattr(example, key) is not None:
                seen.setdefault(getattr(example, key), set()).add(by_id[example.id])
        assert all(len(names) == 1 for names in seen.values())
    if test is not None:
        assert not {question(example) for example in test} & {
            question(example) for example in (*splits.train, *splits.dev)
        }
    if stratify:
        kept = {example.output for example in (*splits.train, *splits.dev)}
        assert kept == {example.output for example in splits.train}
    shuffled = list(examples)
    shuffle.shuffle(shuffled)
    assert split(shuffled, test=test, seed=seed, stratify=stratify) == splits


@settings(max_examples=100, deadline=None)
@given(inputs, st.integers(0, 9), st.booleans(), st.integers(1, 20))
def test_no_number_of_dev_rows_learns_from_the_test_or_breaks_what_belongs_together(
    drawn: list[tuple[int, str, int | None]], seed: int, stratify: bool, dev_rows: int
) -> None:
    examples = examples_of(drawn)
    try:
        usual = split(examples, test=None, seed=seed, stratify=stratify)
        found = split(examples, test=None, seed=seed, stratify=stratify, dev_rows=dev_rows)
    except DataError:
        assume(False)
        return
    assert found.test == usual.test
    placed = sides(found)
    assert len(placed) == len(examples)
    for key in ("input", "group"):
        for value in {getattr(example, key) for example in examples} - {None}:
            assert len({placed[e.id] for e in examples if getattr(e, key) == value}) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=100, max_size=150), st.integers(0, 99), st.booleans())
def test_shares_are_kept_within_two_points_when_no_group_is_large(
    sizes: list[int], seed: int, stratify: bool
) -> None:
    examples = [
        row(100 * number + n, output="ab"[n % 2], group=f"g{number}")
        for number, size in enumerate(sizes)
        for n in range(size)
    ]
    splits = split(examples, test=None, seed=seed, stratify=stratify)
    for name, part in (("train", splits.train), ("dev", splits.dev), ("test", splits.test)):
        assert abs(len(part) / len(examples) - SHARES[name]) < 0.02
