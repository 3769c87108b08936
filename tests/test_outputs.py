"""Outputs spelled otherwise than they are meant: whole labels of float columns, and amounts of money."""

import random

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.records import Example, Json
from rung.task import DataFiles, Output, Task, as_kind, settle_kind
from rung.task.numbers import amount_of
from tests.fixtures_climb import TOPICS, label_rows


def noted(outputs: list[Json]) -> str:
    """What is said of the kind that these outputs show."""
    rows = [
        Example(id=str(n), input=f"question {n}", output=output, where=f"rows.jsonl:{n}")
        for n, output in enumerate(outputs, start=1)
    ]
    return settle_kind(Task(data=DataFiles.model_validate({"train": "rows.jsonl"})), rows)[1][0]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (2.0**53, "9007199254740992.0"),
        (1e300, "1e+300"),
        ("1.0", "1.0"),
        (True, "true"),
    ],
)
def test_a_whole_number_is_one_label_as_a_float_too(value, label):
    assert as_kind(value, "label") == label
    assert as_kind(1.0, "text") == "1.0"
    if not isinstance(value, str):
        assert Output.model_validate({"labels": [value, "other"]}).labels == (label, "other")


def test_a_label_that_is_no_number_is_refused():
    with pytest.raises(ValidationError, match="valid string"):
        Output.model_validate({"labels": [float("nan"), "a"]})
    with pytest.raises(ValidationError, match="a label is listed twice: '1'"):
        Output.model_validate({"labels": [1, 1.0]})


def test_labels_of_a_column_with_a_gap_are_those_of_one_without(tmp_path):
    numbers = {topic: number for number, topic in enumerate(TOPICS)}
    rows = [{"text": row["input"], "label": numbers[row["output"]]} for row in label_rows(240)]
    train = pyarrow.Table.from_pylist(rows[:160])
    gap = pyarrow.array([*map(float, train.column("label").to_pylist()[:-1]), None])
    parquet.write_table(train.set_column(1, "label", gap), tmp_path / "train.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[160:]), tmp_path / "test.parquet")
    prepared = prepare(tmp_path / "train.parquet", Options(test=tmp_path / "test.parquet"))
    assert prepared.task.output.labels == tuple(map(str, range(len(TOPICS))))
    tested = {str(row.output) for row in prepared.splits.test}
    assert sorted(tested) == list(prepared.task.output.labels or ())
    found = {one.check for one in examined(prepared, (), ("rows",)).findings}
    assert "broken_rows" in found and not found & {"unseen_labels", "labels_alike"}


GERMAN = [f"{n},{n % 10}0" for n in range(40)] + ["1.250,00"]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (GERMAN, "look like numbers, such as '0,00': write 0 for that, and all others so"),
        (["1,0", "1,3", "1,7"] * 10, "such as '1,0': write 1 for that"),
        ([f"{n},{n + 100}.50" for n in range(1, 40)], "such as '1,101.50': write 1101.5 for that"),
        ([f"€ {n}" for n in range(40)], "such as '€ 0': write 0 for that"),
        (["5 %", "10 %"] * 20, "such as '5 %': write 5 for that"),
        ([*(f"{n}.5" for n in range(20)), *(f"{n} 000 EUR" for n in range(1, 20))], "EUR': write 1000 for"),
        ([*GERMAN[:39], "none"], "such as '0,00': write 0 for that"),
    ],
)
def test_numbers_as_people_write_them_have_a_hint(outputs, said):
    assert said in noted(outputs)


@pytest.mark.parametrize(
    "outputs",
    [
        ["A1", "B2"] * 20,
        ["1a", "2b"] * 20,
        ["1,0", "low"] * 20,
        [f"{n}.{n}.{n}" for n in range(40)],
        [f"{n}/{n + 1}" for n in range(40)],
        ["10,20,30", "1,2,3,4"] * 20,
        [f"ISO {n}" for n in range(40)],
        [*GERMAN[:18], "none"],
        ["spam", "ham"] * 20,
    ],
)
def test_what_is_no_amount_has_none(outputs):
    assert "look like numbers" not in noted(outputs)


def test_an_amount_is_a_whole_text():
    dice = random.Random(0)
    for _ in range(200):
        value = dice.randrange(10**8) / 100
        german = f"{value:.2f}%".replace(".", ",")
        for text in (f"{value:.2f}", f"{value:,.2f} €", f"USD {value:,.2f}", german):
            assert amount_of(f" {text} ") == pytest.approx(value), text
    assert amount_of("it is 5") is amount_of("5 and 6") is amount_of("1" * 61) is amount_of("") is None
