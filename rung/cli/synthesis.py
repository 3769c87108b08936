"""The command `synth`."""

from pathlib import Path


def synth(
    task: Path,
    /,
    *,
    out: Path,
    rows: int = 200,
    teacher: str | None = None,
    test: Path | None = None,
    api_usd: float | None = None,
) -> None:
    """Have a teacher make up inputs like a task's own, for it to answer as `data.unlabelled` in a climb.

    Example: rung synth tickets/task.yaml --out unlabelled.jsonl --rows 200

    None of them is like a row of the task. They are marked as made, and are never dev or test rows.

    Parameters
    ----------
    task
        A task.yaml, a folder that holds one, or a file of rows (.jsonl, .json, .csv, .tsv, .parquet).
    out
        File to write; a file beside it keeps each round, so that the same command goes on.
    rows
        How many inputs to make.
    teacher
        Model to ask instead of the task's teacher: openai:NAME, anthropic:NAME, or a local one.
    test
        Rows for the verdict that no new input may be like; by default the task's.
    api_usd
        The most that a hosted teacher may be paid, in US dollars; by default the task's limits.api_usd, 1.
    """
    from rung.climb.synthesis import SynthOptions, synthesise
    from rung.report.notation import usd_text
    from rung.report.text import Screen

    options = SynthOptions(out=out, rows=rows, teacher=teacher, test=test, api_usd=api_usd)
    with Screen() as screen:
        made = synthesise(task, options, screen)
    paid = f", for {usd_text(made.paid_usd)}" if made.paid_usd else ""
    print(
        f"{out}: {made.rows:,} new inputs of {made.written:,} that were written in {made.rounds:,} rounds "
        f"({made.unreadable:,} of them no list of texts){paid}"
    )
    print(f"next: write `unlabelled: {_from_task(task, out)}` under `data` in task.yaml, and climb")


def _from_task(task: Path, out: Path) -> Path:
    """The path as a task file names it: from that file's folder where it lies there, else the whole."""
    folder = (task if task.is_dir() else task.parent).absolute()
    whole = out.absolute()
    return whole.relative_to(folder) if whole.is_relative_to(folder) else whole
