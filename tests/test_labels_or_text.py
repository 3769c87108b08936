"""Where short outputs are labels and where texts, and what is said of either."""

from pathlib import Path

import pytest

from rung.records import Example, Json
from rung.task import DataFiles, Task, infer, is_of_kind, settle_kind
from rung.task.outputs import LABEL_CHARS, MAX_LABELS, ROWS_PER_LABEL

TASK = Task(data=DataFiles(train=Path("rows.jsonl")))
HINT = "; they are short and come again: write 'output: {kind: label}' if they name classes"
PAGE = Path(__file__).parents[1] / "docs" / "task-file.md"


def rows(outputs: list[Json]) -> list[Example]:
    return [
        Example(id=str(n), input=f"question {n}", output=output, where=f"rows.jsonl:{n}")
        for n, output in enumerate(outputs, start=1)
    ]


def names(labels: int, count: int) -> list[Json]:
    return [f"label {n % labels}" for n in range(count)]


@pytest.mark.parametrize(
    ("labels", "count", "kind"),
    [(200, 600, "label"), (200, 599, "text"), (MAX_LABELS, 1200, "label"), (MAX_LABELS + 1, 1204, "text")],
)
def test_labels_with_fewer_rows_or_more_of_them_are_text_and_it_is_said_how_to_have_them(
    labels: int, count: int, kind: str
) -> None:
    task, notes = settle_kind(TASK, rows(names(labels, count)))
    assert task.output.kind == kind
    assert notes[0].endswith(HINT) == (kind == "text")


@pytest.mark.parametrize(
    ("outputs", "hinted"),
    [
        (names(40, 60), True),
        (names(41, 60), False),
        ([*names(30, 59), "one\ntwo"], False),
        ([*names(30, 59), "long " * 13], False),
    ],
)
def test_only_short_outputs_that_come_again_are_said_to_be_classes_it_may_be(
    outputs: list[Json], hinted: bool
) -> None:
    task, notes = settle_kind(TASK, rows(outputs))
    assert task.output.kind == "text"
    assert notes[0].endswith(HINT) == hinted


def test_the_page_has_the_numbers_of_the_rule() -> None:
    said = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"up to {LABEL_CHARS} characters" in said and f"{MAX_LABELS} labels at most" in said
    assert ROWS_PER_LABEL == 3 and "three rows a label or more on average" in said


@pytest.mark.parametrize(
    ("outputs", "share"),
    [(names(200, 600), "0.5%"), (names(100, 300), "1%"), ([*names(3, 30), "label 0"], "35%")],
)
def test_a_small_share_has_a_decimal(outputs: list[Json], share: str) -> None:
    made = rows(outputs)
    _, notes = infer(settle_kind(TASK, made)[0], made)
    assert notes[0].endswith(f"the most frequent 'label 0' in {share} of the rows")


@pytest.mark.parametrize("odd", [{"label": "billing"}, ["billing"]])
def test_an_object_or_a_list_among_labels_is_no_label_and_the_others_still_are(odd: Json) -> None:
    made = rows([*names(3, 60), odd, *names(3, 60)])
    task, notes = settle_kind(TASK, made)
    assert task.output.kind == "label"
    assert [row.where for row in made if not is_of_kind(task, row)] == ["rows.jsonl:61"]
    assert "120 of 121 outputs are of kind label, rows.jsonl:61" in notes[0]
