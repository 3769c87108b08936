"""What the data checks found, in the terminal and as one self-contained HTML file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rung.checks.data_report import DataReport, ShownRow
from rung.records import Finding
from rung.report.html import by_gravity, environment
from rung.report.notation import clean, count_text, places_text, short
from rung.runs import write_text
from rung.scoring.notation import duration_text

SHOWN_PLACES = 6
SHOWN_DETAILS = 5
_SAID = {"block": ("blocks", "bold red"), "warn": ("warning", "yellow"), "info": ("note", "dim")}


def show_data(report: DataReport, console: Console, folder: Path) -> None:
    """Print the findings, the gravest first, and where the rest is."""
    width = min(console.width, 120)
    title = Text(clean(report.task), style="bold")
    rows = ", ".join(f"{count:,} {name}" for name, count in report.parts)
    console.print()
    console.print(title.append(f"  {rows}", style="not bold dim"), width=width)
    console.print()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for finding in by_gravity(report.findings):
        said, style = _SAID[finding.severity]
        table.add_row(Text(said, style=style), _finding(finding))
    if report.findings:
        console.print(table, width=width)
        console.print()
    console.print(Text(sentence(report), style="bold"), width=width)
    notes = Table.grid(padding=(0, 2))
    notes.add_column(style="dim", no_wrap=True)
    notes.add_column(ratio=1, overflow="fold")
    for run in report.checks:
        if run.left_out:
            notes.add_row("Left out", Text(f"{run.name}: {clean(run.left_out)}"))
    if sampled := [run for run in report.checks if run.looked_at]:
        names = ", ".join(run.name for run in sampled)
        total = sum(count for _, count in report.parts)
        notes.add_row(
            "Sampled",
            Text(f"{names}: looked at {sampled[0].looked_at:,} of {total:,} rows, drawn at random"),
        )
    for number, line in enumerate(report.inferred):
        notes.add_row("Inferred" if number == 0 else "", Text(clean(line)))
    notes.add_row("Took", duration_text(report.seconds))
    notes.add_row("Report", Text(clean(f"{folder / 'data_report.html'} and data_report.json")))
    console.print(notes, width=width)


def show_rows(rows: Sequence[ShownRow], console: Console) -> None:
    """Print rows token by token, in turn on two shades; what is supervised is green and in ⟦ ⟧."""
    for row in rows:
        text = Text.assemble((clean(row.where), "bold"), (f"  learned as {row.form}, ", "dim"))
        counts = f"{len(row.prompt):,} + {len(row.answer):,} tokens"
        text.append(f"{counts}\n", style="dim")
        for number, token in enumerate(row.prompt):
            text.append(_visible(token), style="on grey15" if number % 2 else "on grey27")
        text.append("⟦", style="bold green")
        for number, token in enumerate(row.answer):
            text.append(_visible(token), style="green on grey15" if number % 2 else "green on grey27")
        text.append("⟧", style="bold green")
        console.print(text, soft_wrap=True)
        console.print()


def _visible(token: str) -> str:
    """A token's text on one line."""
    return clean(token.replace("\n", "↵").replace("\t", "⇥")) or "␣"


def _finding(finding: Finding) -> Text:
    text = Text.assemble((finding.check, "bold"), "  ", clean(finding.message))
    if finding.rows:
        text.append(f"\n{places_text(finding.rows[:SHOWN_PLACES], finding.count)}", style="dim")
    for line in finding.details[:SHOWN_DETAILS]:
        text.append(f"\n· {short(line, 110)}", style="dim")
    if len(finding.details) > SHOWN_DETAILS:
        text.append(f"\n· {len(finding.details) - SHOWN_DETAILS:,} more in the report", style="dim")
    return text


def sentence(report: DataReport) -> str:
    """The outcome in words."""
    counts = Counter(finding.severity for finding in report.findings)
    looked = count_text(sum(run.left_out is None for run in report.checks), "check")
    if counts["block"]:
        faults = "fault blocks" if counts["block"] == 1 else "faults block"
        return f"{counts['block']} {faults} a climb; {count_text(counts['warn'], 'warning')} in {looked}."
    if counts["warn"]:
        return f"Nothing blocks a climb; {count_text(counts['warn'], 'warning')} in {looked}."
    return f"Nothing to mend in {looked}."


def write_data_page(report: DataReport, path: Path) -> None:
    """Write the page: no script, no network, the same bytes for the same report."""
    page = environment().get_template("data.html.jinja")
    view = {
        "report": report,
        "sentence": sentence(report),
        "findings": by_gravity(report.findings),
        "checks": report.checks,
    }
    write_text(path, page.render(**view))
