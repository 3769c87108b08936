"""What a command says to write into task.yaml is right where that file is read."""

from pathlib import Path

import pytest

from rung.cli import synthesis
from rung.climb.synthesis import Made


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
