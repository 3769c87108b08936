"""What lies behind judged scores: lengths, how steady the judge was, and how people correct it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from rung.checks.rows import Prepared
from rung.data.checked import Checked
from rung.judging import Judge, pairing
from rung.records import Example, Measurement, RungResult
from rung.records.judged import Corrected, JudgedRung
from rung.scoring.verdicts import Groups, powered_mean, similar_length
from rung.task.draws import drawn_with

FEWEST_CORRECTED = 20
"""Answers of one System's sample that people judged: with fewer its score isn't corrected by them."""


def judged_rungs(
    results: Sequence[RungResult], prepared: Prepared, judge: Judge, checked: Sequence[Checked]
) -> Iterator[JudgedRung]:
    """What lies behind each rung's scores, corrected by people where they judged a random sample of it."""
    dev = {e.id: e for e in prepared.splits.dev}
    test = {e.id: e for e in prepared.splits.test}
    for result in results:
        if result.dev is None:
            continue
        pairs = sampled_scores(result.rung, result.dev, dev, checked)
        for found, rows in ((result.dev, dev), (result.test, test)):
            if found is not None:
                told = _judged_rung(result.rung, found, rows, judge)
                use = pairs and result.stopped is None
                yield replace(told, corrected=_corrected(found, rows, pairs, dev)) if use else told


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


def sampled_scores(
    rung: str, found: Measurement, rows: Mapping[str, Example], checked: Sequence[Checked]
) -> dict[str, tuple[float, float]]:
    """What people and the judge say that answers of a rung's random sample win against their rows' outputs.

    By the rows' ids.

    None where people judged fewer than 20 of them, or not all: which ones they left out may hang on what
    stands in them, and so may which answers another rung shares. Lines that no sheet drew for this rung don't
    count.
    """
    own = [one for one in checked if rung in one.drawn]
    verdicts = {(one.input, one.context, one.answer.strip(), one.other.strip()): one for one in own}
    scores, used = dict[str, tuple[float, float]](), set[tuple[str | None, ...]]()
    for one in found.predictions:
        row, text = rows[one.example_id], one.answer.text.strip()
        wanted = str(row.output).strip()
        if one.score is None or one.answer.value is None or text == wanted:
            continue
        as_answer = verdicts.get((row.input, row.context, text, wanted))
        as_other = verdicts.get((row.input, row.context, wanted, text))
        if as_answer is not None:
            person = {"answer": 1.0, "tie": 0.5, "other": 0.0}[as_answer.better]
        elif as_other is not None:
            person = {"answer": 0.0, "tie": 0.5, "other": 1.0}[as_other.better]
        else:
            continue
        scores[one.example_id] = (person, one.score)
        used.add((row.input, row.context, text, wanted))
    whole = {one.drawn[rung] for one in own} == {len(used)}
    return scores if whole and len(used) >= FEWEST_CORRECTED else {}


def _corrected(
    found: Measurement,
    rows: Mapping[str, Example],
    pairs: Mapping[str, tuple[float, float]],
    dev: Mapping[str, Example],
) -> Corrected:
    scored = [(p, p.score) for p in found.predictions if p.score is not None]
    drawn = drawn_with([*{**dev, **rows}.values()])
    judged, known = dict[str, float](), dict[str, float]()
    for one, score in scored:
        same = one.answer.text.strip() == str(rows[one.example_id].output).strip()
        (known if same or one.answer.value is None else judged)[one.example_id] = score
    mean, interval = powered_mean(
        list(judged.values()),
        list(pairs.values()),
        known=list(known.values()),
        inside=found.split == "dev",
        groups=Groups(
            rows=[drawn.get(name, name) for name in (*judged, *known)],
            checked=[drawn.get(name, name) for name in pairs],
        ),
    )
    return Corrected(score=min(1.0, max(0.0, mean)), low=interval.low, high=interval.high, checked=len(pairs))
