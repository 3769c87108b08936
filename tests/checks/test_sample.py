"""Many rows: costly checks look at a sample, and say so."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rung.checks import base
from rung.checks.base import Subject
from rung.checks.data_report import DataReport
from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.checks.table import CHECKS, check
from rung.climb.options import Options
from rung.records import Example, Splits
from rung.report.data import show_data
from rung.task import DataFiles, Output, Task

SAMPLED = (
    "semantic_leaks label_errors cut_answers supervised end_of_turn double_bos rare_triggers tokens".split()
)


def part(name: str, count: int) -> tuple[Example, ...]:
    dice = random.Random(name)
    return tuple(
        Example(
            id=f"{name}{number}",
            input=" ".join("".join(dice.choices("abcdefghij", k=6)) for _ in range(6)),
            output=("a", "b")[number % 2],
            where=f"{name}.jsonl:{number}",
        )
        for number in range(count)
    )


def subject(train: int = 600, dev: int = 100, test: int = 300) -> Subject:
    splits = Splits(
        train=part("train", train),
        dev=part("dev", dev),
        test=part("test", test),
        test_given=True,
        digest="",
    )
    task = Task(
        data=DataFiles(train=Path("train.jsonl")), output=Output(kind="label", labels=("a", "b")), seed=3
    )
    return Subject(task=task, splits=splits)


def same_for_all(rows) -> np.ndarray:
    """Every row has one vector: all are paraphrases of each other."""
    return np.ones((len(rows), 1), dtype=np.float32)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(base, "MOST_SAMPLED", 200)


def test_few_rows_are_looked_at_whole():
    whole = subject()
    assert whole.sample is whole
    assert {run.looked_at for run in check(whole).runs} == {None}


def test_a_sample_keeps_the_shares_of_the_parts_and_their_order(few):
    whole = subject()
    sample = whole.sample
    assert [len(rows) for rows in (sample.splits.train, sample.splits.dev, sample.splits.test)] == [
        120,
        20,
        60,
    ]
    places = [whole.splits.train.index(row) for row in sample.splits.train]
    assert places == sorted(set(places)) and places != list(range(120))
    assert subject().sample.rows == sample.rows
    other = replace(whole, task=whole.task.model_copy(update={"seed": 4}))
    assert other.sample.rows != sample.rows


def test_checks_that_look_at_a_sample_say_so_with_the_numbers(few):
    found = check(replace(subject(), embed=same_for_all))
    assert [run.name for run in found.runs if run.looked_at == 200] == SAMPLED
    assert {run.looked_at for run in found.runs if run.name not in SAMPLED} == {None}
    paraphrased = next(one for one in found.findings if one.check == "semantic_leaks")
    assert paraphrased.count == 60
    assert paraphrased.message.endswith("(looked at 200 of 1,000 rows, drawn at random)")
    assert [one.name for one in CHECKS if one.sampled] == SAMPLED


def test_the_terminal_names_what_was_sampled(few, capsys):
    from rich.console import Console

    whole = replace(subject(), embed=same_for_all)
    found = check(whole)
    report = DataReport(
        task="t",
        kind="label",
        parts=(("train", 600), ("dev", 100), ("test", 300)),
        digest="",
        inferred=(),
        findings=(),
        checks=found.runs,
        accepted=(),
        seconds=1.0,
        versions=(),
    )
    show_data(report, Console(width=200), Path("runs"))
    said = " ".join(capsys.readouterr().out.split())
    assert "Sampled" in said and "looked at 200 of 1,000 rows, drawn at random" in said
    assert "rare_triggers" in said.partition("Sampled")[2]


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.bars: list[str] = []
        self.states: list[tuple[int, str]] = []
        self.open = 0

    def say(self, text: str) -> None:
        """Nothing is said before the findings."""

    def begin(self, what: str, total: int | None, done: int = 0) -> int:
        self.bars.append(what)
        self.open += 1
        return len(self.bars)

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        self.states.append((handle, f"{done} {extra}".strip()))

    def end(self, handle: int) -> None:
        self.open -= 1


def test_bars_tell_how_far_reading_and_checking_are(tmp_path):
    rows = [f'{{"input": "{row.input}", "output": "{row.output}"}}\n' for row in part("rows", 2100)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    told = Told()
    prepared = prepare(tmp_path / "rows.jsonl", Options(), told)
    examined(prepared, (), ("rows",), reporter=told)
    assert told.bars == ["reading rows.jsonl", "near-duplicates", "splitting", "checks"]
    assert told.open == 0
    assert [state for handle, state in told.states if handle == 1] == ["1024", "2048"]
    assert [state for handle, state in told.states if handle == 2] == ["1024", "2048", "2100"]
    checking = [state for handle, state in told.states if handle == 4]
    assert checking[0] == "0 broken_rows"
    assert any(state.endswith("personal_data: 2,048 of 2,100 rows") for state in checking)
    assert [state.split()[0] for state in checking] == sorted(
        (state.split()[0] for state in checking), key=int
    )
