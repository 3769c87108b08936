"""Where the paths of a task file start."""

from pathlib import Path

import pytest

from rung.task import load_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "rows.jsonl").write_text("")
    return tmp_path / "task"


def write(folder: Path, text: str) -> Path:
    file = folder / "task.yaml"
    file.write_text(text)
    return file


def test_a_models_path_starts_from_the_task_file_where_it_leads_nowhere_from_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "base.gguf").write_text("")
    (folder / "made" / "winner").mkdir(parents=True)
    (folder / "smollm2-135m").mkdir()
    file = write(
        folder,
        "data: {train: rows.jsonl}\nmodels: [base.gguf, smollm2-135m, org/name, openai:a/b@http://localhost/v1]\n"
        "teacher: ./made/winner\nmetric: judge\njudge: {model: base.gguf}\noutput: {kind: text}\n",
    )
    monkeypatch.chdir(folder.parent)
    task = load_task(file)
    beside = str(folder / "base.gguf")
    assert task.models == (beside, "smollm2-135m", "org/name", "openai:a/b@http://localhost/v1")
    assert task.teacher == str(folder / "made" / "winner")
    assert task.judge is not None and task.judge.model == beside
    monkeypatch.chdir(folder)
    task = load_task(file)
    assert (task.models[0], task.teacher) == ("base.gguf", "./made/winner")


@pytest.mark.parametrize(
    ("stem", "name"), [("Fläche_m²", "Fläche_m"), ("½ price ①", "price"), ("²", "task"), ("v1.2-b", "v1.2-b")]
)
def test_a_file_of_any_name_gives_a_name_that_a_task_may_have(tmp_path: Path, stem: str, name: str) -> None:
    file = tmp_path / f"{stem}.jsonl"
    file.write_text("")
    assert load_task(file).name == name


def test_a_models_path_under_a_home_that_nobody_has_stays_as_it_is_written(folder: Path) -> None:
    (folder / "~nobody-here").mkdir()
    (folder / "~nobody-here" / "base.gguf").write_text("")
    task = load_task(write(folder, "data: {train: rows.jsonl}\nmodels: ~nobody-here/base.gguf\n"))
    assert task.models == (str(folder / "~nobody-here" / "base.gguf"),)
