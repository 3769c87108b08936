"""What a command says to do next is right where it is done: keys of task.yaml, and commands for a shell."""

import shlex
from pathlib import Path

import pytest

from rung.cli import synthesis
from rung.cli.main import run
from rung.climb.synthesis import Made
from tests.fixtures_climb import label_rows, write_rows


@pytest.mark.parametrize(
    ("task", "out", "written"),
    [
        ("tickets/task.yaml", "tickets/made.jsonl", "made.jsonl"),
        ("tickets", "tickets/more/made.jsonl", "more/made.jsonl"),
        ("task.yaml", "made.jsonl", "made.jsonl"),
        ("tickets/task.yaml", "made.jsonl", "{here}/made.jsonl"),
    ],
)
def test_inputs_are_named_by_a_path_from_the_task_files_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: str,
    out: str,
    written: str,
) -> None:
    (tmp_path / "tickets").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "rung.climb.synthesis.synthesise",
        lambda *_: Made(rows=1, written=1, rounds=1, unreadable=0, paid_usd=0.0),
    )
    synthesis.synth(Path(task), out=Path(out))
    said = capsys.readouterr().out
    assert f"write `unlabelled: {written.format(here=tmp_path)}` under `data`" in said


@pytest.mark.parametrize("folder", ["rows", "my rows", "it's $HOME"])
def test_the_command_after_init_names_the_folder_as_a_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path(folder) / "x.jsonl", label_rows(60))
    assert run(["init", f"{folder}/x.jsonl"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(said.removeprefix("next: ")) == ["rung", "check", folder]
