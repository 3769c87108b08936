"""What a comparison pays and whom it believes: the till of hosted sides and judges, and the task's judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rung.climb.hosted import PAID_FILE, named_hosts
from rung.climb.judge_cost import bar_of, ready_to_pay
from rung.climb.judging import agreement, agreement_text
from rung.climb.rivals import hosted_models
from rung.compare.asked import Asked
from rung.compare.sides import Side
from rung.data.checked import read_checked
from rung.engines.till import Till
from rung.errors import TaskError
from rung.evaluate import OTHER_CONTENT, embed_in
from rung.hosted import hosted_of
from rung.judging import (
    JUDGE_FOLDER,
    JUDGEMENTS_FILE,
    ContentJudge,
    Judge,
    Verdicts,
    content_judge_of,
    judge_of,
    planted_pairs,
    tried,
)
from rung.judging.verdicts import is_whole
from rung.models.family import family_of
from rung.models.hosted import hosted
from rung.records import Measurement, TokenPrice
from rung.rungs.api import prices
from rung.rungs.base import Reporter
from rung.system import Pool, System
from rung.task.model import JudgeSpec, Limits

CAP_KEY = "limits.api_usd in task.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """On whose word the scores rest, in a sentence, and whether people back it."""

    said: str
    backed: bool


def place_of(system: System) -> tuple[str, str]:
    """The URL and the name of a hosted System's model."""
    model = hosted_of(system.ref)
    return model.url, model.model


def till_of(sides: Sequence[Side], asked: Asked, home: Path) -> Till | None:
    """What a hosted side and a hosted judge are paid out of; None without any.

    It is that of the run of the hosted side, else of `home`, and its cap the larger of the task's and of that
    run's climb: a climb may have been allowed more. Raises TaskError for two sides, and for one that
    no climb has priced.
    """
    known, folder = _judge_prices(asked), home
    hosted_sides = [one for one in sides if one.system is not None and one.system.is_hosted]
    if not hosted_sides and known is None:
        return None
    known = known or {}
    if hosted_sides:
        (one, *others) = hosted_sides
        price = None if one.origin is None else one.origin.result.price
        if others or one.system is None or one.run is None or price is None:
            raise TaskError(
                f"{one.given!r} is a hosted model: it's compared as RUN:api of the climb that priced it, "
                "with a System of this machine"
            )
        known, folder = {**known, place_of(one.system): price}, one.run
    task = None if asked.prepared is None else asked.prepared.task
    caps = [one.origin.climb.paid_cap_usd for one in sides if one.origin and one.run == folder]
    cap = max(Limits().api_usd if task is None else task.limits.api_usd, *caps, 0.0)
    named = named_hosts(task) if task is not None and asked.is_named else frozenset[str]()
    return Till(folder / PAID_FILE, cap, known, raised_by=CAP_KEY, named=named)


def judge_for(
    sides: Sequence[Side], asked: Asked, home: Path, pool: Pool, reporter: Reporter
) -> Judge | None:
    """The judge of the rows' task, with what it said in the runs of both; None where the metric is another.

    What it says anew is kept in `home`. Raises TaskError where the task has none, or a side is of its family.
    """
    if asked.metric != "judge":
        return None
    spec = _spec(asked)
    _may_judge(spec, sides, pool)
    assert asked.prepared is not None, "its judge is known"
    task = asked.prepared.task
    judge = judge_of(task.name, spec, task.about, home / JUDGE_FOLDER, pool)
    _read_all(judge.verdicts, sides, reporter)
    return judge


def content_judge_for(
    sides: Sequence[Side], asked: Asked, home: Path, pool: Pool, reporter: Reporter
) -> ContentJudge | None:
    """The judge of content of the rows' task, tried as its climb tries it; None where none is asked.

    What it says anew is kept in `home`. Raises TaskError where a side is of its family, or where it can't
    tell contents apart.
    """
    spec = _content_spec(asked)
    if spec is None or asked.prepared is None:
        return None
    _may_judge(spec, sides, pool)
    task = asked.prepared.task
    judge = content_judge_of(task.name, spec, task.about, home / JUDGE_FOLDER, pool)
    _read_all(judge.verdicts, sides, reporter)
    pairs = planted_pairs(asked.prepared.splits.dev, embed_in(home, pool), task.seed)
    return tried(judge, pairs, pool)


def content_told(judge: ContentJudge | None, *found: Measurement) -> tuple[str, ...]:
    """A sentence on what a judge of content took out of the answers of A and B; nothing without one."""
    if judge is None:
        return ()
    counts = [round(dict(one.secondary)[OTHER_CONTENT] * one.n) for one in found]
    sides = zip("AB", counts, found, strict=True)
    of = [f"{count:,} of {name}'s {one.n:,} answers" for name, count, one in sides]
    silent = sum(not is_whole(said) for said in judge.verdicts.known.values())
    more = f", and gave no verdict on {silent:,} texts" if silent else ""
    return (
        f"content is judged by {judge.verdicts.given}, too: it took out {' and '.join(of)} that the sentence "
        f"vectors let through{more}",
    )


def trusted(judge: Judge | None, asked: Asked, pool: Pool) -> Trust | None:
    """What people say of the judge; None without one."""
    if judge is None:
        return None
    spec = _spec(asked)
    checked = read_checked(spec.checked)[0] if spec.checked is not None else ()
    found = agreement(judge, checked, pool) if checked else None
    return Trust(
        said=f"Judged by {judge.verdicts.given}, in both orders, against each row's output: "
        f"{agreement_text(found)}.",
        backed=found is not None and found.enough,
    )


def _read_all(verdicts: Verdicts, sides: Sequence[Side], reporter: Reporter) -> None:
    """Know what the judge said in the runs of both sides, and show how far it is."""
    for folder in dict.fromkeys(one.run for one in sides if one.run is not None):
        verdicts.read(folder / JUDGE_FOLDER / JUDGEMENTS_FILE)
    verdicts.on_done = bar_of(reporter, verdicts.given)


def _may_judge(judge: JudgeSpec, sides: Sequence[Side], pool: Pool) -> None:
    """Raises TaskError where a side is of the judge's family, or a hosted one can't be paid."""
    family = family_of(judge.model)
    for one in sides:
        ref = None if one.system is None else one.system.spec.model
        name = one.model if ref is None else ref.source
        if name is not None and family_of(name) == family:
            raise TaskError(
                f"{one.given!r} is of one family ({family}) with the judge {judge.model!r}, and models "
                "prefer their own family's answers; choose another with --metric"
            )
    if (model := hosted(judge.model)) is not None:
        ready_to_pay(model, pool)


def _judge_prices(asked: Asked) -> dict[tuple[str, str], TokenPrice] | None:
    """What a hosted judge's tokens cost; None where none is asked."""
    if asked.prepared is None:
        return None
    spec = _spec(asked) if asked.metric == "judge" else _content_spec(asked)
    if spec is None or hosted(spec.model) is None:
        return None
    # As a climb prices it: among all hosted models of the task.
    return prices(asked.prepared.task, hosted_models(asked.prepared.task))


def _content_spec(asked: Asked) -> JudgeSpec | None:
    """The judge of content; None where the metric isn't style, in the task, too, or it names no judge."""
    task = None if asked.prepared is None else asked.prepared.task
    return task.judge if task is not None and task.metric == asked.metric == "style" else None


def _spec(asked: Asked) -> JudgeSpec:
    spec = None if asked.prepared is None else asked.prepared.task.judge
    if spec is None:
        raise TaskError(
            "metric judge needs the judge that a task names; give --task TASK, or choose another with "
            "--metric"
        )
    return spec
