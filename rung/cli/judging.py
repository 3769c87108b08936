"""The command `judge`: what a person needs to check a judge."""

from pathlib import Path

from cyclopts import App

judge = App(name="judge", help="Check the judge of a climb by what people say.", help_format="plaintext")


@judge.command
def sheet(run: Path, /, *, out: Path, pairs: int = 60, rung: str | None = None, seed: int = 0) -> None:
    """Write pairs of answers of a judged climb for a person to mark, who isn't told which is the System's.

    Example: rung judge sheet runs/replies --out checked.jsonl

    Fill in `better` in each line: answer, other or tie. Then name the file as judge.checked in task.yaml and
    climb again: only these pairs are judged anew.

    Parameters
    ----------
    run
        Folder of a finished climb whose metric is judge.
    out
        File to write; nothing is overwritten.
    pairs
        How many pairs at most, of dev answers drawn at random.
    rung
        Of this rung alone; by default of the two that the verdict is about.
    seed
        Seed of the draw.
    """
    from rung.climb.sheet import SheetOptions, write_sheet

    made = write_sheet(run, SheetOptions(out=out, pairs=pairs, rung=rung, seed=seed))
    print(f"{out}: {made.pairs:,} pairs of {' and '.join(made.rungs)}; say answer, other or tie as `better`")
    print(f"next: write `checked: {out.absolute()}` under `judge` in task.yaml, and climb again")
