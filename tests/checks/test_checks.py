import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rung.checks import queries
from rung.checks.base import MOST_SAMPLED, Subject
from rung.checks.table import CHECKS
from rung.checks.table import check as check_subject
from rung.data import sketches
from rung.errors import TaskError
from rung.records import Example, Finding, Json, Splits
from rung.task import DataFiles, Output, Task
from rung.task.schemas import infer_schema

LABELS = Task(data=DataFiles(train=Path("train.jsonl")), output=Output(kind="label", labels=("a", "b")))
TEXT = Task(data=DataFiles(train=Path("train.jsonl")), output=Output(kind="text"))


def check(made: Splits, task: Task, accepted: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    return check_subject(Subject(task=task, splits=made), accepted, ("rows",)).findings


def json_task(schema: dict[str, Any]) -> Task:
    return Task(
        data=DataFiles(train=Path("train.jsonl")),
        output=Output.model_validate({"schema": schema, "kind": "json"}),
    )


def words(seed: str, count: int = 5) -> str:
    """A question that no other seed gives, nor nearly."""
    dice = random.Random(seed)
    return " ".join("".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count))


def part(name: str, outputs: list[Json]) -> tuple[Example, ...]:
    return tuple(
        Example(id=f"{name}{n}", input=words(f"{name} {n}"), output=output, where=f"{name}.jsonl:{n}")
        for n, output in enumerate(outputs, start=1)
    )


def splits(train: int = 200, test: int = 200, outputs: tuple[Json, ...] = ("a", "b")) -> Splits:
    def spread(count: int) -> list[Json]:
        return [outputs[n % len(outputs)] for n in range(count)]

    return Splits(
        train=part("train", spread(train)),
        dev=part("dev", spread(20)),
        test=part("test", spread(test)),
        test_given=True,
        digest="",
    )


def only(found: tuple[Finding, ...], name: str, severity: str) -> Finding:
    assert [(finding.check, finding.severity) for finding in found] == [(name, severity)]
    return found[0]


def test_good_rows_give_no_finding_and_the_table_is_whole() -> None:
    assert len(CHECKS) == len({one.name for one in CHECKS}) == 41
    assert check(splits(), LABELS) == ()


@pytest.mark.parametrize(("count", "severity"), [(9, "block"), (10, "warn"), (49, "warn"), (199, "info")])
def test_few_training_rows_block_or_warn(count: int, severity: str) -> None:
    assert str(count) in only(check(splits(train=count), LABELS), "train_rows", severity).message


@pytest.mark.parametrize("count", [200, 500])
def test_enough_training_rows_are_silent(count: int) -> None:
    assert check(splits(train=count), LABELS) == ()


def test_few_test_rows_mean_no_verdict_and_a_middling_number_says_what_it_can_see() -> None:
    assert "no verdict" in only(check(splits(test=49), LABELS), "test_rows", "warn").message
    assert (
        "a gain under about 13 points" in only(check(splits(test=100), LABELS), "test_rows", "info").message
    )
    assert round(280 * math.sqrt(0.2 / 100)) == 13


@pytest.mark.parametrize(
    ("groups", "least"),
    [(1, "in 1 group or question, "), (2, "no p is under .250"), (5, "no p is under .031"), (6, "")],
)
def test_dev_or_test_rows_of_fewer_than_six_groups_warn(groups: int, least: str) -> None:
    base = splits()
    few = tuple(replace(row, group=f"g{n % groups}") for n, row in enumerate(base.test))
    found = check(replace(base, test=few), LABELS)
    if least:
        assert least in only(found, "few_groups", "warn").message
    assert bool(found) == bool(least)
    beside = tuple(replace(row, group="g") if n < 10 else row for n, row in enumerate(base.dev))
    assert check(replace(base, dev=beside), LABELS) == (), "a row without a group is one of its own"
    asked = tuple(replace(row, input=f"Question {n % groups}") for n, row in enumerate(base.test))
    said = [one for one in check(replace(base, test=asked), LABELS) if one.check == "few_groups"]
    assert all(least in one.message for one in said) and bool(said) == bool(least)
    dev = tuple(replace(row, group="g") for row in base.dev)
    assert "20 rows of dev" in only(check(replace(base, dev=dev), LABELS), "few_groups", "warn").message


def test_a_single_class_in_train_blocks() -> None:
    made = replace(splits(), train=part("train", ["a"] * 200))
    assert {finding.check: finding.severity for finding in check(made, LABELS)} == {
        "one_class": "block",
        "unseen_labels": "warn",
    }


def test_the_same_input_with_different_outputs_warns_with_the_ceiling() -> None:
    base = splits(train=80, test=100)
    same = tuple(replace(example, input="The Same ") for example in base.train[:5])
    found = check(replace(base, train=same + base.train[5:]), LABELS)
    finding = next(finding for finding in found if finding.check == "conflicts")
    assert finding.severity == "warn"
    assert "5 rows (2.5%), such as train.jsonl:1 'a' and train.jsonl:2 'b'" in finding.message
    assert "more than 99.00% of all rows exactly" in finding.message
    assert finding.rows == tuple(f"train.jsonl:{n}" for n in range(1, 6))


def test_several_texts_for_one_input_are_worth_knowing_only() -> None:
    base = splits(outputs=("one", "two"))
    made = replace(base, train=tuple(replace(example, input="same") for example in base.train))
    assert [(f.check, f.severity) for f in check(made, TEXT)] == [("repeats", "warn"), ("conflicts", "info")]


def test_repeats_with_the_same_output_are_no_conflict() -> None:
    base = splits()
    made = replace(base, train=tuple(replace(row, input=f"same {row.output}") for row in base.train))
    found = only(check(made, LABELS), "repeats", "warn")
    assert "198 rows (47.1%), such as train.jsonl:3" in found.message
    assert (found.count, len(found.rows)) == (198, 20)


def test_pairs_with_another_rejected_answer_are_no_repeats() -> None:
    base = splits(outputs=("one", "two"))
    train = tuple(
        replace(row, input=f"same {row.output}", rejected=f"{place}") for place, row in enumerate(base.train)
    )
    assert "repeats" not in {found.check for found in check(replace(base, train=train), TEXT)}
    again = tuple(replace(row, rejected="no") for row in train)
    assert "repeats" in {found.check for found in check(replace(base, train=again), TEXT)}


def test_rows_removed_for_the_test_are_counted() -> None:
    made = replace(splits(), removed=part("train", ["a", "b"]))
    finding = only(check(made, LABELS), "leaks", "warn")
    assert "train.jsonl holds too: 2 rows, such as train.jsonl:1" in finding.message
    assert finding.rows == ("train.jsonl:1", "train.jsonl:2")


def test_a_group_on_both_sides_of_a_given_test_blocks_until_it_is_accepted() -> None:
    base = splits()
    made = replace(
        base,
        train=(replace(base.train[0], group="g"), *base.train[1:]),
        test=(replace(base.test[0], group="g"), *base.test[1:]),
    )
    assert "train.jsonl:1 (group 'g')" in only(check(made, LABELS), "shared_groups", "block").message
    assert only(check(made, LABELS, ("shared_groups",)), "shared_groups", "warn").accepted
    with pytest.raises(TaskError, match="'shared': no check has that name; they are broken_rows, "):
        check(made, LABELS, ("shared",))


def test_a_test_label_that_train_lacks_warns() -> None:
    base = splits()
    made = replace(base, test=(*base.test[:-1], replace(base.test[-1], output="c")))
    assert (
        '"c" in 1 row, such as test.jsonl:200' in only(check(made, LABELS), "unseen_labels", "warn").message
    )


@pytest.mark.parametrize(("rare", "warned"), [(20, False), (19, True)])
def test_an_output_in_more_than_nine_tenths_of_the_rows_warns(rare: int, warned: bool) -> None:
    made = replace(splits(), train=part("train", ["b"] * rare + ["a"] * (200 - rare)))
    assert [finding.check for finding in check(made, LABELS)] == (["majority"] if warned else [])


def test_an_output_of_another_kind_blocks_with_its_place() -> None:
    base = splits(outputs=({"a": 1}, {"a": 2}))
    made = replace(base, dev=(*base.dev, *part("more", ["no json"])))
    finding = only(check(made, json_task({"type": "object"})), "targets", "block")
    assert "no json: 1 row, such as more.jsonl:1 'no json'" in finding.message


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def test_an_output_outside_the_declared_schema_blocks_with_its_place() -> None:
    base = splits(outputs=({"a": 1}, {"a": 2}))
    made = replace(base, test=(replace(base.test[0], output={"a": "x"}), *base.test[1:]))
    finding = only(check(made, json_task(SCHEMA)), "targets", "block")
    assert "test.jsonl:1: at $.a: 'x' is not of type 'integer'" in finding.message


@pytest.mark.parametrize(
    ("part", "output", "stopped"),
    [
        ({"a": {"type": "string", "format": "date-time"}}, {"a": "2024-05-12T10:00:00"}, "10:00:00' it"),
        ({"b": {}}, {"b": 1, "a": 2}, """'{"b":1' it can't go on with ',"a":2}'"""),
    ],
)
def test_outputs_that_the_grammar_of_their_schema_cannot_write_warn_with_their_place(
    part, output, stopped
) -> None:
    schema = {"type": "object", "properties": part}
    base = splits(outputs=({}, {next(iter(part)): "2024-05-12T10:00:00Z"}))
    assert not [one for one in check(base, json_task(schema)) if one.check == "targets"]
    made = replace(base, test=(replace(base.test[0], output=output), *base.test[1:]))
    message = only(check(made, json_task(schema)), "targets", "warn").message
    assert "no answer held to it can be: 1 row, such as test.jsonl:1" in message and stopped in message


def test_an_output_outside_an_inferred_schema_only_warns() -> None:
    base = splits(outputs=({"a": 1}, {"a": 2}))
    made = replace(base, test=(replace(base.test[0], output={"b": 1}), *base.test[1:]))
    task = json_task(infer_schema([row.output for row in base.train]))
    assert "inferred schema: 1 row" in only(check(made, task), "targets", "warn").message


@pytest.mark.parametrize(
    ("schema", "said"),
    [({"$ref": "#/$defs/no"}, "leads nowhere"), ({"$ref": "#"}, "leads back to itself")],
)
def test_a_schema_that_cannot_be_followed_is_the_task_files_fault(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        check(splits(outputs=({"a": 1}, {"a": 2})), json_task(schema))


@pytest.mark.parametrize("called", [False, True])
def test_a_call_may_ask_for_what_was_not_said_and_an_extraction_may_not(called: bool) -> None:
    made = splits(outputs=("a",))

    def read(row: Example, number: int) -> Example:
        said = {"city": row.input.split()[0], "unit": "celsius" if number % 5 == 0 else row.input.split()[1]}
        return replace(row, output={"calls": [{"name": "weather", "arguments": said}]} if called else said)

    parts = {side: tuple(map(read, getattr(made, side), range(999))) for side in ("train", "dev", "test")}
    found = check(replace(made, **parts), json_task(infer_schema([row.output for row in parts["train"]])))
    assert [finding.check for finding in found] == ([] if called else ["obtainable"])


def test_every_check_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    for one in CHECKS:
        (line,) = [line for line in lines if f"| `{one.name}` |" in line]
        assert str(one.number) in line.split("|")[1].replace(" ", "").split(",")
    assert len(lines) == len(CHECKS) + 1, "the table has no line more"
    assert f"runs those of {queries.MOST_ROWS:,} drawn" in page and f"{MOST_SAMPLED:,} rows" in page
    assert f"more than {sketches.MANY:,}" in page
    assert f"over {sketches.CROWD} others" in page and f"{sketches.LIKELIEST} likeliest" in page
