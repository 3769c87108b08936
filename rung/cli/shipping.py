"""The command `export`: a System as other programs run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from rung.cli.switch import Switch
from rung.cli.written import RowFormat

if TYPE_CHECKING:
    from rung.ship.export import Exported

MEGABYTE = 10**6


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportChoices:
    """What `export` may be told.

    Parameters
    ----------
    type
        Type of the weights. gguf, ollama: q8_0 (usual), f16, bf16, f32, q5_1, q5_0, q4_1, q4_0, or one such
        as q4_k_m by llama.cpp's own llama-quantize. merged, hub-folder, vllm: bf16 (usual) or f32. gguf,
        hub-folder, vllm: adapter, which merges nothing.
    rows
        Labelled rows to compare on, instead of the dev rows of the run that SYSTEM lies in.
    most
        The most rows to compare on.
    force
        Export also what doesn't answer as SYSTEM does; its README then says so.
    """

    type: str | None = None
    rows: Path | None = None
    format: RowFormat = "auto"
    most: int = 200
    force: Switch = False


def export(
    system: str,
    /,
    *,
    to: Literal["peft", "merged", "gguf", "ollama", "vllm", "hub-folder"],
    out: Path,
    choices: ExportChoices | None = None,
) -> None:
    """Write a System as other programs run it, and prove that it answers as before.

    Example: rung export runs/demo/rungs/sft/system --to gguf --out helpdesk-gguf

    The export is loaded again and asked the same rows as the System. Where it doesn't give the same answers,
    nothing is written.

    Parameters
    ----------
    system
        A System's folder, such as the `winner` of a run, or a tag.
    to
        peft: the adapter. merged: a transformers folder. gguf: one file for llama.cpp. ollama: that with a
        Modelfile. vllm: a folder with the command that serves it. hub-folder: a folder with a model card.
    out
        The new folder.
    """
    from rung.report.text import Screen
    from rung.ship.export import ExportOptions
    from rung.ship.export import export as run_export

    choices = choices or ExportChoices()
    options = ExportOptions(
        target=to,
        type=choices.type,
        rows=choices.rows,
        format=choices.format,
        most=choices.most,
        force=choices.force,
    )
    with Screen() as screen:
        done = run_export(system, out, options, screen)
    print("\n".join(exported_lines(done)))


def exported_lines(done: "Exported") -> list[str]:
    """How large it is, what it scores beside the System, and how far the answers are the same."""
    from rung.report.notation import metric_text
    from rung.scoring.notation import gain_text, gains_text, interval_text, percents_text, score_text

    gate = done.gate
    metric = gate.metric
    what = "next tokens" if gate.tokens else "answers"
    lines = [
        f"{done.folder}: {done.target}, {done.type}, {done.size_bytes / MEGABYTE:,.1f} MB",
        f"{metric_text(metric)} on {gate.rows:,} rows ({gate.told})",
        f"  before      {score_text(gate.before.score, metric)} "
        f"({interval_text(gate.before.interval, metric)}), {gate.engine_before}",
        f"  after       {score_text(gate.after.score, metric)} "
        f"({interval_text(gate.after.interval, metric)}), {gate.engine_after}",
        f"  difference  {gain_text(gate.gain, metric)} ({gains_text(gate.gain_interval, metric)})",
        f"  the same    {gate.same:,} of {gate.compared:,} {what} ({percents_text(gate.agreement)})",
    ]
    lines += [f"  but         {note}" for note in gate.notes]
    verdict = "passed" if gate.passed else f"not passed, exported all the same: {'; '.join(gate.faults)}"
    return [*lines, f"parity gate {verdict}"]
