"""Exports beside the System that they come from: size, score, and how many answers are the same.

One short tune of each model on one task, in a climb of that rung alone; then every export answers the same
dev rows as the tune, through the engine that would run it. Nothing is held back by the gate here.
"""

import tempfile
from pathlib import Path

from common import options, print_machine, table, use_all_cores

HELPDESK = Path(__file__).parents[1] / "examples" / "helpdesk"
EXPORTS = (
    ("peft", None),
    ("merged", None),
    ("gguf", "adapter"),
    ("gguf", "f16"),
    ("gguf", "q8_0"),
    ("gguf", "q4_1"),
)
HEAD = ("model", "export", "MB", "score (95 %)", "difference (95 %)", "same answers (95 %)", "gate")


def main() -> None:
    parser = options(__doc__, folder=False, runs=False)
    parser.add_argument("--task", type=Path, default=HELPDESK, help="a task folder or a file of rows")
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma-3-270m"])
    parser.add_argument("--minutes", type=float, default=6.0, help="for each tune")
    parser.add_argument("--rows", type=int, default=200, help="the most dev rows to answer")
    parser.add_argument("--types", nargs="*", default=[], help="more types of GGUF, such as q4_0 or q4_k_m")
    chosen = parser.parse_args()
    use_all_cores()
    print_machine()
    exports = [*EXPORTS, *(("gguf", kind) for kind in chosen.types)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for model in chosen.models
            for row in measured(
                tuned(chosen.task, model, chosen.minutes, Path(folder)), model, exports, chosen.rows
            )
        ]
    table(HEAD, rows)


def tuned(task: Path, model: str, minutes: float, folder: Path) -> Path:
    """The System of a climb of the tune alone."""
    from rung.climb.climb import Options, climb
    from rung.report.text import Screen

    run = folder / model.replace("/", "-")
    with Screen() as screen:
        climb(task, Options(out=run, models=(model,), rungs=("sft",), budget_s=60 * minutes), screen)
    return run / "rungs" / "sft" / "system"


def measured(
    system: Path, model: str, exports: list[tuple[str, str | None]], most: int
) -> list[tuple[str, ...]]:
    """A row of the table for the System itself and for each of its exports."""
    from rung.report.text import Screen
    from rung.scoring.notation import gain_text, interval_text, percent_text, score_text
    from rung.ship.export import ExportOptions, export

    rows: list[tuple[str, ...]] = []
    for target, kind in exports:
        with tempfile.TemporaryDirectory() as place, Screen() as screen:
            chosen = ExportOptions(target=target, type=kind, most=most, force=True)
            done = export(system, Path(place) / "out", chosen, screen)
        gate, metric = done.gate, done.gate.metric
        if not rows:
            size = sum(path.stat().st_size for path in system.rglob("*") if path.is_file())
            scored = (
                f"{score_text(gate.before.score, metric)} ({interval_text(gate.before.interval, metric)})"
            )
            rows.append(
                (model, f"the System, {gate.engine_before}", f"{size / 1e6:,.0f}", scored, "", "", "")
            )
        low, high = (gain_text(end, metric) for end in (gate.gain_interval.low, gate.gain_interval.high))
        shares = f"{percent_text(gate.agreement.low)} to {percent_text(gate.agreement.high)}"
        rows.append(
            (
                model,
                f"{target} {done.type}, {gate.engine_after}",
                f"{done.size_bytes / 1e6:,.0f}",
                f"{score_text(gate.after.score, metric)} ({interval_text(gate.after.interval, metric)})",
                f"{gain_text(gate.gain, metric)} ({low} to {high})",
                f"{gate.same} of {gate.compared} ({shares})",
                "passed" if gate.passed else "not passed",
            )
        )
    return rows


if __name__ == "__main__":
    main()
