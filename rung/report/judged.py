"""What a report says of a judge: who it was, if people agree with it, and what lies behind its scores."""

from rung.climb.content import planted_text
from rung.climb.judging import agreement_text
from rung.evaluate import OTHER_CONTENT
from rung.records import Climb, Interval
from rung.records.judged import ContentJudged, Judged, JudgedRung
from rung.report.notation import count_text, usd_text
from rung.scoring.notation import interval_text, percent_text, percents_text, score_text


def judged_notes(climb: Climb) -> list[tuple[str, str]]:
    """(term, text) of the judge; nothing where no answer was judged."""
    judged = climb.judged
    if climb.content_judged is not None:
        return _content_notes(climb, climb.content_judged)
    if judged is None:
        return []
    tested = {one.rung for one in judged.rungs if one.split == "test"}
    shown = [one for one in judged.rungs if one.split == "test" or one.rung not in tested]
    return [
        ("Judge", _judge_text(judged)),
        ("Human verdicts", _human_text(judged)),
        *((f"Judged {one.rung}", judged_text(one)) for one in shown),
    ]


def _content_notes(climb: Climb, judged: ContentJudged) -> list[tuple[str, str]]:
    """Who looked at the content, how that one did when it was tried, and whose answers it took out."""
    said = (
        f"{_named(judged)}, asked of {count_text(judged.texts, 'answer')} that the sentence vectors let "
        f"through: {judged.other:,} say something else than their rows' outputs"
    )
    if judged.broken:
        said += f"; no verdict on {judged.broken:,} more, which stay as the vectors have them"
    said += f"; {planted_text(judged.planted)}"
    shown = [(result.rung, found) for result in climb.results if (found := result.test or result.dev)]
    return [
        ("Judge of content", f"{said}; paid {usd_text(judged.paid_usd)}" if judged.paid_usd else said),
        *(
            (
                f"Content of {rung}",
                f"the judge takes {percent_text(dict(found.secondary)[OTHER_CONTENT])} of its {found.n:,} "
                f"{found.split} answers for other content, which the vectors let through",
            )
            for rung, found in shown
        ),
    ]


def _named(judged: Judged | ContentJudged) -> str:
    hosted = judged.digest.startswith("endpoint:")
    return f"{judged.model} ({judged.digest.removeprefix('endpoint:') if hosted else judged.digest[:12]})"


def _judge_text(judged: Judged) -> str:
    said = f"{_named(judged)}, {count_text(judged.pairs, 'pair')} judged in both orders"
    if judged.pairs:
        said += f", {percent_text(judged.steady / judged.pairs)} alike in both"
    if judged.broken:
        said += f"; no verdict on {judged.broken:,} more"
    return f"{said}; paid {usd_text(judged.paid_usd)}" if judged.paid_usd else said


def _human_text(judged: Judged) -> str:
    found = judged.agreement
    if found is None or not found.rows:
        return agreement_text(found)
    return f"{agreement_text(found)}; 95 %: {percents_text(Interval(low=found.low, high=found.high))}"


def judged_text(one: JudgedRung) -> str:
    """A rung's judged score with the lengths behind it, and what people's verdicts make of it."""
    said = f"{score_text(one.score, 'judge')} on {one.rows:,} {one.split} rows"
    if one.pairs:
        said += (
            f"; {one.words:.0f} words an answer, {one.reference_words:.0f} an output; both orders alike on "
            f"{percent_text(one.steady / one.pairs)}"
        )
    if one.similar is not None:
        said += f"; {score_text(one.similar, 'judge')} on the {one.similar_pairs:,} of similar length"
    if one.corrected is not None:
        fixed = one.corrected
        interval = interval_text(Interval(low=fixed.low, high=fixed.high), "judge")
        said += (
            f"; corrected by {fixed.checked:,} human verdicts {score_text(fixed.score, 'judge')} ({interval})"
        )
    return said
