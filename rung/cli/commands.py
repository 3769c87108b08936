"""The commands: each turns its arguments into one library call and shows what comes back."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rung.cli.durations import seconds
from rung.cli.switch import Switch
from rung.cli.written import RowFormat

Text = Annotated[str, Parameter(allow_leading_hyphen=True)]
List = Annotated[str, Parameter(show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClimbChoices:
    """What `climb` may be told.

    Parameters
    ----------
    test
        Rows for the verdict. Without it a part of TASK's rows is put aside and sealed.
    out
        Folder of the run; by default a folder in ./runs named after the task.
    budget
        Time for checking, building and choosing, such as 90s, 30m or 1h30m. The final test isn't cut short.
        With a longer one than before the same command climbs again and asks nothing twice, unless dev gets
        more rows by it, as where answers are long: dev_rows keeps them.
    models
        Models to climb on instead of the task's, with commas between; `rung models` lists those known here.
    dev_rows
        The most rows to choose by; 500, or as many as the budget affords where answers are long.
    test_all
        Open the sealed test for every rung, not only for those that the verdict needs.
    curve
        Train head and sft on a quarter and on half of the rows too, to see whether more rows would help; the
        budget is shared with that.
    no_forgetting
        Don't look whether a tune spoils its base model for questions that aren't the task's.
    rungs
        Only these rungs, with commas between, such as head,prompt.
    seed
        Seed of every random choice; by default the task's.
    accept
        Data checks that may find what would block, with commas between; the report keeps that.
    api_usd
        The most that hosted models may be paid, in US dollars; by default the task's limits.api_usd, 1.
    """

    test: Path | None = None
    out: Path | None = None
    budget: str = "30m"
    models: List = ""
    dev_rows: int | None = None
    test_all: Switch = False
    curve: Switch = False
    no_forgetting: Switch = False
    rungs: List = ""
    seed: int | None = None
    format: RowFormat = "auto"
    accept: List = ""
    api_usd: float | None = None


def climb(task: Path, /, *, choices: ClimbChoices | None = None) -> None:
    """Try every rung of the ladder on a task, cheapest first, and say which one to ship.

    Example: rung climb tickets.jsonl --budget 10m

    Interrupt it at any time: the same command goes on where it was.

    Parameters
    ----------
    task
        A task.yaml, a folder that holds one, or a file of rows (.jsonl, .json, .csv, .tsv, .parquet).
    """
    choices = choices or ClimbChoices()
    budget_s = seconds(choices.budget, "--budget")
    from rich.console import Console

    from rung.climb.climb import Options
    from rung.climb.climb import climb as run_climb
    from rung.report.html import write_report
    from rung.report.text import Screen, show

    options = Options(
        test=choices.test,
        out=choices.out,
        budget_s=budget_s,
        models=_listed(choices.models),
        dev_rows=choices.dev_rows,
        test_all=choices.test_all,
        curve=choices.curve,
        forgetting=not choices.no_forgetting,
        rungs=_listed(choices.rungs),
        seed=choices.seed,
        format=choices.format,
        accept=_listed(choices.accept),
        api_usd=choices.api_usd,
    )
    with Screen() as screen:
        result, run = run_climb(task, options, screen)
    write_report(result, run / "report.html")
    show(result, Console(), run)


def init(
    rows: Path, /, *, test: Path | None = None, out: Path | None = None, format: RowFormat = "auto"
) -> None:
    """Write a task file with every key explained, filled in from the rows, to go on from.

    Example: rung init tickets.jsonl

    Beside it lie the JSON Schema by which an editor knows its keys, and that of the answers where they are
    JSON. Nothing is overwritten.

    Parameters
    ----------
    rows
        A file of rows (.jsonl, .json, .csv, .tsv, .parquet).
    test
        Rows for the verdict; without it a part of ROWS is put aside and sealed.
    out
        Folder of the task; by default that of ROWS.
    """
    from rung.climb.starting import start_task

    started = start_task(rows, test=test, out=out, format=format)
    for line in started.inferred:
        print(line)
    print(f"written: {', '.join(map(str, started.files))}")
    print(f"next: rung check {shlex.quote(str(started.folder))}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CheckChoices:
    """What `check` may be told.

    Parameters
    ----------
    test
        Rows for the verdict; without it a part of TASK's rows is put aside, as a climb would do.
    out
        Folder of the report; by default a folder in ./runs named after the task.
    models
        Model to check prompts for, instead of the task's; it isn't brought for that, only used if it's here.
    accept
        Checks that may find what would block, with commas between; the report keeps that.
    show
        Print so many training rows token by token, as the model sees them, what is learned marked.
    fix
        Write a mended copy of the rows to this folder instead of checking: unreadable rows, repeats and
        training rows that the test holds are set aside in a file of their own, each with the reason.
    group
        With --fix: training rows whose sentence vectors are close (a cosine of .9) get one `group`, so that a
        climb keeps them on one side of its split. Brings the model of the vectors (90 MB).
    redact
        Instead of checking, copy the rows into this new folder, with placeholders such as [EMAIL_1] for
        personal data, keys and passwords; placeholders.json there says what each stands for, to you only.
    roster
        Names that the copy must not hold, one a line: people can't be found by patterns. Goes with --redact.
    audit
        Write 50 random test rows to this file, without their outputs, for a second person to label in the
        field `second`.
    audited
        Such a file when it is filled in: says how far the two agree.
    """

    test: Path | None = None
    out: Path | None = None
    models: List = ""
    format: RowFormat = "auto"
    accept: List = ""
    show: int = 0
    fix: Path | None = None
    group: Switch = False
    redact: Path | None = None
    roster: Path | None = None
    audit: Path | None = None
    audited: Path | None = None


def check(task: Path, /, *, choices: CheckChoices | None = None) -> None:
    """Look through a task's rows for what would spoil training or scores, before any model sees them.

    Example: rung check tickets.jsonl

    Ends with status 2 where something blocks a climb.

    Parameters
    ----------
    task
        A task.yaml, a folder that holds one, or a file of rows (.jsonl, .json, .csv, .tsv, .parquet).
    """
    from rich.console import Console

    from rung.checks.examine import stop_on_block
    from rung.climb.checking import CheckOptions, check_rows
    from rung.report.data import show_data, show_rows, write_data_page
    from rung.report.text import Screen

    choices = choices or CheckChoices()
    if choices.fix is not None or choices.group:
        _fix(task, choices)
        return
    if choices.redact is not None or choices.roster is not None:
        _redact(task, choices)
        return
    options = CheckOptions(
        test=choices.test,
        out=choices.out,
        models=_listed(choices.models),
        format=choices.format,
        accept=_listed(choices.accept),
        show=choices.show,
        audit=choices.audit,
        audited=choices.audited,
    )
    with Screen() as screen:
        found = check_rows(task, options, screen)
    write_data_page(found.report, found.folder / "data_report.html")
    console = Console()
    show_rows(found.shown, console)
    show_data(found.report, console, found.folder)
    stop_on_block(found.report.findings)


def _alone(choices: CheckChoices, mode: str, served: tuple[str, ...]) -> None:
    """Raises TaskError for a choice that does nothing beside --`mode`, which writes a copy and no report."""
    from rung.errors import TaskError

    given = [one.name for one in fields(choices) if getattr(choices, one.name) != one.default]
    others = [f"--{name}" for name in given if name not in (mode, *served)]
    if others:
        raise TaskError(
            f"--{mode} writes a copy and checks nothing: give {', '.join(others)} to a command of its own"
        )


def _fix(task: Path, choices: CheckChoices) -> None:
    from rung.checks.repair import repair, repair_text
    from rung.climb.checking import embedding
    from rung.errors import DataError
    from rung.report.text import Screen
    from rung.task import load_task

    if choices.fix is None:
        raise DataError("--group goes with --fix OUT: the groups are written into a copy of the rows")
    _alone(choices, "fix", ("test", "format", "group"))
    with Screen() as screen:
        embed = embedding(screen) if choices.group else None
        done = repair(load_task(task, test=choices.test), choices.format, choices.fix, embed)
    print(repair_text(done))


def _redact(task: Path, choices: CheckChoices) -> None:
    from rung.cli.redaction import redaction_lines
    from rung.climb.redacting import redact_task
    from rung.errors import TaskError

    if choices.redact is None:
        raise TaskError("--roster names whom a copy must not tell of: give --redact OUT too")
    _alone(choices, "redact", ("test", "roster"))
    done = redact_task(task, choices.redact, test=choices.test, roster=choices.roster)
    print("\n".join(redaction_lines(done)))


def report(run: Path | None = None, /, *, html: Path | None = None) -> None:
    """Show the report of a climb again.

    Example: rung report runs/demo --html helpdesk.html

    Parameters
    ----------
    run
        Folder of the run; without it the newest one in ./runs.
    html
        Write the page to this file too.
    """
    from rich.console import Console

    from rung.climb.climb import load_climb
    from rung.report.html import write_report
    from rung.report.stored import find_run
    from rung.report.text import show

    found = find_run(run, Path("runs"))
    result = load_climb(found)
    if html is not None:
        write_report(result, html, found)
    show(result, Console(), found)


def ask(
    system: str,
    text: Text,
    /,
    *,
    context: Text | None = None,
    json: Switch = False,
) -> None:
    """Let a System answer one text.

    Example: rung ask runs/demo/winner "My parcel never came."

    Parameters
    ----------
    system
        A System's folder, such as the `winner` of a run, or a tag, such as helpdesk:1.2.
    text
        What to answer; - reads it from standard input.
    context
        What goes before the text, for tasks whose rows have a context.
    json
        Print the answer with its probability (calibrated, and as it came), the options, tokens and time, as
        JSON.
    """
    from rung.answering import Answerer
    from rung.cli.answers import as_json, as_line, say_aside, say_host, standard_input
    from rung.registry import load_system
    from rung.system import Pool

    loaded, _ = load_system(system)
    say_host(loaded)
    said = standard_input() if text == "-" else text
    with Pool(parallel=1, say=say_aside) as pool:
        answer = Answerer(loaded, pool).ask(said, context=context, every_label=json)
    print(as_json(answer) if json else as_line(answer))


def models(name: str | None = None, /, *, fetch: str | None = None) -> None:
    """List the models that rung knows by name, those that it was tested with first, or tell all about one.

    Example: rung models --fetch smollm2-135m

    Parameters
    ----------
    name
        A model of the list: its ids, size, context, licence and what is peculiar to its prompts.
    fetch
        Bring the weights of this model now, so that a climb needs no connection. Labels, numbers, worked
        examples, documents and style need minilm-l6, too.
    """
    from rich.console import Console

    from rung.cli.catalog import bring, catalog_table, licence_notes, model_table

    if fetch is not None:
        from rung.report.text import Screen

        with Screen() as screen:
            bring(fetch, screen)
    console = Console()
    if name is not None:
        console.print(model_table(name))
        return
    console.print(catalog_table())
    for note in licence_notes():
        console.print(f"\n{note}", style="dim", highlight=False)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
