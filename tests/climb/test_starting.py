import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rung.checks.repair import repair
from rung.checks.rows import prepare
from rung.cli.main import run
from rung.climb.checking import CheckOptions
from rung.climb.starting import MOST_LABELS, start_task
from rung.errors import DataError, TaskError
from rung.task import DataFiles, Limits, Output, Task, load_task
from rung.task.written import task_schema, task_yaml

ODD_LABELS = (
    "yes",
    "no",
    "007",
    "true",
    "1.50",
    "a: b",
    "# c",
    "é\u2028",
    "'",
    '"',
    "ab\x7fc",
    "😀",
    "- x",
    "~",
)


def rows_file(path: Path, outputs: list[Any], name: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for n, output in enumerate(outputs):
            file.write(json.dumps({"input": f"{name} question {n} {'x' * (n % 7)}", "output": output}) + "\n")
    return path


OUTPUTS: dict[str, list[Any]] = {
    "label": ["spam", "ham", "ham"] * 20,
    "odd labels": [ODD_LABELS[n % len(ODD_LABELS)] for n in range(140)],
    "json": [{"z": n, "city": ["Riga", "Rome"][n % 2], "a": {"y": 1, "b": None}} for n in range(60)],
    "text": [f"The answer, in a sentence of its own, is {n}." for n in range(60)],
    "number": [n / 7 for n in range(60)],
}


def resolved(task: Task) -> dict[str, Any]:
    """What the task says, with its paths in one spelling: a task file's may lead up and down again."""
    data = task.data
    paths = {"train": data.train.resolve(), "test": data.test.resolve() if data.test else None}
    return task.model_copy(update={"data": data.model_copy(update=paths)}).model_dump()


def lines(task_file: Path) -> list[str]:
    return task_file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("sealed", [True, False])
def test_the_written_task_is_the_one_that_the_bare_file_makes(
    tmp_path: Path, outputs: list[Any], beside: bool, sealed: bool
) -> None:
    source = rows_file(tmp_path / "in" / "My mails.jsonl", outputs)
    test = rows_file(tmp_path / "sealed.jsonl", outputs, "test") if sealed else None
    started = start_task(source, test=test, out=None if beside else tmp_path / "out" / "deep")
    bare, written = prepare(source, CheckOptions(test=test)), prepare(started.folder, CheckOptions())
    assert resolved(written.task) == resolved(bare.task)
    assert json.dumps(written.task.output.json_schema) == json.dumps(bare.task.output.json_schema)
    assert written.splits == bare.splits
    assert written.broken == bare.broken


@pytest.mark.parametrize(
    "outputs",
    [[*["spam", "ham", "ham"] * 33, "Sorry, this was cut off in the middle of a sentence that is long. " * 3]]
    + [[*OUTPUTS["json"], "cut off"]],
)
def test_an_output_of_another_kind_is_a_broken_row_under_the_written_task_too(
    tmp_path: Path, outputs: list[Any]
) -> None:
    source = rows_file(tmp_path / "in" / "rows.jsonl", outputs)
    folder = start_task(source).folder
    bare, made = prepare(source, CheckOptions()), prepare(folder, CheckOptions())
    assert [row.unlike for row in made.broken] == [True] and made.broken == bare.broken
    assert not (folder / "answer.schema.json").exists()
    assert dict(repair(load_task(folder), "auto", tmp_path / "out").aside) == {"broken_rows": 1}


def test_the_format_that_is_named_is_written_down_and_read_by(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    told = ({"instruction": "Sort it.", "input": f"mail {n}", "output": "ab"[n % 2]} for n in range(60))
    source.write_text("".join(json.dumps(row) + "\n" for row in told))
    folder = start_task(source, out=tmp_path / "io", format="io").folder
    assert load_task(folder).data.format == "io"
    written, bare = prepare(folder, CheckOptions()), prepare(source, CheckOptions(format="io"))
    assert written.splits == bare.splits and written.splits.train[0].input.startswith("mail ")
    folder = start_task(source, out=tmp_path / "auto").folder
    assert "  #format: auto" in lines(folder / "task.yaml")
    assert prepare(folder, CheckOptions()).splits.train[0].input.startswith("Sort it.")
    with pytest.raises(DataError, match="unknown data format 'csv'"):
        start_task(source, out=tmp_path / "csv", format="csv")
    assert not (tmp_path / "csv").exists()


def test_every_key_stands_in_the_file_under_its_explanation(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "rows.jsonl", OUTPUTS["label"])
    text = lines(start_task(source).folder / "task.yaml")
    for part, indent in ((Task, ""), (DataFiles, "  "), (Output, "  "), (Limits, "  ")):
        for name, field in part.model_fields.items():
            above = text.index(f"{indent}# {field.description}")
            assert re.match(rf"{indent}#?{field.alias or name}:", text[above + 1])


def test_taking_every_sign_away_from_a_default_changes_nothing(tmp_path: Path) -> None:
    folder = start_task(rows_file(tmp_path / "rows.jsonl", OUTPUTS["json"])).folder
    before = load_task(folder)
    text = (folder / "task.yaml").read_text(encoding="utf-8")
    changed, count = re.subn(r"(?m)^( *)#(\w)", r"\1\2", text)
    assert count >= 10
    (folder / "task.yaml").write_text(changed, encoding="utf-8")
    assert load_task(folder) == before
    keys = yaml.safe_load(changed)
    assert set(keys) == set(Task.model_fields)


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_an_editor_finds_the_keys_and_no_fault(tmp_path: Path, outputs: list[Any]) -> None:
    folder = start_task(rows_file(tmp_path / "rows.jsonl", outputs)).folder
    assert lines(folder / "task.yaml")[0] == "# yaml-language-server: $schema=task.schema.json"
    schema = json.loads((folder / "task.schema.json").read_text(encoding="utf-8"))
    assert schema == task_schema()
    Draft202012Validator.check_schema(schema)
    written = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    assert list(Draft202012Validator(schema).iter_errors(written)) == []
    assert [e.message for e in Draft202012Validator(schema).iter_errors({**written, "metirc": "x"})] == [
        "Additional properties are not allowed ('metirc' was unexpected)"
    ]


@pytest.mark.parametrize("given", [True, False])
def test_a_label_of_one_row_is_listed_even_if_the_test_has_that_row_too(tmp_path: Path, given: bool) -> None:
    outputs = [*["a", "b"] * 30, "once"]
    source = rows_file(tmp_path / "rows.jsonl", outputs)
    test = tmp_path / "test.jsonl"
    test.write_text(source.read_text().splitlines()[-1])
    folder = start_task(source, test=test if given else None).folder
    assert load_task(folder).output.labels == ("a", "b", "once")
    assert prepare(folder, CheckOptions()).task.output.labels == ("a", "b", "once")


@pytest.mark.parametrize(("count", "listed"), [(MOST_LABELS, True), (MOST_LABELS + 1, False)])
def test_labels_are_listed_up_to_a_number_that_can_be_read(tmp_path: Path, count: int, listed: bool) -> None:
    source = rows_file(tmp_path / "rows.jsonl", [f"label {n}" for n in range(count)] * 4)
    task = load_task(start_task(source).folder)
    assert task.output.kind == "label"
    assert (task.output.labels is not None) == listed


@pytest.mark.parametrize("there", ["task.yaml", "task.yml", "task.schema.json", "answer.schema.json"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    source = rows_file(tmp_path / "rows.jsonl", OUTPUTS["json"])
    (tmp_path / there).write_text("mine")
    with pytest.raises(TaskError, match=rf"{there} is there already; delete it, or .* --out"):
        start_task(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["rows.jsonl", there])
    assert (tmp_path / there).read_text() == "mine"


def test_what_is_no_file_of_rows_is_refused_and_nothing_written(tmp_path: Path) -> None:
    few = rows_file(tmp_path / "few.jsonl", ["a", "b"])
    for source, error, said in (
        (tmp_path, TaskError, "is no file of rows"),
        (tmp_path / "task.yaml", TaskError, "is no file of rows"),
        (tmp_path / "no.jsonl", TaskError, "no such file"),
        (few, DataError, "2 rows; a climb needs at least 20"),
    ):
        with pytest.raises(error, match=said):
            start_task(source, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["few.jsonl"]


def test_the_command_says_what_it_wrote_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows_file(tmp_path / "mails.jsonl", OUTPUTS["json"])
    assert run(["init", "mails.jsonl", "--out", "mails"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "output.schema = inferred from 48 rows (z, city, a)" in said
    assert said[-2:] == [
        "written: mails/task.schema.json, mails/answer.schema.json, mails/task.yaml",
        "next: rung check mails",
    ]
    assert 'train: "../mails.jsonl"' in (tmp_path / "mails" / "task.yaml").read_text()
    assert run(["init", "mails.jsonl", "--out", "mails"]) == 2
    assert "is there already" in capsys.readouterr().err


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=5, unique=True), st.text())
def test_any_text_is_written_so_that_it_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], about: str
) -> None:
    folder = tmp_path_factory.mktemp("task")
    (folder / "rows.jsonl").write_text("")
    given = {"about": about, "data": {"train": "rows.jsonl"}, "output": {"labels": labels}}
    (folder / "task.yaml").write_text(task_yaml(given, ()), encoding="utf-8", newline="")
    read = load_task(folder)
    assert (read.about, read.output.labels) == (about, tuple(labels))
