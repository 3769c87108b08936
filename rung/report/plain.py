"""The verdict in one sentence for whoever pays: does fine-tuning pay here, and why?"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from rung.climb.budget import TRAINED
from rung.climb.decide import breaks_more
from rung.climb.names import rung_of
from rung.climb.ordering import stack
from rung.climb.sentence import CLEARLY_CHEAPER, to_label
from rung.records import Climb, Measurement, RungResult
from rung.records.guarded import Constant
from rung.report.notation import clean
from rung.report.summary import measured
from rung.scoring.notation import duration_text, passes_text, score_text
from rung.scoring.scorers import SCORERS

WAYS = {
    "head": "a small linear model",
    "prompt": "an instruction alone",
    "few_shot": "an instruction with examples",
    "retrieval": "looking up the documents",
    "optimise": "a better instruction",
    "workflow": "a second look at each answer",
    "api": "a hosted model",
}
"""What the rungs that train no language model do, in words that need no glossary."""

REASONS = {
    "head": "the rows teach a linear model as much as they teach a language model",
    "prompt": "telling the model what is wanted brings as much as training it does",
    "few_shot": "examples beside the request show it as well as training does",
    "retrieval": "showing the model what stands in the documents brings as much as training it does",
    "optimise": "the right instruction brings as much as training does",
    "workflow": "looking at its own answer once more brings the model as much as training does",
    "api": "asking a bigger model brings as much as training a small one does",
}
FACTS = "what the model lacks is facts, and these are found rather than learned"
"""Where the right passage in the prompt was seen to be what helps."""


def in_plain_words(climb: Climb) -> str:
    """Whether to fine-tune, with the scores that say so and the likely reason. Scores of one split alone."""
    scored = {result.rung: result for result, _ in measured(climb)}
    tuned = [result for name, result in scored.items() if rung_of(name) in TRAINED]
    others = [result for name, result in scored.items() if rung_of(name) not in TRAINED]
    chosen = scored.get(climb.decision.chosen or "")
    if chosen is not None and climb.constant is not None and not climb.constant.beaten:
        return _no_better(climb, chosen, climb.constant, scored)
    if chosen is None:
        return "Whether fine-tuning pays can't be told from these rows."
    if not tuned:
        return _untried(climb, chosen)
    if climb.decision.kind == "undecided":
        return _undecided(climb, chosen, scored)
    if rung_of(chosen.rung) in TRAINED:
        return _pays(climb, chosen, [one for one in others if not _broke(one, scored.values())])
    return _does_not(chosen, tuned, scored)


def _no_better(climb: Climb, chosen: RungResult, constant: Constant, scored: Mapping[str, RungResult]) -> str:
    """The rung to ship isn't above the floor, so whether to fine-tune isn't the question yet."""
    ours = _part(chosen)
    always = _scores(replace(ours, score=constant.score))
    odds = "" if constant.gain <= 0 else ", which may be chance on these rows"
    said = (
        f"What would ship isn't shown to do the job: always giving one and the same answer {always}, "
        f"{_way(chosen)} {_also(ours)}{odds}."
    )
    over = [one for one in scored.values() if one.over_limits]
    outside = [one for one in over if _sign(one) * (_part(one).score - ours.score) > 0]
    if outside:
        best = _best(outside)
        return f"{said} {_way(best, begins=True)} {_scores(_part(best))}, but is over the limits."
    tuned = [one for one in scored.values() if rung_of(one.rung) in TRAINED]
    if not tuned:
        return said
    if climb.decision.kind == "undecided":
        return f"{said} {_undecided(climb, chosen, dict(scored))}"
    whole = [one for one in tuned if not one.stopped]
    return f"{said} So fine-tuning isn't shown to pay here.{_unfinished(_best(whole or tuned))}"


def _broke(one: RungResult, scored: Collection[RungResult]) -> bool:
    """Whether a rung can't ship since its calls broke on many more rows than another's of the same split."""
    if one.stopped:
        return False
    found = _part(one)
    parts = [part for other in scored if not other.stopped for part in (other.dev, other.test) if part]
    least = min(part.failures for part in parts if part.split == found.split)
    return breaks_more(found.failures, least, found.n + found.failures)


def _pays(climb: Climb, chosen: RungResult, others: list[RungResult]) -> str:
    trained = [one for one in stack(chosen, climb.results) if rung_of(one.rung) in TRAINED]
    made = f"training took {duration_text(sum(one.build_s for one in trained))}"
    inside = [one for one in others if not one.over_limits]
    rivals = [one for one in inside if not one.stopped] or inside
    if not rivals:
        only = "Fine-tuning is the only way here that was tried and may ship"
        return f"{only}: it {_scores(_part(chosen))}; {made}."
    # What ships by a tie was compared with the best alone: what is dearer than a dearer rung is so, too.
    place = {one.rung: one.order for one in climb.results if one.price is None}
    over = {
        c.dearer
        for found in (climb.dev_decision, climb.decision)
        for c in found.comparisons
        if place.get(c.cheaper, -1) >= chosen.order
    }
    top = _best(rivals)
    best = _best([one for one in rivals if one.rung not in over] or rivals)
    ours, theirs = _same_split(chosen, best)
    mine, its = _same_split(chosen, top)
    beside = _no_gain(chosen, top, mine, its) if top.rung in over else ""
    cheaper = dearer = ""
    if best is not top:
        there = "" if its.split == ours.split else f", where the tuned model {_scores(mine)}"
        cheaper, dearer = "cheaper way ", f" {_way(top, begins=True)} {_scores(its)}{there}{beside}."
        beside = ""
    early = f", when it was stopped after {best.stopped.rows:,} rows" if best.stopped else ""
    tests = climb.decision if ours.split == "test" else climb.dev_decision
    gain = next((c for c in tests.comparisons if (c.cheaper, c.dearer) == (best.rung, chosen.rung)), None)
    if gain is not None and gain.interval.low <= 0:
        beaten = {c.cheaper for c in climb.decision.comparisons if c.wins and c.dearer == chosen.rung}
        behind = next((_way(one) for one in inside if one.rung in beaten), "")
        said = f"Fine-tuning beats {behind}" if behind else "A tuned model ships"
        return (
            f"{said} here, but isn't shown to beat {_way(best)}, the best {cheaper}without training: the "
            f"tuned model {_scores(ours)}, the other {_also(theirs)}; {made}.{dearer}"
        )
    return (
        f"Fine-tuning pays here: the tuned model {_scores(ours)}, {_way(best)}, the best {cheaper}without "
        f"training, {_also(theirs)}{early}{beside}; {made}.{dearer}"
    )


def _does_not(chosen: RungResult, tuned: list[RungResult], scored: Mapping[str, RungResult]) -> str:
    inside = [one for one in tuned if not one.over_limits]
    if not inside:
        limits = "; ".join(tuned[0].over_limits)
        return f"Fine-tuning is out: the tuned model is over the limits ({clean(limits)})."
    whole = [one for one in inside if not one.stopped]
    best = _best(whole or inside)
    reason = FACTS if chosen.gap == "knowledge" else REASONS.get(rung_of(chosen.rung), "")
    because = f": {reason}" if reason else ""
    more = _unfinished(best)
    if more:
        because = " in the time it had"
    if best.stopped is not None:
        return (
            f"Fine-tuning doesn't pay here{because}. The tuned model was stopped early, when it could no "
            f"longer beat {_way(scored.get(best.stopped.rival, chosen))}.{more}"
        )
    ours, theirs = _same_split(chosen, best)
    return (
        f"Fine-tuning doesn't pay here{because}. {_way(chosen, begins=True)} {_scores(ours)}, the "
        f"tuned model {_also(theirs)}{_no_gain(chosen, best, ours, theirs)}.{more}"
    )


def _no_gain(chosen: RungResult, other: RungResult, ours: Measurement, theirs: Measurement) -> str:
    """That a dearer rung's higher score is no clear gain, and what an answer of it costs."""
    dearer = ""
    if chosen.usd_per_1000 > 0 and other.usd_per_1000 > CLEARLY_CHEAPER * chosen.usd_per_1000:
        dearer = f", at {_times(other.usd_per_1000 / chosen.usd_per_1000)} the price of an answer"
    chance = ", no clear gain" if _sign(other) * (theirs.score - ours.score) > 0 else ""
    if chance and theirs.failures > ours.failures:
        chance = f", but {theirs.failures:,} of its calls broke"
    return f"{chance}{dearer}"


def _unfinished(tuned: RungResult) -> str:
    """A sentence where a tune may have had more to learn than its time allowed."""
    if not tuned.cut_short or tuned.passes is None:
        return ""
    ended = f"Its training ended for want of time, {passes_text(tuned.passes)}"
    return f" {ended}, and may have had more to learn: a longer --budget would tell."


def _undecided(climb: Climb, chosen: RungResult, scored: dict[str, RungResult]) -> str:
    best = scored.get(climb.decision.best or "")
    more = ""
    if climb.decision.rows_needed is not None:
        rows = to_label(climb.decision.rows_needed, "test", test_given=climb.test_given)
        more = f"; labelling {rows} would tell"
    elif climb.judged is not None:
        more = "; first people have to check the judge"
    if best is None or (rung_of(best.rung) in TRAINED) == (rung_of(chosen.rung) in TRAINED):
        return f"Which way is best can't be told yet{more}."
    ours, theirs = _same_split(chosen, best)
    chance = ", which may be chance" if climb.decision.rows_needed is not None else ""
    tuned = best if rung_of(best.rung) in TRAINED else chosen
    return (
        f"Whether fine-tuning pays can't be told yet: {_way(chosen)} {_scores(ours)}, {_way(best)} "
        f"{_also(theirs)}{chance}{more}.{_unfinished(tuned)}"
    )


def _untried(climb: Climb, chosen: RungResult) -> str:
    """No tuned model has a score."""
    tried = [r for r in climb.results if rung_of(r.rung) == "sft"]
    why = next((clean(r.skipped or r.failed or "") for r in tried), "")
    said = f"{_way(chosen, begins=True)} {_scores(_part(chosen))}; whether fine-tuning would do better"
    return f"{said} wasn't seen{f' ({why})' if why else ''}."


def _part(result: RungResult) -> Measurement:
    found = result.test or result.dev
    assert found is not None, "measured rungs alone come here"
    return found


def _same_split(*results: RungResult) -> list[Measurement]:
    """All on test where all were scored there, else all on dev."""
    found = [one.test for one in results if one.test is not None]
    if len(found) < len(results):
        found = [one.dev for one in results if one.dev is not None]
    assert len(found) == len(results), "measured rungs alone come here"
    return found


def _best(results: list[RungResult]) -> RungResult:
    """By dev, where all of them have a score: the test is opened for some alone."""
    return max(results, key=lambda one: _sign(one) * _strict(one.dev or _part(one)))


def _strict(found: Measurement) -> float:
    """The score with broken calls as unreadable answers.

    Records of earlier versions lack it: of means of shares it's worked out, of others it's the plain score.
    """
    if found.strict_score is not None:
        return found.strict_score
    scorer = SCORERS[found.metric]
    if not (scorer.mean_of_rows and scorer.higher_is_better):
        return found.score
    return found.score * found.n / (found.n + found.failures)


def _sign(result: RungResult) -> int:
    return 1 if SCORERS[_part(result).metric].higher_is_better else -1


def _way(result: RungResult, *, begins: bool = False) -> str:
    """The tuned model, or how a rung goes about it, with its name."""
    rung = rung_of(result.rung)
    text = "the tuned model" if rung in TRAINED else WAYS.get(rung, rung)
    text = text if rung in TRAINED or text == rung else f"{text} ({result.rung})"
    return text[0].upper() + text[1:] if begins else text


def _scores(found: Measurement) -> str:
    """What a rung scores: so many right in a hundred where each answer is right or wrong; an error as one."""
    if SCORERS[found.metric].binary:
        return f"is right on {_of_100(found.score)} of 100 {found.split} rows"
    if not SCORERS[found.metric].higher_is_better:
        return f"is off by {score_text(found.score, found.metric)} on average on {found.split} rows"
    return f"scores {score_text(found.score, found.metric)} on {found.split} rows"


def _also(found: Measurement) -> str:
    """The same where another rung's was just said."""
    if SCORERS[found.metric].binary:
        return f"on {_of_100(found.score)}"
    if not SCORERS[found.metric].higher_is_better:
        return f"by {score_text(found.score, found.metric)}"
    return score_text(found.score, found.metric)


def _of_100(share: float) -> str:
    """So many of a hundred; all, and none, of the rows alone read so."""
    written = f"{100 * share:.0f}"
    if written == "100" and share < 1:
        return f"{min(100 * share, 99.9):.1f}"
    return f"{max(100 * share, 0.1):.1f}" if written == "0" and share > 0 else written


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
