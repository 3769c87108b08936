from pathlib import Path

from rung.checks.base import Subject
from rung.checks.provenance import synthetic
from rung.records import Example, Splits
from rung.task import DataFiles, Output, Task


def rows(name: str, count: int, made: int = 0) -> tuple[Example, ...]:
    """The last `made` of them by a model."""
    return tuple(
        Example(id=f"{name}{n}", input="q", output="a", where=f"{name}.jsonl:{n}", synthetic=n > count - made)
        for n in range(1, count + 1)
    )


def subject(train: int = 0, test: int = 0) -> Subject:
    made = Splits(
        train=rows("train", 60, train),
        dev=rows("dev", 20),
        test=rows("test", 20, test),
        test_given=True,
        digest="",
    )
    task = Task(data=DataFiles(train=Path("train.jsonl")), output=Output(kind="text"))
    return Subject(task=task, splits=made)


def test_rows_that_people_wrote_are_silent() -> None:
    assert synthetic(subject()) == []


def test_one_row_of_a_model_in_the_test_blocks_with_the_way_out() -> None:
    found = synthetic(subject(test=1))
    assert isinstance(found, list)
    assert [(one.check, one.severity, one.rows) for one in found] == [
        ("synthetic", "block", ("test.jsonl:20",))
    ]
    assert "1 row (5.0%), such as test.jsonl:20" in found[0].message
    assert "take them out of the test" in found[0].message and "--accept synthetic" in found[0].message


def test_rows_of_a_model_in_train_are_worth_knowing_with_their_share() -> None:
    found = synthetic(subject(train=15))
    assert isinstance(found, list)
    assert [(one.severity, one.count) for one in found] == [("info", 15)]
    assert "15 rows (25.0%), such as train.jsonl:46" in found[0].message


def test_both_are_told_the_test_first() -> None:
    found = synthetic(subject(train=1, test=20))
    assert isinstance(found, list)
    assert [(one.severity, one.count) for one in found] == [("block", 20), ("info", 1)]
