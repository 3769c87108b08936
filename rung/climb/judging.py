"""The judge of a climb: where it is asked, how far people agree with it, and what that does to a verdict."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rung.checks.audit import cohen_kappa
from rung.checks.examine import metric_of
from rung.checks.judge import FEWEST_CHECKED, LEAST_AGREEMENT, LEAST_KAPPA
from rung.checks.rows import Prepared
from rung.climb.content import content_judge, content_judged
from rung.climb.corrected import judged_rungs
from rung.climb.judge_cost import Foreseen, bar_of, ready_to_pay, tell_price
from rung.data.checked import Checked, checked_digest, read_checked
from rung.evaluate import ANSWERS_FOLDER, Bench, Store
from rung.judging import JUDGE_FOLDER, Judge, Pairing, both_orders, judge_of, pairing
from rung.models.hosted import hosted
from rung.records import Climb, Decision, Example
from rung.records.judged import Agreement, Judged
from rung.rungs.base import Reporter
from rung.scoring.notation import percent_text, score_text
from rung.scoring.stats import wilson
from rung.system import Pool
from rung.wording import question


def bench_of(prepared: Prepared, run: Path, pool: Pool, reporter: Reporter) -> Bench:
    """Where a climb's Systems are measured, with the judge where one is asked.

    What it will cost and how far it can be trusted is said before anything is built. Raises RungError where
    it can't be asked, or not even one System could be judged for what may be paid.
    """
    bench = Bench(pool=pool, store=Store(run / ANSWERS_FOLDER), metric=metric_of(prepared))
    if bench.metric == "style":
        return replace(bench, content_judge=content_judge(prepared, run, pool, reporter))
    if bench.metric != "judge":
        return bench
    return replace(bench, judge=_judge(prepared, run / JUDGE_FOLDER, pool, reporter))


def _judge(prepared: Prepared, folder: Path, pool: Pool, reporter: Reporter) -> Judge:
    """The judge that compares answers, once its cost and what people say of it are told."""
    task, splits = prepared.task, prepared.splits
    assert task.judge is not None, "metric judge has one"
    model = hosted(task.judge.model)
    if model is not None:
        ready_to_pay(model, pool)
    judge = judge_of(task.name, task.judge, task.about, folder, pool)
    judge.verdicts.on_done = bar_of(reporter, judge.verdicts.given)
    checked = read_checked(task.judge.checked)[0] if task.judge.checked is not None else ()
    if model is not None:
        foreseen = Foreseen(
            dev=_of_rows(splits.dev),
            test=_of_rows(splits.test),
            how="in both orders",
            first=_asked(list(map(as_pairing, checked))),
            before="the pairs that people judged",
        )
        tell_price(judge.verdicts, model, foreseen, prepared, pool, reporter)
    if task.judge.checked is not None:
        reporter.say(f"judge {judge.verdicts.given}: {agreement_text(agreement(judge, checked, pool))}")
    return judge


def _of_rows(rows: Sequence[Example]) -> list[Example]:
    """What is asked of answers as long as the rows' outputs."""
    return _asked([pairing(row, str(row.output)) for row in rows])


def _asked(pairs: Sequence[Pairing]) -> list[Example]:
    return [row for pair in pairs for row in both_orders("0" * 8, pair)]


def as_pairing(one: Checked) -> Pairing:
    """A pair that a person judged, as the judge is asked about it."""
    row = Example(id="", input=one.input, output=None, context=one.context)
    return Pairing(input=question(row), answer=one.answer, other=one.other)


def agreement(judge: Judge, checked: Sequence[Checked], pool: Pool) -> Agreement:
    """How far the judge says of these pairs what people do. Raises EngineError where it can't be asked."""
    said = judge.judge(list(map(as_pairing, checked)), pool)
    names = {1.0: "answer", 0.5: "tie", 0.0: "other"}
    both = [
        (one.better, names[it.score]) for one, it in zip(checked, said, strict=True) if it.score is not None
    ]
    rows, same = len(both), sum(a == b for a, b in both)
    if not rows:
        return _none(broken=len(said))
    rate = wilson(same, rows)
    kappa, interval = cohen_kappa([a for a, _ in both], [b for _, b in both])
    enough = rows >= FEWEST_CHECKED and same >= LEAST_AGREEMENT * rows and (kappa or 0.0) >= LEAST_KAPPA
    return Agreement(
        rows=rows,
        same=same,
        low=rate.low,
        high=rate.high,
        kappa=kappa,
        kappa_low=interval.low,
        kappa_high=interval.high,
        broken=len(said) - rows,
        enough=enough,
    )


def _none(*, broken: int) -> Agreement:
    """The judge gave no verdict on any of the pairs."""
    return Agreement(
        rows=0,
        same=0,
        low=0.0,
        high=1.0,
        kappa=None,
        kappa_low=-1.0,
        kappa_high=1.0,
        broken=broken,
        enough=False,
    )


def agreement_text(found: Agreement | None) -> str:
    """How far people agree with the judge, in words, and what is missing for a verdict to rest on it."""
    if found is None:
        return "no human verdict checks it"
    if not found.rows:
        return f"it gave no verdict on any of the {found.broken:,} pairs that people judged"
    kappa = "κ can't be told" if found.kappa is None else f"κ {score_text(found.kappa, 'accuracy')}"
    said = (
        f"it agrees with {found.same:,} of {found.rows:,} human verdicts "
        f"({percent_text(found.same / found.rows)}, {kappa})"
    )
    if found.broken:
        said += f", {found.broken:,} more it gave no verdict on"
    if found.enough:
        return said
    return f"{said}; {FEWEST_CHECKED} are needed, {percent_text(LEAST_AGREEMENT)} and κ {LEAST_KAPPA:g}"


def with_judge(done: Climb, bench: Bench, prepared: Prepared) -> Climb:
    """The climb with what is to be told of its judge; no verdict stands that people don't back."""
    judge, spec = bench.judge, prepared.task.judge
    if bench.content_judge is not None:
        return replace(done, content_judged=content_judged(bench.content_judge, bench.pool))
    if judge is None or spec is None:
        return done
    checked = read_checked(spec.checked)[0] if spec.checked is not None else ()
    found = agreement(judge, checked, bench.pool) if checked else None
    till = bench.pool.till
    every = judge.judgements
    held = [one for one in every if one.score is not None]
    judged = Judged(
        model=judge.verdicts.given,
        digest=judge.verdicts.system.ref.digest,
        pairs=len(held),
        steady=sum(one.steady for one in held),
        broken=len(every) - len(held),
        paid_usd=till.judging_usd if till is not None else 0.0,
        agreement=found,
        checked=checked_digest(spec.checked),
        rungs=tuple(judged_rungs(done.results, prepared, judge, checked)),
    )
    return replace(
        done,
        judged=judged,
        dev_decision=_on_judge(done.dev_decision, judged),
        decision=_on_judge(done.decision, judged),
    )


def _on_judge(decision: Decision, judged: Judged) -> Decision:
    """The decision with who judged; undecided where people haven't shown that the judge can be trusted."""
    backed = judged.agreement is not None and judged.agreement.enough
    who = f"Judged by {judged.model}, in both orders, against each row's output"
    said = f"{who}: {agreement_text(judged.agreement)}."
    if backed or decision.kind == "no_verdict":
        return replace(decision, sentence=f"{decision.sentence} {said}")
    alone = f"{decision.sentence[0].lower()}{decision.sentence[1:]}"
    sentence = f"Judge-only, not decided: by the judge alone, {alone} {said}"
    return replace(decision, kind="undecided", rows_needed=None, between=False, sentence=sentence)
