"""The judge of content of a climb scored by style: brought, priced and tried; and what it said in all."""

from collections.abc import Sequence
from pathlib import Path

from rung.checks.rows import Prepared
from rung.climb.judge_cost import Foreseen, bar_of, ready_to_pay, tell_price
from rung.evaluate import embed_in
from rung.judging import JUDGE_FOLDER, ContentJudge, content_judge_of, planted_pairs, tried
from rung.judging.content import asked_of, rendering
from rung.judging.verdicts import is_whole
from rung.models.hosted import hosted
from rung.records import Example
from rung.records.judged import ContentJudged, Planted
from rung.rungs.base import Reporter
from rung.system import Pool


def content_judge(prepared: Prepared, run: Path, pool: Pool, reporter: Reporter) -> ContentJudge | None:
    """The judge that the task names, tried on planted pairs; None where it names none.

    What it will cost is said before it is tried. Raises RungError where it can't be asked, where not even one
    System could be judged for what may be paid, and where it shows that it can't tell contents apart.
    """
    task = prepared.task
    if task.judge is None:
        return None
    model = hosted(task.judge.model)
    if model is not None:
        ready_to_pay(model, pool)
    judge = content_judge_of(task.name, task.judge, task.about, run / JUDGE_FOLDER, pool)
    judge.verdicts.on_done = bar_of(reporter, judge.verdicts.given)
    pairs = planted_pairs(prepared.splits.dev, embed_in(run, pool), task.seed)
    if model is not None:
        planted = [asked_of(one) for pair in pairs for one in pair]
        foreseen = Foreseen(
            dev=_as_long(prepared.splits.dev),
            test=_as_long(prepared.splits.test),
            how="if the sentence vectors keep all of them",
            first=planted,
            before=f"{len(planted):,} planted texts",
        )
        tell_price(judge.verdicts, model, foreseen, prepared, pool, reporter)
    found = tried(judge, pairs, pool)
    if found.planted is not None:
        reporter.say(f"judge {judge.verdicts.given}: {planted_text(found.planted)}")
    return found


def content_judged(judge: ContentJudge, pool: Pool) -> ContentJudged:
    """What is to be told of a judge that was tried and asked; planted texts don't count as asked ones."""
    assert judge.planted is not None, "it was tried before anything was built"
    verdicts = judge.verdicts
    said = [said for name, said in verdicts.known.items() if name not in judge.tried_on]
    held = [one for one in said if is_whole(one)]
    return ContentJudged(
        model=verdicts.given,
        digest=verdicts.system.ref.digest,
        texts=len(held),
        other=sum(one[0][0] == "other" for one in held),
        broken=len(said) - len(held),
        planted=judge.planted,
        paid_usd=pool.till.judging_usd if pool.till is not None else 0.0,
    )


def planted_text(found: Planted) -> str:
    """How a judge of content did when it was tried, in words."""
    said = (
        f"of {found.rows} planted pairs of unrelated outputs it tells {found.others} apart, and it finds "
        f"{found.own} of {found.rows} outputs the same as themselves"
    )
    return f"{said}, without a verdict on {found.broken}" if found.broken else said


def _as_long(rows: Sequence[Example]) -> list[Example]:
    """What the judge would be asked of answers as long as the rows' outputs."""
    return [asked_of(rendering(row, str(row.output))) for row in rows]
