"""`rung synth`: inputs that a teacher makes up after real ones, in a file, for it to answer later."""

from dataclasses import dataclass
from pathlib import Path

from rung.checks.rows import prepare
from rung.climb.checking import CheckOptions
from rung.climb.hosted import named_models
from rung.data.synth import asking, fresh, made_row, read_inputs, sampled
from rung.engines.key_hosts import origin_of
from rung.engines.till import Till
from rung.errors import EngineError, TaskError
from rung.models.hosted import Hosted, hosted
from rung.records import Example
from rung.rungs.api import prices
from rung.rungs.base import Reporter
from rung.rungs.replies import Replying, replying
from rung.runs import append_jsonl, digest_of, need_lines_name, read_jsonl, write_text
from rung.system import Pool
from rung.task import Task

MOST_TOKENS = 1024
ROUNDS_A_TEN, FEWEST_ROUNDS = 2, 6
"""Rounds for each ten rows wanted: a teacher that repeats itself isn't asked for ever."""


@dataclass(frozen=True, kw_only=True)
class SynthOptions:
    """What the command line may set."""

    out: Path
    rows: int = 200
    teacher: str | None = None
    test: Path | None = None
    api_usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """How many inputs are new, of how many that the teacher wrote in so many rounds, and what it was paid."""

    rows: int
    written: int
    rounds: int
    unreadable: int
    paid_usd: float


def synthesise(source: Path, options: SynthOptions, reporter: Reporter) -> Made:
    """Write new inputs that are like none of train, dev or test.

    Every round is kept beside the file as it comes, under a digest of what was asked: the same command goes
    on where it was, and another one asks anew. Raises RungError where the task, the teacher or the file can't
    be used, or nothing new was made.
    """
    if options.rows < 1:
        raise TaskError(f"--rows {options.rows}: give a number above 0")
    need_lines_name(options.out, "--out")
    if options.out.exists():
        raise TaskError(f"{str(options.out)!r} is there already; delete it, or choose another with --out")
    prepared = prepare(source, CheckOptions(test=options.test))
    task, splits = prepared.task, prepared.splits
    name = options.teacher or task.teacher
    if name is None:
        raise TaskError("no teacher: write `teacher` in task.yaml, or name one with --teacher")
    rounds_file = options.out.with_name(options.out.name + ".rounds.jsonl")
    kept = [line for line in read_jsonl(rounds_file) if {"asked", "text"} <= line.keys()]
    known = {line["asked"]: line["text"] for line in kept}
    rows = (*splits.train, *splits.dev, *splits.test)
    made: list[str] = []
    number = written = unreadable = 0
    most = max(FEWEST_ROUNDS, ROUNDS_A_TEN * options.rows // 10)
    with Pool(say=reporter.say) as pool:
        writer = _writer(name, task, options, pool)
        bar = reporter.begin("new inputs", options.rows)
        try:
            while len(made) < options.rows and number < most:
                text = asking(task.about, sampled(splits.train, number, task.seed))
                asked = digest_of([writer.known_as, number, text])
                if asked not in known:
                    known[asked] = writer.reply(text, max_tokens=MOST_TOKENS, number=number).text
                    line = {"round": number, "teacher": name, "asked": asked, "text": known[asked]}
                    append_jsonl(rounds_file, [line])
                found = read_inputs(known[asked])
                unreadable += not found
                written += len(found)
                made += fresh(found, [*rows, *map(_as_known, made)])
                number += 1
                reporter.advance(bar, min(len(made), options.rows))
        finally:
            reporter.end(bar)
        paid = pool.till.spent_usd if pool.till is not None else 0.0
    made = made[: options.rows]
    if not made:
        raise EngineError(
            f"{name!r} wrote no new input in {number} rounds ({unreadable} were no list of texts); name a "
            "teacher that follows instructions"
        )
    write_text(options.out, "".join(made_row(text, name) for text in made))
    return Made(rows=len(made), written=written, rounds=number, unreadable=unreadable, paid_usd=paid)


def _as_known(text: str) -> Example:
    return Example(id=text, input=text, output=None)


def _writer(name: str, task: Task, options: SynthOptions, pool: Pool) -> Replying:
    """The teacher, paid out of a till where it's hosted. Raises TaskError for one that can't be asked."""
    if (model := hosted(name)) is not None:
        pool.till = _till(model, task, options)
    if (found := replying(name, pool, task.seed)) is None:
        raise TaskError(
            f"teacher: {name!r} is a System, which answers inputs and makes none up; name a model with "
            "--teacher"
        )
    return found


def _till(model: Hosted, task: Task, options: SynthOptions) -> Till:
    if model.key_missing:
        raise TaskError(f"{model.given} can't be asked: {model.key_variable} isn't set in the environment")
    cap = task.limits.api_usd if options.api_usd is None else options.api_usd
    paid = options.out.with_name(options.out.name + ".paid.jsonl")
    # As a climb prices it: the task's own price is that of a model which no list knows. A System that teaches
    # is asked nothing here, and may be gone.
    known = prices(task.model_copy(update={"teacher": model.given}), (*named_models(task), model))
    return Till(paid, cap, known, named=frozenset([origin_of(model.url)]))
