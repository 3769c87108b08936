"""The command `compare`: two Systems on the same rows, side by side."""

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from rung.cli.switch import Switch
from rung.cli.written import RowFormat

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rung.compare.compare import Change, Compared, Scored

SHOWN_ROWS = 10
SHOWN_PART = 300
"""Characters of an instruction or a schema, on screen."""
HEADINGS = {
    "up": "wrong in A, right or better in B",
    "down": "right or better in A, wrong in B",
    "other": "other answers, the same score",
}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompareChoices:
    """What `compare` may be told.

    Parameters
    ----------
    task
        Compare on the dev rows of this task: a task.yaml, a folder that holds one, or a file of rows, which
        is split as a climb would.
    rows
        Compare on all rows of this file.
    test
        Open the sealed test: its rows instead of the dev rows, or a file that holds some of them. The look
        is counted.
    metric
        How to score, instead of as the task or the climb does.
    rows_out
        Write every row that changed to this file, a line of JSON each.
    out
        Folder for the answers where neither comes from a run; by default runs/compare.
    json
        Print all figures as JSON, without the rows.
    """

    task: Path | None = None
    rows: Path | None = None
    format: RowFormat = "auto"
    test: Switch = False
    metric: str | None = None
    rows_out: Path | None = None
    out: Path | None = None
    json: Switch = False


def compare(first: str, second: str, /, *, choices: CompareChoices | None = None) -> None:
    """Ask two Systems the same rows: which is better, by how much, and which rows changed.

    Example: rung compare runs/demo:prompt runs/demo

    By default the rows are the dev rows of the climb that both come from. Answers that a run holds aren't
    asked again.

    Parameters
    ----------
    first
        A: a run's folder (its winner), RUN:RUNG, a System's folder, a tag, or a base model.
    second
        B: the same.
    """
    from rich.console import Console

    from rung.compare.asked import Wanted
    from rung.compare.compare import OUT, CompareOptions
    from rung.compare.compare import compare as run_compare
    from rung.report.text import Screen

    choices = choices or CompareChoices()
    wanted = Wanted(
        task=choices.task,
        rows=choices.rows,
        format=choices.format,
        test=choices.test,
        metric=choices.metric,
    )
    options = CompareOptions(wanted=wanted, out=choices.out or OUT, rows_out=choices.rows_out)
    with Screen() as screen:
        found = run_compare(first, second, options, screen)
    if choices.json:
        print(json_format.dumps(as_json(found), ensure_ascii=False, indent=2))
    else:
        show(found, Console(), choices.rows_out)


def as_json(found: "Compared") -> dict[str, Any]:
    """Every figure, and how many rows changed; the rows themselves are those of --rows-out."""
    from rung.compare.words import verdict

    ways = [change.way for change in found.changes]
    return {
        "verdict": verdict(found),
        "rows": found.rows,
        "rows_from": found.told,
        "metric": found.first.measurement.metric,
        "a": _side(found.first),
        "b": _side(found.second),
        **asdict(found.outcome),
        "found": found.found,
        "trust": None if found.trust is None else asdict(found.trust),
        "changed": {"up": ways.count("up"), "down": ways.count("down"), "other": ways.count("other")},
        "differences": [{"part": d.part, "a": d.first, "b": d.second} for d in found.differences],
        "test_openings": found.openings,
        "notes": list(found.notes),
    }


def _side(one: "Scored") -> dict[str, Any]:
    figures = asdict(one.measurement)
    for key in ("predictions", "system", "metric", "split"):
        del figures[key]
    return {
        "given": one.given,
        "system": one.system,
        "rung": one.rung,
        "licence": one.licence,
        **figures,
        "secondary": dict(one.measurement.secondary),
        "usd_per_1000": one.usd_per_1000,
    }


def show(found: "Compared", console: "Console", rows_out: Path | None = None) -> None:
    """The verdict, both side by side, what differs between them, and the first rows that changed."""
    from rich.text import Text

    from rung.compare.words import verdict
    from rung.report.notation import clean, opened_text

    width = min(console.width, 120)
    console.print()
    console.print(Text(clean(verdict(found)), style="bold"), width=width)
    console.print()
    console.print(_table([("", "A", "B"), *_figures(found)]), width=width)
    console.print()
    console.print(_table([("what differs", "", ""), *_parts(found)]), width=width)
    for note in _notes(found):
        console.print(Text(clean(note), style="yellow"), width=width)
    if found.openings is not None:
        console.print(Text(f"sealed test: {opened_text(found.openings)}", style="dim"), width=width)
        if rows_out is None:
            console.print(Text("its rows stay unseen; --rows-out writes those that changed", style="dim"))
    else:
        _show_changes(found.changes, console, width)
    if rows_out is not None:
        console.print(Text(f"{len(found.changes):,} changed rows: {rows_out}", style="dim"))


def _figures(found: "Compared") -> list[tuple[str, str, str]]:
    """(what, A's, B's): identity, score, times, memory, cost; then what the pair says."""
    from rung.report.notation import memory_text, metric_text, ms_text, p_text, usd_text
    from rung.scoring.notation import (
        NOTHING,
        gain_text,
        gains_text,
        interval_text,
        percent_text,
        score_text,
    )

    o, sides = found.outcome, (found.first, found.second)
    metric = found.first.measurement.metric
    a, b = (one.measurement for one in sides)

    def both(what: str, first: str, second: str) -> tuple[str, str, str]:
        return what, first, second

    lines = [
        both("given", *(one.given for one in sides)),
        both("system", *(f"{one.rung}, {one.system}" for one in sides)),
        both(metric_text(metric), *(score_text(m.score, metric) for m in (a, b))),
        both("95 %", *(interval_text(m.interval, metric) for m in (a, b))),
        both("answered", *(f"{m.n:,} of {m.n + m.failures:,}" for m in (a, b))),
        both("p50, p95 ms", *(f"{ms_text(m.p50_s)}, {ms_text(m.p95_s)}" for m in (a, b))),
        both("memory", *(memory_text(m.memory_mb) for m in (a, b))),
        both("$/1,000", *(usd_text(one.usd_per_1000) for one in sides)),
        both("tokens in, out", *(f"{m.prompt_tokens:,.0f}, {m.completion_tokens:,.1f}" for m in (a, b))),
        both("licence", *(one.licence or "–" for one in sides)),
    ]
    if o.n:
        smallest = (score_text(o.smallest_detectable_gain, metric), "that these rows can show")
        if not o.discordant:
            smallest = (NOTHING, "can't be told: on no row do they differ")
        lines += [
            both("gain of B", f"{gain_text(o.gain, metric)}", f"({gains_text(o.interval, metric)})"),
            both("one-sided p", f"A better: {p_text(o.p_first)}", f"B better: {p_text(o.p_second)}"),
            both("rows that differ", percent_text(o.discordant), f"of {o.n:,} answered by both"),
            both("smallest gain", *smallest),
        ]
    return lines


def _parts(found: "Compared") -> list[tuple[str, str, str]]:
    from rung.report.notation import short

    parts = [(d.part, short(d.first, SHOWN_PART), short(d.second, SHOWN_PART)) for d in found.differences]
    return parts or [("nothing", "", "")]


def _notes(found: "Compared") -> list[str]:
    broken = [
        f"{place}: {one.measurement.failures:,} calls broke; those rows are left out of the comparison"
        for place, one in (("A", found.first), ("B", found.second))
        if one.measurement.failures
    ]
    return [*found.notes, *broken]


def _table(lines: Sequence[tuple[str, str, str]]) -> "RenderableType":
    """Three columns; the first line is the heading."""
    from rich.table import Table
    from rich.text import Text

    from rung.report.notation import clean

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in lines[0]:
        table.add_column(heading, header_style="dim", overflow="fold")
    for line in lines[1:]:
        table.add_row(*(Text(clean(text)) for text in line))
    return table


def _show_changes(changes: "Sequence[Change]", console: "Console", width: int) -> None:
    """Up to ten rows, those that went up and those that went down in turn, each under its heading."""
    from rich.padding import Padding
    from rich.text import Text

    from rung.report.notation import clean, short, value_text

    shown = first_changes(changes, SHOWN_ROWS)
    for way, heading in HEADINGS.items():
        count = sum(change.way == way for change in changes)
        console.print(Text(f"\n{heading}: {count:,}", style="dim"))
        for change in (one for one in shown if one.way == way):
            told = f"{short(change.input, 2 * width)}\n"
            told += f"expected {short(value_text(change.expected), width)} · A {short(change.first, width)}"
            told += f" · B {short(change.second, width)}"
            console.print(Padding(Text(clean(told)), (0, 0, 0, 2), expand=False), width=width)


def first_changes(changes: "Sequence[Change]", most: int) -> "list[Change]":
    """The first rows that went up and down, half of each where both abound; others where room is left."""
    up, down, other = ([c for c in changes if c.way == way] for way in HEADINGS)
    fewer = min(len(up), len(down), most // 2)
    ups = min(len(up), most - min(len(down), max(fewer, most - len(up))))
    downs = min(len(down), most - ups)
    return [*up[:ups], *down[:downs], *other[: most - ups - downs]]
