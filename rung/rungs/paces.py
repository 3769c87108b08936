"""How fast a rung's variants answer, from their first dev rows, and what follows for a screening."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from rung import evaluate
from rung.errors import EngineError
from rung.evaluate import CHUNK, LOOK_ROWS, PACED_ROWS, Pace, timed_s
from rung.records import Json
from rung.rungs.base import Context, Variant
from rung.runs import digest_of

SCREEN_ROWS = 100
FEWEST_SCREENED = 20
PILOTS_S, PILOTS_SHARE, FIRST_SHARE = 40.0, 0.2, 0.5
"""Of the first variant and of all others together, at most, and of the rung's time in all: where answers are
slow, each answers fewer rows to tell its pace. Rows of a variant that there's time for are asked in any case:
to them the share alone holds, and to those of the first one half of the time; what is paid for waits."""
SLACK = 1.2
"""By so much a pass over rows may take longer than its pace says: it's begun only if it fits even then."""


def paces(context: Context, variants: Sequence[Variant]) -> list[Pace | None]:
    """How fast each variant answers, from its first dev rows; None where the engine broke. Settled once.

    The first one, which is tried whatever the time, may have all the time for this: by its fuller batches
    those of the others are told, too. One that there is no time for by the quickest so far isn't asked.
    """

    def measured() -> Json:
        found: list[tuple[Variant, Pace | None]] = []
        end_s = (1 - PILOTS_SHARE) * context.seconds_left
        for place, variant in enumerate(variants):
            known = [(one, pace) for one, pace in found if pace is not None]
            quickest = min((pace for _, pace in known), key=lambda pace: pace.row_s, default=None)
            if quickest and not _fits(context, variant, replace(quickest, asked=0), quickest):
                found.append((variant, replace(quickest, asked=0)))
                continue
            parts = len(variants) - place if known else 1
            found.append((variant, _pace(context, variant, known, end_s, parts)))
        return [pace and asdict(pace) for _, pace in found]

    what, kind = "seconds per answer", TypeAdapter(list[Pace | None])
    kept = kind.validate_python(context.settled(what, measured))
    if len(kept) != len(variants):
        # Told of others: whether a model reflects may have changed since, with a key that is set now.
        names = digest_of([variant.name for variant in variants])[:12]
        kept = kind.validate_python(context.settled(f"{what}, {names}", measured))
    return kept


def by_name(context: Context, variants: Sequence[Variant]) -> dict[str, Pace | None]:
    """The same by the variants' names."""
    return dict(zip((variant.name for variant in variants), paces(context, variants), strict=True))


def _pace(
    context: Context, variant: Variant, known: Sequence[tuple[Variant, Pace]], end_s: float, parts: int
) -> Pace | None:
    """The variant's pace, in one of so many parts of the time until `end_s` are left; None where it broke."""
    spare_s = max(0.0, context.seconds_left - end_s)

    def is_tried(found: Pace) -> bool:
        """Whether all rows up to the first look are asked anyway, and may be asked now."""
        own = bounded(context, variant, found, known)
        quickest = min((own, *(pace for _, pace in known)), key=lambda pace: pace.row_s)
        rest_s = own.seconds(min(PACED_ROWS, len(context.dev)) - own.asked, batch_of(context))
        if not known and not variant.system.is_hosted:
            return rest_s <= FIRST_SHARE * context.seconds_left
        return rest_s <= context.seconds_left - end_s and _fits(context, variant, own, quickest)

    bar = context.reporter.begin(f"{variant.name}: how fast it answers", None)
    try:
        found = evaluate.pace(
            variant.system, context.dev, context.bench, min(PILOTS_S, spare_s) / parts, is_tried
        )
    except EngineError:
        return None
    finally:
        context.reporter.end(bar)
    return bounded(context, variant, found, known)


def _fits(context: Context, variant: Variant, own: Pace, quickest: Pace) -> bool:
    """Whether there is time for a variant up to the first look, and for the best on the other dev rows."""
    batch, first = batch_of(context), min(PACED_ROWS, len(context.dev))
    rest_s = quickest.seconds(len(context.dev) - first, batch)
    seconds = own.seconds(first - own.asked, batch) + rest_s
    return SLACK * seconds + timing_s(context, variant, own) <= context.seconds_left


def bounded(context: Context, variant: Variant, own: Pace, others: Sequence[tuple[Variant, Pace]]) -> Pace:
    """A variant's pace, as the fuller batches of another one, whose prompts are alike, allow.

    A row of a batch takes what its tokens take. Where it has more of them than with the other variant, it
    takes at most so many times as much, by the prompt or by the answer, or what makes it slower alone: the
    larger of the two. It takes no less than the fewer tokens do: by a few rows, beside one long answer that
    was asked alone, those of a batch seem to take nothing.
    """
    fuller = [
        (other, pace)
        for other, pace in others
        if pace.asked and pace.batch >= 2 * own.batch and _alike(variant, other)
    ]
    if not fuller:
        return own
    other, pace = max(fuller, key=lambda one: one[1].batch)
    tokens = list(zip(_tokens(context, variant, other), _tokens(context, other, variant), strict=True))
    if not any(theirs for _, theirs in tokens) or any(ours and not theirs for ours, theirs in tokens):
        return own
    shares = [ours / theirs for ours, theirs in tokens if theirs]
    least, times = min(shares), max(1.0, *shares)
    judging_s, slower_s = context.bench.judging_s, max(0.0, own.alone_s - pace.alone_s)
    row_s = max(times * (pace.row_s - judging_s), pace.row_s - judging_s + slower_s) + judging_s
    least_s = min(1.0, least) * (pace.row_s - judging_s) + judging_s
    return replace(own, row_s=max(least_s, min(own.row_s, row_s)))


def _alike(one: Variant, other: Variant) -> bool:
    """Whether prompts differ from row to row by the same: else few tokens may be many that none share."""
    ours, theirs = one.system.spec, other.system.spec
    return ours.shots.choice == theirs.shots.choice and (ours.retrieval is None) == (theirs.retrieval is None)


def _tokens(context: Context, variant: Variant, other: Variant) -> tuple[int, int]:
    """The tokens of a variant's prompts and answers, on the dev rows that another one answered, too."""
    ours, theirs = (context.bench.store.load(one.system.digest) for one in (variant, other))
    answers = [ours[e.id].answer for e in context.dev if e.id in ours and e.id in theirs]
    return sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers)


def batch_of(context: Context) -> int:
    """How many rows are asked together: as many as lie between two looks where there is a rival."""
    return LOOK_ROWS if context.rival else CHUNK


def batched_s(context: Context, pace: Pace, rows: int) -> float:
    """Seconds of one of so many rows that are asked in batches."""
    full = min(batch_of(context), rows)
    return pace.seconds(full, full) / full


def rows_to_screen(context: Context, variants: Sequence[Variant], most: int = SCREEN_ROWS) -> int:
    """How many dev rows to screen on: what half the time allows at the variants' pace, and some at least."""

    def rows() -> int:
        seconds = max(sum(pace.row_s for pace in paces(context, variants) if pace), 1e-6)
        few = int(min(most, max(FEWEST_SCREENED, context.seconds_left / 2 / seconds)))
        # To whole looks, so that a variant can be stopped by all that it was asked.
        return max(1, few // LOOK_ROWS) * LOOK_ROWS if context.rival else few

    found = context.settled("rows to screen on", rows)
    assert isinstance(found, int), "written by this function"
    return min(found, len(context.dev))


def closing_s(context: Context, variants: Sequence[Variant]) -> float:
    """What the timing of single requests will take, with the slowest of the variants."""
    found = zip(variants, paces(context, variants), strict=True)
    return max((timing_s(context, variant, pace) for variant, pace in found if pace), default=0.0)


def timing_s(context: Context, variant: Variant, pace: Pace) -> float:
    """What the timing of single requests will take with a variant; nothing where they are paid for.

    The one answer that was asked alone may have been short: by its tokens one of the usual length takes
    longer, and none takes less alone than among others. Where these have a judge's time in them, as it was
    then, that can't be told.
    """
    alone_s = max(pace.alone_s, pace.typical_s)
    row_s = alone_s if context.bench.is_judged else max(alone_s, pace.row_s)
    return 0.0 if variant.system.is_hosted else timed_s(row_s)
