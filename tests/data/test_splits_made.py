"""Rows that a model made are learned from alone: no split carves them into dev or test."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rung.checks.base import Subject
from rung.checks.rows import prepare
from rung.checks.table import check
from rung.climb.options import Options
from rung.data.splits import split
from rung.errors import DataError
from rung.records import Example
from rung.task import DataFiles, Output, Task


def row(number: int, *, text: str | None = None, group: str | None = None, made: bool = False) -> Example:
    return Example(
        id=f"{number:05}",
        input=text or f"question {number}",
        output="abc"[number % 3],
        group=group,
        synthetic=made,
    )


def test_made_rows_are_in_train_and_the_others_are_parted_as_without_them() -> None:
    written = [row(n) for n in range(100)]
    alone = split(written, test=None, seed=0, stratify=True)
    found = split([*written, *(row(n, made=True) for n in range(100, 400))], test=None, seed=0, stratify=True)
    assert (found.dev, found.test) == (alone.dev, alone.test)
    assert len(found.train) == len(alone.train) + 300


def test_beside_a_given_test_dev_has_none_either() -> None:
    examples = [row(n, made=n % 2 == 0) for n in range(200)]
    found = split(examples, test=[row(900, made=True)], seed=0, stratify=False, dev_rows=15)
    assert len(found.dev) == 15 and not any(one.synthetic for one in found.dev)
    assert [one.synthetic for one in found.test] == [True]


@pytest.mark.parametrize("by", ["input", "group", "near"])
def test_what_is_of_one_draw_with_a_made_row_stays_in_train(by: str) -> None:
    held = range(20)
    written = [row(n, group=f"g{n}" if by == "group" and n in held else None) for n in range(60)]
    made = [
        row(
            900 + n,
            text=f"QUESTION {n}" if by == "input" else f"made up {n}",
            group=f"g{n}" if by == "group" else None,
            made=True,
        )
        for n in held
    ]
    near = [(f"{n:05}", f"{900 + n:05}") for n in held] if by == "near" else []
    found = split([*written, *made], test=None, seed=0, stratify=False, near=near)
    assert {f"{n:05}" for n in held} <= {one.id for one in found.train}
    assert (len(found.dev), len(found.test)) == (8, 8)


def test_rows_that_are_all_made_are_no_dev_and_no_test_and_that_is_said() -> None:
    with pytest.raises(DataError, match="left for (dev|test): .*60 of them marked as made by a model.*mark"):
        split([row(n, made=True) for n in range(60)], test=None, seed=0, stratify=False)


@pytest.mark.parametrize(("written", "in_dev"), [(0, True), (99, True), (100, False)])
def test_beside_a_given_test_dev_has_made_rows_only_where_people_wrote_too_few(written, in_dev) -> None:
    examples = [row(n, made=n >= written) for n in range(600)]
    test = [row(900)]
    found = split(examples, test=test, seed=0, stratify=False)
    plain = split([replace(one, synthetic=False) for one in examples], test=test, seed=0, stratify=False)
    assert any(one.synthetic for one in found.dev) is in_dev
    assert (found.digest == plain.digest) is in_dev
    assert len(found.train) + len(found.dev) == 600
    assert len(found.dev) == (120 if in_dev else 20)


def test_where_the_mark_counts_for_nothing_it_is_not_what_is_blamed() -> None:
    one_group = [row(n, group="g", made=n % 2 == 0) for n in range(60)]
    with pytest.raises(DataError, match="can't be parted, by their `group`"):
        split(one_group, test=[row(900)], seed=0, stratify=False)


@pytest.mark.parametrize(("given", "said"), [(True, "is in dev"), (False, "is in dev or the test")])
def test_where_made_rows_are_not_is_told_of_the_parts_that_were_cut(given: bool, said: str) -> None:
    output = Output(kind="label", labels=("a", "b", "c"))
    task = Task(data=DataFiles(train=Path("train.jsonl")), output=output)
    rows = [row(n, made=n >= 200) for n in range(300)]
    parts = split(rows, test=[row(900)] if given else None, seed=0, stratify=False)
    found = check(Subject(task=task, splits=parts), (), ("rows",)).findings
    (told,) = [one for one in found if one.check == "synthetic"]
    assert told.message.endswith(said)


def test_rows_without_marks_are_parted_as_they_always_were() -> None:
    examples = [
        replace(row(n, text=f"question {n % 190}"), group=f"g{n // 5}" if n % 4 else None) for n in range(200)
    ]
    digests = [
        split(examples, test=test, seed=3, stratify=stratify, dev_rows=dev_rows).digest[:16]
        for test, stratify, dev_rows in (
            (None, False, None),
            (None, True, None),
            (None, True, 20),
            ([Example(id="t", input="another", output="a")], True, None),
        )
    ]
    assert digests == ["37d7443c3f62d38d", "41256fb65735ec4b", "a8f8eea060d8089e", "161d93f6f4b3eca5"]


drawn = st.lists(
    st.tuples(st.integers(0, 60), st.none() | st.integers(0, 30), st.integers(0, 4).map(lambda n: n == 0)),
    min_size=8,
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(drawn, st.integers(0, 9), st.booleans(), st.none() | st.integers(1, 9), st.booleans())
def test_no_split_carves_a_made_row(rows, seed, stratify, dev_rows, with_test) -> None:
    examples = [
        row(n, text=f"q{text}", group=None if group is None else f"g{group}", made=made)
        for n, (text, group, made) in enumerate(rows)
    ]
    test = [row(9000, text="nobody asks that")] if with_test else None
    try:
        found = split(examples, test=test, seed=seed, stratify=stratify, dev_rows=dev_rows)
    except DataError:
        assume(False)
        return
    assert len(found.train) + len(found.dev) + len(found.test) == len(examples) + with_test
    if with_test:  # so few rows: beside a test the mark counts for nothing
        plain = [replace(one, synthetic=False) for one in examples]
        assert found.digest == split(plain, test=test, seed=seed, stratify=stratify, dev_rows=dev_rows).digest
        return
    assert not any(one.synthetic for one in (*found.dev, *found.test))
    assert {one.id for one in examples if one.synthetic} <= {one.id for one in found.train}
    for key in ("input", "group"):
        made = {getattr(one, key) for one in examples if one.synthetic} - {None}
        assert not made & {getattr(one, key) for one in (*found.dev, *found.test)}


def test_accepting_made_rows_lets_none_into_a_test_that_is_carved(tmp_path: Path) -> None:
    lines = [
        {
            "input": f"Wo ist mein Paket Nummer {n * 7919}?",
            "output": ("a", "b")[n % 2],
            "synthetic": n % 3 == 0,
        }
        for n in range(300)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = prepare(tmp_path / "rows.jsonl", Options())
    parts = prepared.splits
    assert parts.test and not any(one.synthetic for one in (*parts.dev, *parts.test))
    assert sum(one.synthetic for one in parts.train) == 100
    subject = Subject(task=prepared.task, splits=parts)
    for accepted in ((), ("synthetic",)):
        told = [one for one in check(subject, accepted, ("rows",)).findings if one.check == "synthetic"]
        assert [(one.severity, one.count, one.accepted) for one in told] == [("info", 100, False)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:60]))
    given = prepare(tmp_path / "rows.jsonl", Options(test=tmp_path / "test.jsonl"))
    blocked = check(Subject(task=given.task, splits=given.splits), (), ("rows",)).findings
    assert ("synthetic", "block", 20) in [(one.check, one.severity, one.count) for one in blocked]


def test_a_dev_that_a_model_made_is_warned_of() -> None:
    output = Output(kind="label", labels=("a", "b", "c"))
    task = Task(data=DataFiles(train=Path("train.jsonl")), output=output)
    parts = split([row(n, made=True) for n in range(60)], test=[row(900)], seed=0, stratify=False)
    found = check(Subject(task=task, splits=parts), (), ("rows",)).findings
    told = [one for one in found if one.check == "synthetic"]
    assert [(one.severity, one.count) for one in told] == [("warn", 12), ("info", 48)]
    assert "alone says how well it does" in told[0].message and "is in dev" not in told[1].message
