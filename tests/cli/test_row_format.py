"""The option `--format`: one and the same wherever a command reads a file of rows."""

import json
import re
from typing import get_args

import pytest

from rung.cli.main import run
from rung.task import load_task
from rung.task.model import DataFormat

READS_ROWS = ("climb", "check", "init", "compare", "export")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)


def test_every_command_that_reads_rows_says_the_same_of_their_format(capsys):
    said = set()
    for command in READS_ROWS:
        assert run([command, "--help"]) == 0
        (line,) = re.findall(r"--format\s+(.*)", capsys.readouterr().out)
        said.add(" ".join(line.split()))
    assert len(said) == 1
    words = set(re.findall(r"\w+", said.pop()))
    assert words >= set(get_args(DataFormat)) and "auto" in words


def test_init_takes_it_and_writes_it_down(tmp_path):
    told = [{"instruction": "Sort it.", "input": f"mail {n}", "output": "ab"[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    assert run(["init", "rows.jsonl", "--out", "task", "--format", "io"]) == 0
    assert load_task(tmp_path / "task").data.format == "io"


@pytest.mark.parametrize(
    "command",
    [
        ["init", "rows.jsonl", "--out", "task"],
        ["check", "rows.jsonl"],
        ["climb", "rows.jsonl"],
    ],
)
def test_another_word_is_refused_with_those_that_there_are(command, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "output": "b"}\n' * 30)
    assert run([*command, "--format", "csv"]) == 2
    assert "unknown data format 'csv'; choose auto, preference" in capsys.readouterr().err
