"""The verdict for whoever pays: the first sentence says whether fine-tuning pays here, and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rung.climb.budget import TRAINED
from rung.climb.decide import MIN_ROWS, breaks_more
from rung.climb.ending import is_untested
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
    "distill_head": "a small linear model that learned from a bigger one",
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
    "distill_head": "a linear model learns as much from a bigger one's answers as a language model does",
    "prompt": "telling the model what is wanted brings as much as training it does",
    "few_shot": "examples beside the request show it as well as training does",
    "retrieval": "showing the model what stands in the documents brings as much as training it does",
    "optimise": "the right instruction brings as much as training does",
    "workflow": "looking at its own answer once more brings the model as much as training does",
    "api": "asking a bigger model brings as much as training a small one does",
}
FACTS = "what the model lacks is facts, and these are found rather than learned"
"""Where the right passage in the prompt was seen to be what helps."""
LIMITS = "the tuned model is over the limits that were set"
NO_JOB = "what would ship isn't shown to do the job"
LONGER = " A longer --budget would tell."


def in_plain_words(climb: Climb) -> str:
    """Whether to fine-tune, and why, in the first sentence; then the scores. Scores of one split alone."""
    scored = {result.rung: result for result, _ in measured(climb)}
    tuned = [result for name, result in scored.items() if rung_of(name) in TRAINED]
    others = [result for name, result in scored.items() if rung_of(name) not in TRAINED]
    chosen = scored.get(climb.decision.chosen or "")
    if chosen is not None and climb.constant is not None and not climb.constant.beaten:
        return _no_better(climb, chosen, climb.constant, scored)
    if chosen is None:
        return f"Whether fine-tuning pays can't be told from these rows: {_why_none(climb)}."
    if not tuned:
        return _untried(climb, chosen)
    if climb.decision.kind == "undecided":
        return _undecided(climb, chosen, scored)
    if rung_of(chosen.rung) in TRAINED:
        return _pays(climb, chosen, [one for one in others if not _broke(one, scored.values())])
    return _does_not(chosen, tuned, scored)


def _no_better(climb: Climb, chosen: RungResult, constant: Constant, scored: dict[str, RungResult]) -> str:
    """The rung to ship isn't above the floor, so whether to fine-tune isn't the question yet."""
    ours = _part(chosen)
    always = _scores(replace(ours, score=constant.score))
    odds = "" if constant.gain <= 0 else ", which may be chance on these rows"
    floor = f"always giving one and the same answer {always}, {_way(chosen)} {_also(ours)}{odds}"
    over = [one for one in scored.values() if one.over_limits]
    outside = [one for one in over if _sign(one) * (_part(one).score - ours.score) > 0]
    tuned = [one for one in scored.values() if rung_of(one.rung) in TRAINED]
    if outside or not tuned:
        said = f"{_as_little(tuned)}{NO_JOB}: {floor}."
        if not outside:
            return _capital(said)
        best = _best(outside)
        return f"{_capital(said)} {_way(best, begins=True)} {_scores(_part(best))}, but is over the limits."
    undecided = _undecided(climb, chosen, scored) if climb.decision.kind == "undecided" else ""
    rival = scored.get(climb.decision.best or "", chosen)
    if undecided and not all(rung_of(one.rung) in TRAINED for one in (chosen, rival)):
        return f"{undecided} {_capital(NO_JOB)}: {floor}."
    best = _likeliest(tuned)
    so_far = "" if best.over_limits else _so_far(best)
    more = LONGER if so_far else ""
    return f"{_as_little(tuned)}{NO_JOB}: {floor}{so_far}.{more}{undecided and f' {undecided}'}"


def _as_little(tuned: Collection[RungResult]) -> str:
    """That fine-tuning wins no more than the others do, up to why; nothing where no tune was scored."""
    if not tuned:
        return ""
    if all(one.over_limits for one in tuned):
        return f"Fine-tuning doesn't win here, as {LIMITS}, and "
    return "Fine-tuning isn't shown to pay here, as "


def _why_none(climb: Climb) -> str:
    """Why there is no verdict."""
    if climb.n_test < MIN_ROWS:
        return f"a verdict needs {MIN_ROWS} test rows, and there are {climb.n_test}"
    picked = next((one for one in climb.results if one.rung == climb.dev_decision.chosen), None)
    if picked is not None and is_untested(picked):
        return f"{_way(picked)}, the choice on dev, has no test score"
    scored = [one for one, _ in measured(climb)]
    if not scored:
        return "nothing that was tried has a score"
    if all(one.over_limits or one.stopped for one in scored):
        return "nothing that was tried is inside the limits that were set"
    return f"nothing inside the limits answered the {MIN_ROWS} rows that a verdict needs"


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
    """A cheaper rung ships: the tune is out, was stopped, or isn't clearly better."""
    if all(one.over_limits for one in tuned):
        return f"{_out(tuned)}."
    best = _likeliest(tuned)
    said = f"Fine-tuning doesn't pay here{_because(chosen, best, scored)}."
    more = LONGER if _so_far(best) else ""
    if best.stopped is not None:
        return (
            f"{said} The tuned model was stopped early, when it could no longer beat "
            f"{_way(scored.get(best.stopped.rival, chosen))}.{more}"
        )
    ours, theirs = _same_split(chosen, best)
    return (
        f"{said} {_way(chosen, begins=True)} {_scores(ours)}, the tuned model "
        f"{_also(theirs)}{_no_gain(chosen, best, ours, theirs)}.{more}"
    )


def _out(tuned: Sequence[RungResult]) -> str:
    """That no tune may win for the limits, without the end of the sentence."""
    return f"Fine-tuning doesn't win here: {LIMITS} ({clean('; '.join(tuned[0].over_limits))})"


def _because(chosen: RungResult, best: RungResult, scored: Mapping[str, RungResult]) -> str:
    """Why the best tune doesn't beat a rung without training: likely reasons, or too little time to tell."""
    so_far = _so_far(best)
    if chosen.gap == "knowledge":
        reason = FACTS
    elif _broke(best, scored.values()):
        reason = "too many of the tuned model's calls broke"
    elif so_far:
        reason = f"the tuned model isn't clearly better than {_way(chosen)}"
    else:
        reason = REASONS.get(rung_of(chosen.rung), f"{_way(chosen)} brings as much")
    return f"{' in the time it had' if so_far else ''}: {reason}{so_far}"


def _no_gain(chosen: RungResult, other: RungResult, ours: Measurement, theirs: Measurement) -> str:
    """That a dearer rung's higher score is no clear gain, and what an answer of it costs."""
    dearer = ""
    if chosen.usd_per_1000 > 0 and other.usd_per_1000 > CLEARLY_CHEAPER * chosen.usd_per_1000:
        dearer = f", at {_times(other.usd_per_1000 / chosen.usd_per_1000)} the price of an answer"
    chance = ", no clear gain" if _sign(other) * (theirs.score - ours.score) > 0 else ""
    if chance and theirs.failures > ours.failures:
        chance = f", but {theirs.failures:,} of its calls broke"
    return f"{chance}{dearer}"


def _so_far(tuned: RungResult) -> str:
    """The end of a sentence where a tune may have had more to learn than its time allowed."""
    if not tuned.cut_short or tuned.passes is None:
        return ""
    return f"; training ended {passes_text(tuned.passes)}, and more time may change that"


def _unfinished(tuned: RungResult) -> str:
    """A sentence where a tune may have had more to learn than its time allowed."""
    if not tuned.cut_short or tuned.passes is None:
        return ""
    ended = f"Its training ended for want of time, {passes_text(tuned.passes)}"
    return f" {ended}, and may have had more to learn: a longer --budget would tell."


def _undecided(climb: Climb, chosen: RungResult, scored: dict[str, RungResult]) -> str:
    best = scored.get(climb.decision.best or "", chosen)
    more = ""
    if climb.decision.rows_needed is not None:
        rows = to_label(climb.decision.rows_needed, test_given=climb.test_given)
        more = f"; labelling {rows} would tell"
    elif _unchecked(climb):
        more = "; first people have to check the judge"
    ways = [rung_of(one.rung) in TRAINED for one in (chosen, best)]
    if all(ways):
        return f"Which way is best can't be told yet{more}."
    if any(ways):
        ours, theirs = _same_split(chosen, best)
        return (
            f"Whether fine-tuning pays can't be told yet: {_way(chosen)} {_scores(ours)}, {_way(best)} "
            f"{_also(theirs)}{_why_open(climb, chosen, best)}{more}."
            f"{_unfinished(best if ways[1] else chosen)}"
        )
    if _unchecked(climb):
        return f"Whether fine-tuning pays can't be told yet{more}."
    tuned = [one for one in scored.values() if rung_of(one.rung) in TRAINED]
    if all(one.over_limits for one in tuned):
        said = _out(tuned)
    else:
        said = f"Fine-tuning isn't shown to pay here{_because(best, _likeliest(tuned), scored)}"
    return f"{said}. Which way to take instead can't be told yet{more}."


def _unchecked(climb: Climb) -> bool:
    """Whether a judge decides nothing yet, as people haven't shown that it can be trusted."""
    found = climb.judged and climb.judged.agreement
    return climb.judged is not None and not (found and found.enough)


def _why_open(climb: Climb, chosen: RungResult, best: RungResult) -> str:
    """What keeps a verdict open between a tune and another way."""
    decision = climb.decision
    if decision.rows_needed is not None:
        return ", which may be chance"
    if _unchecked(climb):
        return ""
    if decision.between:
        return ", a gain too small to win and too large to be none"
    if is_untested(best):
        return f", but {_way(best)} has no test score"
    if any((c.cheaper, c.dearer) == (chosen.rung, best.rung) for c in decision.comparisons):
        return ", but all rows are of one group or question, and one alone shows no gain"
    return ", but too few rows were answered by both to compare them"


def _untried(climb: Climb, chosen: RungResult) -> str:
    """No tuned model has a score."""
    tried = [r for r in climb.results if rung_of(r.rung) in TRAINED]
    why = clean(tried[0].skipped or tried[0].failed or "") if tried else "no rung that trains was climbed"
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


def _likeliest(tuned: Sequence[RungResult]) -> RungResult:
    """The best tune inside the limits that wasn't stopped, where there are such."""
    inside = [one for one in tuned if not one.over_limits] or list(tuned)
    return _best([one for one in inside if not one.stopped] or inside)


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
    return _capital(text) if begins else text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


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
