"""What lies behind judged scores: lengths, how steady the judge was, and how people correct it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from rung.checks.rows import Prepared
from rung.data.checked import Checked
from rung.judgement import Corrected, JudgedRung
from rung.judging import Judge, pairing
from rung.records import Example, Measurement, RungResult
from rung.scoring.verdicts import powered_mean, similar_length

FEWEST_CORRECTED = 20
"""Answers of one System that people judged: with fewer its score isn't corrected by them."""


def judged_rungs(
    results: Sequence[RungResult], prepared: Prepared, judge: Judge, checked: Sequence[Checked]
) -> Iterator[JudgedRung]:
    """What lies behind each rung's scores, corrected by people where they judged enough dev answers of it."""
    verdicts = {(one.input, one.context, one.answer.strip(), one.other.strip()): one for one in checked}
    dev = {e.id: e for e in prepared.splits.dev}
    test = {e.id: e for e in prepared.splits.test}
    for result in results:
        if result.dev is None:
            continue
        pairs = list(_checked_scores(result.dev, dev, verdicts))
        for found, rows in ((result.dev, dev), (result.test, test)):
            if found is not None:
                told = _judged_rung(result.rung, found, rows, judge)
                enough = len(pairs) >= FEWEST_CORRECTED and result.stopped is None
                yield replace(told, corrected=_corrected(found, rows, pairs)) if enough else told


def _judged_rung(rung: str, found: Measurement, rows: dict[str, Example], judge: Judge) -> JudgedRung:
    """Nothing is asked: these verdicts are known."""
    scored = [p for p in found.predictions if p.score is not None and p.answer.value is not None]
    pairs = [pairing(rows[p.example_id], p.answer.text.strip()) for p in scored]
    said = [judge.said(pair) for pair in pairs]
    both = zip(scored, pairs, strict=True)
    alike = [p.score or 0.0 for p, one in both if similar_length(one.answer, one.other)]
    return JudgedRung(
        rung=rung,
        split=found.split,
        score=found.score,
        rows=found.n,
        pairs=len(pairs),
        steady=sum(one is not None and one.steady for one in said),
        words=fmean(len(one.answer.split()) for one in pairs) if pairs else 0.0,
        reference_words=fmean(len(one.other.split()) for one in pairs) if pairs else 0.0,
        similar=fmean(alike) if alike else None,
        similar_pairs=len(alike),
    )


def _checked_scores(
    found: Measurement,
    rows: dict[str, Example],
    verdicts: dict[tuple[str, str | None, str, str], Checked],
) -> Iterator[tuple[float, float]]:
    """What people and the judge say that an answer wins against its row's output, wherever people said it."""
    for one in found.predictions:
        row, text = rows[one.example_id], one.answer.text.strip()
        wanted = str(row.output).strip()
        as_answer = verdicts.get((row.input, row.context, text, wanted))
        as_other = verdicts.get((row.input, row.context, wanted, text))
        if one.score is None or text == wanted:
            continue
        if as_answer is not None:
            yield {"answer": 1.0, "tie": 0.5, "other": 0.0}[as_answer.better], one.score
        elif as_other is not None:
            yield {"answer": 0.0, "tie": 0.5, "other": 1.0}[as_other.better], one.score


def _corrected(
    found: Measurement, rows: dict[str, Example], pairs: Sequence[tuple[float, float]]
) -> Corrected:
    scored = [(p, p.score) for p in found.predictions if p.score is not None]
    judged, known = list[float](), list[float]()
    for one, score in scored:
        same = one.answer.text.strip() == str(rows[one.example_id].output).strip()
        (known if same or one.answer.value is None else judged).append(score)
    mean, interval = powered_mean(judged, pairs, known=known, inside=found.split == "dev")
    return Corrected(score=min(1.0, max(0.0, mean)), low=interval.low, high=interval.high, checked=len(pairs))
