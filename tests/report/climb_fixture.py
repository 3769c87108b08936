"""A made-up climb. The rows, scores and costs are synthetic: no model was run."""

import random
from dataclasses import replace

from rung.records import (
    Answer,
    Calibration,
    CalibrationMap,
    CalibrationMethod,
    CalibrationScore,
    CheckRun,
    Climb,
    Comparison,
    CurvePoint,
    Decision,
    Disagreement,
    Finding,
    Forecast,
    Interval,
    LearningCurve,
    Measurement,
    MetricName,
    Parity,
    Prediction,
    ReliabilityBin,
    RungResult,
    SplitName,
    Stopped,
    TokenPrice,
    Trial,
)
from rung.records.guarded import Constant

CHECKS = (
    CheckRun(number=4, name="repeats", what="no row stands there twice", findings=0),
    CheckRun(number=10, name="conflicts", what="one output for an input", findings=1),
    CheckRun(number=7, name="semantic_leaks", what="few paraphrases", findings=0, left_out="no model here"),
)
CONSTANT = Constant(
    answer="billing",
    split="test",
    score=0.31,
    interval=Interval(low=0.267, high=0.357),
    gain=0.621,
    gain_interval=Interval(low=0.57, high=0.66),
    p=1e-9,
    beaten=True,
)
LABELS = ("billing", "delivery", "login", "refund", "other")
RIGHT = {"head": 0.862, "prompt": 0.612, "few_shot": 0.744, "sft": 0.931}


def measurement(
    rung: str,
    split: SplitName,
    n: int,
    score: float,
    *,
    p50_s: float = 0.041,
    memory_mb: float = 412.0,
    metric: MetricName = "accuracy",
    failures: int = 0,
) -> Measurement:
    right = round(score * n)
    order = random.Random(f"{rung}{split}").sample(range(n), n)
    predictions = tuple(
        Prediction(
            example_id=f"{split}{i:04d}",
            answer=Answer(text=LABELS[i % 5], value=LABELS[i % 5], probability=0.8, latency_s=p50_s),
            score=1.0 if order[i] < right else 0.0,
        )
        for i in range(n)
    )
    return Measurement(
        system=f"{rung}0123456789ab",
        split=split,
        metric=metric,
        score=right / n,
        interval=Interval(low=max(0.0, right / n - 0.031), high=min(1.0, right / n + 0.026)),
        n=n,
        failures=failures,
        predictions=predictions,
        strict_score=right / (n + failures) if failures else None,
        secondary=(("macro_f1", score - 0.02), ("readable", 0.998)),
        seconds_per_answer=p50_s * 0.7,
        p50_s=p50_s,
        p95_s=p50_s * 1.6,
        memory_mb=memory_mb,
        prompt_tokens=61.0,
        completion_tokens=2.0,
    )


def result(rung: str, order: int, what: str, p50_s: float, usd: float, build_s: float) -> RungResult:
    memory = 96.0 if rung == "head" else 412.0
    return RungResult(
        rung=rung,
        order=order,
        system=f"{rung}0123456789ab",
        folder=f"systems/{rung}",
        what=what,
        dev=measurement(rung, "dev", 400, RIGHT[rung] + 0.006, p50_s=p50_s, memory_mb=memory),
        test=measurement(rung, "test", 400, RIGHT[rung], p50_s=p50_s, memory_mb=memory),
        usd_per_1000=usd,
        build_s=build_s,
        build_peak_mb=1900.0 if rung == "sft" else memory,
        trials=(
            Trial(name=f"{rung} plain", score=RIGHT[rung] - 0.04, n=100, seconds=3.1),
            Trial(
                name=f"{rung} with codes for the labels", score=RIGHT[rung], n=100, seconds=2.2, chosen=True
            ),
        ),
    )


def comparison(cheaper: str, dearer: str, p: float) -> Comparison:
    gain = RIGHT[dearer] - RIGHT[cheaper]
    return Comparison(
        cheaper=cheaper,
        dearer=dearer,
        n=400,
        gain=gain,
        interval=Interval(low=gain - 0.034, high=gain + 0.034),
        discordant=0.14,
        p=p / 3,
        p_holm=p,
        smallest_detectable_gain=0.051,
        wins=p < 0.05 and gain > 0.02,
    )


def decision() -> Decision:
    return Decision(
        kind="clear_winner",
        chosen="sft",
        best="sft",
        comparisons=(
            comparison("head", "prompt", 1.0),
            comparison("head", "few_shot", 0.92),
            comparison("head", "sft", 0.0004),
        ),
        margin=0.02,
        sentence="Ship sft: 6.9 points better than head on 400 sealed test rows (p < .001), "
        "and no cheaper rung comes within 2 points of it.",
    )


def disagreements() -> tuple[Disagreement, ...]:
    return tuple(
        Disagreement(
            where=f"rows.jsonl:{100 + i}",
            input=f"Synthetic ticket {i}: the parcel of order {7000 + i} was said to be here on Monday, "
            "but the page still says that it is being packed. Can I have my money back instead?",
            target="refund",
            answers=(
                ("head", "delivery", 0.0),
                ("prompt", "other", 0.0),
                ("few_shot", "delivery" if i % 2 else "refund", float(i % 2 == 0)),
                ("sft", "refund", 1.0),
            ),
        )
        for i in range(4)
    )


def synthetic_climb() -> Climb:
    """Four measured rungs, one skipped, one failed; sft is shipped."""
    results = (
        result("head", 0, "MiniLM vectors and a linear head, probabilities calibrated", 0.0043, 0.00009, 6.4),
        result("prompt", 1, "written instruction, labels as codes", 0.042, 0.0008, 38.0),
        result("few_shot", 2, "8 nearest training rows shown with each input", 0.212, 0.0041, 71.5),
        RungResult(
            rung="optimise", order=3, failed="the engine broke twice: out of memory at 8 parallel slots"
        ),
        replace(
            result("sft", 4, "LoRA r=16 on all 1,200 training rows, short prompt", 0.039, 0.00076, 1452.0),
            parity=Parity(
                rows=64,
                max_difference=0.0213,
                mean_difference=0.0011,
                agreement=1.0,
                agreement_rows=200,
                clear_disagreements=0,
            ),
            notes=("seed 0; dev score was best at step 280 of 300",),
        ),
        RungResult(rung="distill", order=5, skipped="no teacher is named in the task"),
    )
    return Climb(
        task="helpdesk-synthetic",
        about="Sort a customer's message into one of five queues.",
        kind="label",
        metric="accuracy",
        n_train=1200,
        n_dev=400,
        n_test=400,
        test_given=False,
        openings=1,
        inferred=("output: label, 5 labels seen in the rows", "metric: accuracy, the default for labels"),
        checks=CHECKS,
        findings=(
            Finding(check="duplicates", severity="info", message="12 rows repeat another; kept on one side"),
            Finding(
                check="conflicts",
                severity="warn",
                message="3 inputs have two different labels; mend or remove them",
                rows=("rows.jsonl:12", "rows.jsonl:90", "rows.jsonl:411"),
            ),
        ),
        results=results,
        dev_decision=decision(),
        decision=decision(),
        winner="winner",
        seconds=1688.0,
        machine="2 cores, 24 GiB, no GPU",
        usd_per_hour=0.10,
        answers_per_month=100_000.0,
        models=(("smollm2-135m", "b179c9523d0e6a0f98a330c7562b6827", "apache-2.0"),),
        versions=(("python", "3.11.9"), ("rung", "0.1.0"), ("torch", "2.13.0")),
        digests=(("rows", "5f2c90aa11"), ("splits", "77ab12cd34")),
        disagreements=disagreements(),
        constant=CONSTANT,
    )


def calibration(method: CalibrationMethod = "temperature", *, on_test: bool = True) -> Calibration:
    """Synthetic figures: what a temperature of 1.7 might do."""

    def scores(n: int) -> tuple[CalibrationScore, CalibrationScore]:
        bins = tuple(
            ReliabilityBin(
                rows=n // 4, confidence=p, accuracy=p - 0.02, interval=Interval(low=p - 0.1, high=1.0)
            )
            for p in (0.5, 0.7, 0.9, 0.98)
        )
        before = CalibrationScore(
            n=n,
            ece=0.0412,
            ece_15=0.0601,
            ece_15_by_chance=0.031,
            brier=0.151,
            log_loss=0.402,
            reliability=bins,
        )
        after = replace(before, ece=0.0183, ece_15=0.0355, brier=0.139, log_loss=0.331)
        return before, before if method == "none" else after

    return Calibration(
        map=CalibrationMap(method=method, temperature=1.7),
        rows=400,
        rows_digest="d",
        every_label=on_test,
        note="synthetic",
        dev=scores(400),
        test=scores(400) if on_test else None,
    )


def calibrated_climb() -> Climb:
    """The climb with calibrations: sft's on test, few_shot's on dev alone, head's of no use."""
    climb = synthetic_climb()
    head, prompt, few_shot, optimise, sft, distill = climb.results
    return replace(
        climb,
        results=(
            replace(head, calibration=calibration("none")),
            prompt,
            replace(few_shot, calibration=calibration("platt", on_test=False)),
            optimise,
            replace(sft, calibration=calibration()),
            distill,
        ),
    )


def stopped_climb() -> Climb:
    """The climb, few_shot being stopped after 64 dev rows; both have a forecast."""
    climb = synthetic_climb()
    head, prompt, few_shot, *others = climb.results
    told = Forecast(seconds=22.0, range_s=(12.0, 95.0), most_s=200.0, after_s=9.0)
    few_shot = replace(
        few_shot,
        dev=measurement("few_shot", "dev", 64, 0.75, p50_s=0.0, memory_mb=0.0),
        test=None,
        stopped=Stopped(rows=64, of=400, rival="head", worse=True),
        trials=(replace(few_shot.trials[0], stopped=True),),
        forecast=told,
        took_s=31.0,
    )
    prompt = replace(prompt, forecast=replace(told, seconds=58.0, range_s=None), took_s=63.0)
    head = replace(head, forecast=replace(told, seconds=None, range_s=None), took_s=8.0)
    results = (head, prompt, few_shot, *others)
    return replace(climb, results=results, reading_peak_mb=640.0, test_peak_mb=2100.0)


def hostile_climb() -> Climb:
    """A climb whose rows carry markup, escape codes, lone surrogates and a 100 kB input."""
    hostile = "<script>alert(1)</script> \x1b[31mred\x1b[0m [bold]x[/bold] \u202egnol \ud800 {{ 7*7 }}"
    climb = synthetic_climb()
    broken = Disagreement(
        where="rows.jsonl:<1>",
        input=hostile + "x" * 100_000,
        target={"a": hostile},
        answers=(("head", hostile, 0.0), ("sft", "y " * 50_000, None)),
    )
    return replace(
        climb,
        task=f"t{hostile}",
        about=hostile,
        inferred=(hostile,),
        findings=(Finding(check="c", severity="warn", message=hostile, rows=(hostile,)),),
        disagreements=(broken,),
        models=((hostile, "d", hostile),),
    )


def one_rung_climb() -> Climb:
    """A climb with a single measured rung, on dev only, and no verdict."""
    climb = synthetic_climb()
    only = replace(climb.results[1], test=None, usd_per_1000=0.0)
    nothing = Decision(
        kind="no_verdict",
        chosen=None,
        best=None,
        comparisons=(),
        margin=0.02,
        sentence="No verdict: 40 test rows are too few to tell rungs apart; label 10 more or so.",
        rows_needed=10,
    )
    return replace(
        climb,
        results=(only,),
        decision=nothing,
        dev_decision=nothing,
        winner=None,
        openings=0,
        disagreements=(),
        answers_per_month=None,
        constant=None,
    )


def curve_climb() -> Climb:
    """The climb with a whole learning curve of head, and one of sft that lacks a point."""
    spread = (0.031, 0.026)
    points = tuple(
        CurvePoint(
            rows=rows,
            score=score,
            interval=Interval(low=score - spread[0], high=score + spread[1]),
            n=400,
            seconds=2.5,
        )
        for rows, score in ((300, 0.78), (600, 0.831), (1200, 0.868))
    )
    head = LearningCurve(
        rung="head",
        points=points,
        gain=0.037,
        interval=Interval(low=0.01, high=0.062),
        p=0.004,
        sentence="head: doubling the rows to 1,200 gained 3.7 points (1.0 to 6.2): more rows would "
        "probably help.",
    )
    sft = LearningCurve(
        rung="sft",
        points=points[2:],
        left_out=("50% of the rows (600): <no time> of the budget is left",),
        sentence="Whether more rows would help sft can't be told: half of them wasn't scored.",
    )
    return replace(synthetic_climb(), curves=(head, sft))


def hosted_climb() -> Climb:
    """One with a hosted model that scores best and costs a dollar for 1,000 answers."""
    climb = synthetic_climb()
    sft = next(r for r in climb.results if r.rung == "sft")
    api = replace(
        sft,
        rung="api",
        order=7,
        what="openai:oracle, the prompt of few_shot",
        usd_per_1000=1.0,
        build_s=2.0,
        price=TokenPrice(input_usd_per_m=1.0, output_usd_per_m=4.0, cached_input_usd_per_m=0.1),
        parity=None,
    )
    return replace(climb, results=(*climb.results, api), paid_usd=0.4, paid_cap_usd=1.0)
