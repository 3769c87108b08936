"""The judge of a climb: what it costs, how far people agree with it, and what that does to the verdict."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rung.checks.audit import cohen_kappa
from rung.checks.examine import metric_of
from rung.checks.judge import FEWEST_CHECKED, LEAST_AGREEMENT, LEAST_KAPPA
from rung.checks.rows import Prepared
from rung.climb.corrected import judged_rungs
from rung.data.checked import Checked, checked_digest, read_checked
from rung.engines.till import BYTES_A_TOKEN
from rung.errors import TaskError
from rung.evaluate import Bench, Store
from rung.judging import JUDGE_FOLDER, MOST_TOKENS, Judge, Pairing, both_orders, judge_of, tokens_written
from rung.models.hosted import Hosted, hosted
from rung.records import Climb, Decision, Example
from rung.records.judged import Agreement, Judged
from rung.rungs.base import Reporter
from rung.scoring.cost import tokens_usd
from rung.scoring.notation import percent_text, score_text
from rung.scoring.stats import wilson
from rung.system import Pool
from rung.wording import question


def bench_of(prepared: Prepared, run: Path, pool: Pool, reporter: Reporter) -> Bench:
    """Where a climb's Systems are measured, by a judge where the metric is one.

    What it will cost and how far people agree with it is said before anything is built. Raises RungError
    where it can't be asked, or not even one System could be judged for what may be paid.
    """
    bench = Bench(pool=pool, store=Store(run / "answers"), metric=metric_of(prepared))
    if bench.metric != "judge":
        return bench
    task = prepared.task
    assert task.judge is not None, "metric judge has one"
    model, folder = hosted(task.judge.model), run / JUDGE_FOLDER
    if model is not None:
        ready_to_pay(model, pool)
    judge = judge_of(task.name, task.judge, task.about, folder, pool)
    judge.on_done = bar_of(reporter, judge.given)
    if model is not None:
        tell_price(judge, model, prepared, pool, reporter)
    if task.judge.checked is not None:
        found = agreement(judge, read_checked(task.judge.checked)[0], pool)
        reporter.say(f"judge {judge.given}: {agreement_text(found)}")
    return replace(bench, judge=judge)


def ready_to_pay(model: Hosted, pool: Pool) -> None:
    """Raises TaskError where a hosted judge has no key, or its price isn't known."""
    if model.key_missing:
        raise TaskError(
            f"judge.model: {model.given} can't be asked: {model.key_variable} isn't set in the environment"
        )
    if pool.till is None or (model.url, model.model) not in pool.till.prices:
        raise TaskError(
            f"judge.model: the price of {model.given} isn't known; give it in task.yaml as prices: "
            "{input_usd_per_m: …, output_usd_per_m: …}"
        )


def tell_price(judge: Judge, model: Hosted, prepared: Prepared, pool: Pool, reporter: Reporter) -> None:
    """Say about what judging costs. TaskError where one System's rows pass the cap.

    What is read is put rather too high. What is written is put at what the judge's first answer, to an easy
    question, was billed for: one that thinks first may think longer about the rows.
    """
    till, task, splits = pool.till, prepared.task, prepared.splits
    assert till is not None and task.judge is not None, "a hosted judge is paid"
    price = till.price(model.url, model.model)
    written = max(MOST_TOKENS / 2, tokens_written(judge.path.parent, judge.given))

    def usd(pairs: Sequence[Pairing]) -> float:
        rows = [row for pair in pairs for row in both_orders("0" * 8, pair)]
        told = len((judge.system.spec.instruction or "").encode())
        read = sum(len(row.input.encode()) + told for row in rows) / BYTES_A_TOKEN
        return tokens_usd(price, read, written * len(rows), 0)

    def of_rows(rows: Sequence[Example]) -> float:
        return usd([Pairing(input=question(e), answer=str(e.output), other=str(e.output)) for e in rows])

    dev, test, people, also = of_rows(splits.dev), of_rows(splits.test), 0.0, ""
    if task.judge.checked is not None:
        people = usd(list(map(as_pairing, read_checked(task.judge.checked)[0])))
        also = f", ${people:.4f} for the pairs that people judged"
    left = till.cap_usd - till.spent_usd
    reporter.say(
        f"judge {judge.given}: about ${dev:.4f} for one System's answers to {len(splits.dev):,} dev rows in "
        f"both orders, ${test:.4f} to {len(splits.test):,} test rows{also}, at {written:,.0f} tokens a "
        "verdict; each variant that a rung tries on dev is judged, the same answer once; "
        f"${till.spent_usd:.4f} of ${till.cap_usd:g} were paid so far"
    )
    if not judge.known and dev + test + people > left:
        raise TaskError(
            f"judging one System alone would cost about ${dev + test + people:.4f}, and "
            f"${max(0.0, left):.4f} of ${till.cap_usd:g} are left to pay; raise --api-usd, or choose by "
            "fewer rows with --dev-rows"
        )


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
    if judge is None or spec is None:
        return done
    checked = read_checked(spec.checked)[0] if spec.checked is not None else ()
    found = agreement(judge, checked, bench.pool) if checked else None
    till = bench.pool.till
    held = [one for one in judge.known.values() if one.score is not None]
    judged = Judged(
        model=judge.given,
        digest=judge.system.ref.digest,
        pairs=len(held),
        steady=sum(one.steady for one in held),
        broken=len(judge.known) - len(held),
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
    return replace(decision, kind="undecided", rows_needed=None, sentence=sentence)


def bar_of(reporter: Reporter, given: str) -> Callable[[int, int], None]:
    """A progress bar for each stretch of judging."""
    handle: int | None = None

    def on_done(done: int, total: int) -> None:
        nonlocal handle
        handle = reporter.begin(f"the judge {given}", total) if handle is None else handle
        reporter.advance(handle, done)
        if done == total:
            reporter.end(handle)
            handle = None

    return on_done
