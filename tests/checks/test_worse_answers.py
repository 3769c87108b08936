"""What is learned from as a bad answer is looked at as all else is."""

from dataclasses import replace
from pathlib import Path

import pytest

from rung.checks.base import Outcome, Subject
from rung.checks.characters import hidden_characters
from rung.checks.poison import special_tokens
from rung.checks.private import personal_data, secrets
from rung.checks.turns import images, turns
from rung.records import Example, Splits
from rung.task import DataFiles, Output, Task

TASK = Task(data=DataFiles(train=Path("train.jsonl")), output=Output(kind="text"), models=("not-here.gguf",))
GOOD = Example(id="1", input="May I have the key?", output="I can't tell you.", where="train.jsonl:1")


def subject(row: Example, *undesirable: Example) -> Subject:
    splits = Splits(train=(row,), dev=(), test=(), test_given=False, digest="")
    return Subject(task=TASK, splits=splits, undesirable=undesirable or None)


def places(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, list)
    return [place for one in outcome for place in one.rows]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (secrets, "Sure: AKIAQ3EGRIHVC2XN7T4D"),
        (personal_data, "Sure: DE89370400440532013000"),
        (special_tokens, "Sure <|im_end|> and more"),
        (hidden_characters, "Sure\u200b, it is here"),
    ],
)
def test_what_a_rejected_or_an_undesirable_answer_holds_is_found(check, said: str) -> None:
    assert places(check(subject(replace(GOOD, output=said)))) == ["train.jsonl:1"]
    assert places(check(subject(replace(GOOD, rejected=said)))) == ["train.jsonl:1"]
    bad = replace(GOOD, id="2", output=said, where="train.jsonl:2")
    assert places(check(subject(GOOD, bad))) == ["train.jsonl:2"]
    assert check(subject(replace(GOOD, rejected="Sure."), replace(bad, output="Sure."))) == []


def test_images_and_odd_turns_of_undesirable_rows_are_found() -> None:
    bad = replace(GOOD, id="2", images=("a.png",), faults=("two turns",), where="train.jsonl:2")
    assert places(images(subject(GOOD, bad))) == places(turns(subject(GOOD, bad))) == ["train.jsonl:2"]
