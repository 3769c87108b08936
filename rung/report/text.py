"""The terminal: the climb's table and verdict, and progress while it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rung.climb.names import BETWEEN, rung_of
from rung.guards import told
from rung.records import Climb
from rung.report import summary
from rung.report.notation import clean, count_text, metric_text, short
from rung.report.plain import in_plain_words
from rung.report.summary import Row
from rung.report.volume import hosted_notes
from rung.scoring.notation import duration_text

WIDE = 112
BLOCKS = (6, 3, 2, 1)
"""Columns of figures where one line has no room for them all: they divide the number of pairs."""
GAP = 2
INDENT = 13
COUNTERS = 28  # columns for how many of how many, time passed, time left, and the gaps
PLAIN_EVERY_S = 10.0
SHOWN_FINDINGS = 8

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""Figures with what belongs to each of them, as an interval to its score."""
Lines: TypeAlias = list[list[str]]
"""Figures of one rung, or headings, by lines and columns."""

_STYLES = {"shipped": "bold green", "failed": "red", "over limits": "yellow", "stopped": "yellow"}
_HEADINGS: Pairs = (
    ("dev", "95 %"),
    ("test", "95 %"),
    ("p50", "p95 ms"),
    ("$/1,000", "correct"),
    ("build", ""),
    ("memory", ""),
)


def show(climb: Climb, console: Console, run: Path | None = None) -> None:
    """Print the table of rungs, the verdict and what it rests on; `run` is the folder that holds the rest."""
    width = min(console.width, 120)
    console.print()
    console.print(_title(climb))
    console.print()
    for line in _table(summary.rows(climb), width):
        console.print(line)
    console.print()
    for said, style in ((climb.decision.sentence, "bold"), (in_plain_words(climb), "")):
        console.print(Padding(Text(clean(said), style=style), (0, 0, 1, 0), expand=False), width=width)
    console.print(_notes(climb, run), width=width)


def _title(climb: Climb) -> Text:
    title = Text(clean(climb.task), style="bold")
    return title.append(f"  scores are {metric_text(climb.metric)}", style="not bold dim")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How figures stand: the rungs' names with what is below them, lines of figures, and columns' widths."""

    names: dict[str, tuple[str, str]]
    indent: int
    heading: Lines
    figures: dict[str, Lines]
    widths: list[int]

    @property
    def width(self) -> int:
        """Columns that the longest line takes."""
        return self.indent + sum(self.widths) + GAP * (len(self.widths) - 1)


def _layout(rows: list[Row], width: int) -> _Layout:
    """One line of figures for each rung where the terminal is wide; else two, or more where they don't fit.

    The second line has the model of a climb on several; in one line it stands behind the rung's name.
    """
    ways = [_arranged(rows, partial(_in_blocks, size=size), parted=True) for size in BLOCKS]
    if width >= WIDE:
        ways = [_arranged(rows, _in_one_line, parted=False), *ways]
    return next((way for way in ways if way.width <= width), ways[-1])


def _arranged(rows: list[Row], arrange: Callable[[Pairs], Lines], *, parted: bool) -> _Layout:
    names = {row.rung: _name(row, parted=parted) for row in rows}
    heading = arrange(_HEADINGS)
    figures = {row.rung: arrange(_cells(row)) for row in rows if row.state not in ("skipped", "failed")}
    return _Layout(
        names=names,
        indent=max(INDENT, *(len(part) + GAP for name in names.values() for part in name)),
        heading=heading,
        figures=figures,
        widths=[
            max(cell_len(line[at]) for lines in (heading, *figures.values()) for line in lines)
            for at in range(len(heading[0]))
        ],
    )


def _table(rows: list[Row], width: int) -> list[Text | Padding | Table]:
    """The figures of each rung, and what it is below them."""
    layout = _layout(rows, width)
    indent = layout.indent
    shown: list[Text | Padding | Table] = [_line("", texts, layout, "dim") for texts in layout.heading]
    for row in rows:
        name, below = layout.names[row.rung]
        if row.rung not in layout.figures:
            shown.append(_unmeasured(f"{name}\n{below}".rstrip(), row, indent))
            continue
        first, *rest = layout.figures[row.rung]
        line = _line(name, first, layout)
        line.stylize(_STYLES.get(row.state, "bold"), 0, len(name))
        said = Text(" · ".join(part for part in (row.what, row.faults) if part), style="dim")
        if row.mark:
            said = Text.assemble((row.mark, _STYLES.get(row.state, "bold")), (" · ", "dim"), said)
        beside = (below, *[""] * len(rest))
        shown.append(line)
        shown += [_line(text, texts, layout, "dim") for text, texts in zip(beside, rest, strict=False)]
        shown.append(Padding(said, (0, 0, 0, indent), expand=False))
        if row.took:
            shown.append(Padding(Text(row.took, style="dim"), (0, 0, 0, indent), expand=False))
    return shown


LONGEST_NAME = 14
"""Of a model, beside the figures: a longer one is cut."""
KEPT_END = 8
"""Of a hosted one, that has its host and port at its end."""


def _name(row: Row, *, parted: bool) -> tuple[str, str]:
    """A rung's name with the mark of the one to ship, and what stands below it."""
    mark = "●" if row.state == "shipped" else " "
    if not (parted and row.model):
        return f"{mark} {row.rung}", ""
    # The whole name is in what a cut one stands for: the notes below, and the page.
    return f"{mark} {rung_of(row.rung)}", f"  @{_cut(row.model)}"


def _cut(model: str) -> str:
    """A model's name in short: of one behind a URL its beginning and its end, which its host is told by."""
    if BETWEEN not in model or len(model) <= LONGEST_NAME:
        return short(model, LONGEST_NAME)
    return f"{model[: LONGEST_NAME - KEPT_END - 1]}…{model[-KEPT_END:]}"


def _unmeasured(name: str, row: Row, indent: int) -> Table:
    line = Table.grid()
    line.add_column(width=indent)
    line.add_column()
    line.add_row(Text(name), Text(f"{row.mark}: {row.what}", style=_STYLES.get(row.state, "dim")))
    return line


def _cells(row: Row) -> Pairs:
    return (
        row.dev,
        row.test,
        (row.p50_ms, row.p95_ms),
        (row.usd, row.usd_correct),
        (row.build, ""),
        (row.memory, ""),
    )


def _in_one_line(pairs: Pairs) -> Lines:
    """Every figure in a column of its own; build and memory have only one."""
    return [[text for pair in pairs[:-2] for text in pair] + [pair[0] for pair in pairs[-2:]]]


def _in_blocks(pairs: Pairs, size: int) -> Lines:
    """So many columns, each pair one above the other; a line that has no heading is left out."""
    lines = []
    for start in range(0, len(pairs), size):
        block, headings = pairs[start : start + size], _HEADINGS[start : start + size]
        lines.append([first for first, _ in block])
        if any(second for _, second in headings):
            lines.append([second for _, second in block])
    return lines


def _line(name: str, texts: list[str], layout: _Layout, style: str = "") -> Text:
    """Figures right-aligned in their columns."""
    cells = (" " * (wide - cell_len(text)) + text for text, wide in zip(texts, layout.widths, strict=True))
    line = (f"{name:<{layout.indent}}" + (" " * GAP).join(cells)).rstrip()
    return Text(line, style=style)


def _notes(climb: Climb, run: Path | None) -> Table:
    """What the verdict rests on, what was inferred and found, and where things are."""
    notes = Table.grid(padding=(0, 2))
    notes.add_column(style="dim", no_wrap=True, max_width=26)
    notes.add_column(ratio=1, overflow="fold")
    for term, text in (*summary.facts(climb), *hosted_notes(climb)):
        notes.add_row(term, Text(text))
    for result in climb.results:
        _add(notes, f"Found by {result.rung}", result.found)
    for result in climb.results:
        if result.parity:
            notes.add_row(f"Parity of {result.rung}", Text(summary.parity_text(result.parity)))
    for result in climb.results:
        _add(notes, f"Guards on {result.rung}", told.lines(result, climb.metric))
    for curve in climb.curves:
        _add(notes, f"More rows for {curve.rung}", summary.curve_lines(curve, climb.metric))
    _add(notes, "Inferred", climb.inferred)
    grave = [f for f in climb.findings if f.severity != "info"]
    for number, finding in enumerate(grave[:SHOWN_FINDINGS]):
        notes.add_row("Data" if number == 0 else "", Text(clean(finding.message), style="yellow"))
    unshown = len(climb.findings) - len(grave[:SHOWN_FINDINGS])
    if unshown:
        notes.add_row("" if grave else "Data", Text(f"{count_text(unshown, 'more finding')} in the report"))
    notes.add_row("Took", Text(f"{duration_text(climb.seconds)} on {clean(climb.machine)}"))
    if peaks := summary.peaks_text(climb):
        notes.add_row("Peak memory", Text(peaks))
    if run is not None:
        notes.add_row("Report", Text(str(run / "report.html")))
        if climb.winner:
            notes.add_row("Winner", Text(f'rung ask {quote(str(run / climb.winner))} "your text here"'))
    return notes


def _add(notes: Table, term: str, lines: Sequence[str]) -> None:
    """Lines under one term."""
    for number, line in enumerate(lines):
        notes.add_row(term if number == 0 else "", Text(clean(line)))


@dataclass
class _Bar:
    what: str
    total: int | None
    started: float
    told: float
    begun: int
    done: int = 0


@dataclass
class Screen:
    """Progress while a climb runs: bars on a terminal, a plain line now and then elsewhere.

    A context manager: leaving it, by an error too, takes away whatever bars are left.
    """

    console: Console = field(default_factory=lambda: Console(stderr=True))
    every_s: float = PLAIN_EVERY_S
    _bars: dict[int, _Bar] = field(default_factory=dict)
    _progress: Progress | None = None
    _next: int = 0

    def say(self, text: str) -> None:
        """Print one line; it stays."""
        self.console.print(Text(clean(text)), soft_wrap=not self.console.is_terminal)

    def begin(self, what: str, total: int | None, done: int = 0) -> int:
        """Start a bar of `total` steps, None where their number isn't known; returns its handle.

        So many were `done` before: they tell nothing of the pace.
        """
        if self.console.is_terminal:
            if self._progress is None:
                self._progress = _progress(self.console)
                self._progress.start()
            shown = short(what, self.console.width // 3)
            return int(self._progress.add_task(shown, total=total, completed=done, extra=""))
        self._next += 1
        now = time.monotonic()
        self._bars[self._next] = _Bar(what=clean(what), total=total, started=now, told=now, begun=done)
        return self._next

    def advance(self, handle: int, done: int, extra: str = "") -> None:
        """Set how many steps are done, with a few words on the state, such as `loss 0.61`."""
        if self._progress is not None:
            width = self.console.width
            extra = short(extra, max(8, width - width // 3 - width // 8 - COUNTERS))
            self._progress.update(TaskID(handle), completed=done, extra=extra)
            return
        bar, now = self._bars[handle], time.monotonic()
        bar.done = done
        if now - bar.told >= self.every_s:
            bar.told = now
            self.console.print(Text(_plain(bar, now - bar.started, clean(extra))), soft_wrap=True)

    def end(self, handle: int) -> None:
        """Take the bar away. A long stretch leaves one line in a log."""
        if self._progress is not None:
            self._progress.remove_task(TaskID(handle))
            if not self._progress.tasks:
                self.close()
            return
        bar = self._bars.pop(handle)
        took = time.monotonic() - bar.started
        if took >= self.every_s:
            self.console.print(Text(f"{bar.what}: done in {duration_text(took)}"), soft_wrap=True)

    def close(self) -> None:
        """Take away all bars; safe to do twice."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._bars.clear()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=console.width // 8),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[extra]}", style="dim", markup=False),
        console=console,
        transient=True,
    )


def _plain(bar: _Bar, elapsed_s: float, extra: str) -> str:
    of = f"{bar.done:,} of {bar.total:,}" if bar.total else f"{bar.done:,}"
    parts = [f"{bar.what}: {of}", duration_text(elapsed_s)]
    if bar.total and bar.begun < bar.done < bar.total:
        pace = elapsed_s / (bar.done - bar.begun)
        parts.append(f"about {duration_text(pace * (bar.total - bar.done))} left")
    return ", ".join([*parts, *([extra] if extra else [])])
