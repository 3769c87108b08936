"""The parity gate: an export answers the rows that its System answers, and has to give the same.

It passes where no call fails and two things are shown on the rows, not merely seen: that the score falls by
less than five points (one-sided 95 % bound of the paired difference: Bonett-Price for right and wrong), and
that nine in ten answers or more are the same (lower end of the 95 % Wilson interval). For written answers, in
which one other token changes all that follow, the second is asked of single tokens: at places inside the
System's own answers, both choose the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from rung.asking import context_of, prompts_for, room_for_answer
from rung.engines.base import Engine, EngineSpec
from rung.errors import EngineError, TrainingError
from rung.records import Answer, Example, Interval, Measurement, MetricName
from rung.scoring import stats
from rung.scoring.measure import measurement
from rung.scoring.notation import score_text
from rung.scoring.paired import Pair, gain, gain_interval, pair_up
from rung.ship.subject import Subject
from rung.ship.ways import WAYS, WayName
from rung.system import Pool
from rung.task.draws import drawn_with
from rung.wording import question

Tokens: TypeAlias = tuple[int, ...]

MARGIN: Final = 0.05
"""Of a whole row's worth. Where all answers are the same, 45 rows show that less is lost. Two points, which a
climb asks of a cheaper rung, would take 115 rows, and some 700 once one row in ten comes out otherwise."""
LEAST_AGREEMENT: Final = 0.90
ROWS: Final = 200
"""Rows that are asked by default: five of them may be lost. Of 50, none may."""
TOKEN_ROWS: Final = 20
SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The rows of a gate, the metric of their task, and which rows they are, in words."""

    examples: tuple[Example, ...]
    metric: MetricName
    told: str


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An export as the engine loads it that would run it.

    `prompts` makes prompt ids of questions by what the export itself holds of the prompt. Of several `ways`
    to ask it, the one that agrees best with the System is the export's.
    """

    engine: EngineSpec
    prompts: Callable[[Engine, Sequence[str]], list[Tokens]]
    ways: tuple[WayName, ...] = ("as_served",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A score on the gate's rows with its 95 % interval."""

    score: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What was compared, and whether it passed: `faults` say why not, `notes` what to know all the same.

    `same` of `compared` answers are the same (of next tokens, where `tokens`), `prompts_same` of `rows`
    prompts. `loss_bound` is the most that the score falls, one-sided at 95 %, in the metric's units like
    `margin`.
    """

    passed: bool
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    rows: int
    told: str
    metric: MetricName
    engine_before: str
    engine_after: str
    way: WayName
    before: Score
    after: Score
    broken: int
    prompts_same: int
    same: int
    compared: int
    tokens: bool
    same_answers: int
    agreement: Interval
    least_agreement: float
    gain: float
    gain_interval: Interval
    loss_bound: float
    margin: float


def prove(subject: Subject, loaded: Loaded, asked: Asked, pool: Pool) -> Gate:
    """Ask the System and its export the same rows. EngineError where either can't answer at all."""
    spec, chat, rows = subject.spec, subject.chat, list(asked.examples)
    before = subject.system.answer(rows, pool)
    limit = context_of(subject.model) - room_for_answer(spec, chat)
    sent = prompts_for(spec, chat, rows, [subject.shots for _ in rows], limit)
    engine = pool.engine(loaded.engine)
    prompts = loaded.prompts(engine, [question(row) for row in rows])
    tried = {way: WAYS[way](spec, chat, engine, prompts) for way in loaded.ways}
    way = max(loaded.ways, key=lambda name: sum(map(_same, before, tried[name])))
    same, compared = sum(map(_same, before, tried[way])), len(rows)
    tokens = spec.kind != "label"
    if tokens:
        same, compared = _same_tokens(subject, pool, engine, sent, before)
    seen = Seen(
        engines=(spec.engine_said, loaded.engine.engine),
        way=way,
        prompts_same=sum(map(tuple.__eq__, sent, prompts)),
        same=same,
        compared=compared,
        tokens=tokens,
    )
    return judge(asked, before, tried[way], seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a gate saw beside the answers; see Gate."""

    engines: tuple[str, str]
    way: WayName
    prompts_same: int
    same: int
    compared: int
    tokens: bool


def judge(asked: Asked, before: Sequence[Answer], after: Sequence[Answer], seen: Seen) -> Gate:
    """The verdict on answers to the same rows, in order. EngineError where either answered none of them."""
    first, second = (_measured(asked, given, name) for given, name in ((before, "before"), (after, "after")))
    pair = _pair(asked, first, second)
    gained, agreement = gain(pair), stats.wilson(seen.same, seen.compared)
    loss_bound, margin = -gain_interval(pair, SEED, level=0.9).low, MARGIN * pair.unit
    broken = sum(b.failure is None and a.failure is not None for b, a in zip(before, after, strict=True))
    faults = []
    if broken:
        faults.append(f"{broken:,} calls broke that the System answers")
    if not loss_bound < margin:
        faults.append(
            f"a fall of the score by {score_text(margin, asked.metric)} can't be ruled out: it may be up to "
            f"{score_text(loss_bound, asked.metric)} with {pair.n:,} rows"
        )
    if agreement.low < LEAST_AGREEMENT:
        what = "next tokens" if seen.tokens else "answers"
        faults.append(
            f"{seen.same:,} of {seen.compared:,} {what} are the same, which may be "
            f"{100 * agreement.low:.1f} % of all; at least {100 * LEAST_AGREEMENT:.0f} % have to be"
        )
    return Gate(
        passed=not faults,
        faults=tuple(faults),
        notes=_notes(seen.prompts_same, len(asked.examples)),
        rows=len(asked.examples),
        told=asked.told,
        metric=asked.metric,
        engine_before=seen.engines[0],
        engine_after=seen.engines[1],
        way=seen.way,
        before=Score(score=first.score, interval=first.interval),
        after=Score(score=second.score, interval=second.interval),
        broken=broken,
        prompts_same=seen.prompts_same,
        same=seen.same,
        compared=seen.compared,
        tokens=seen.tokens,
        same_answers=sum(map(_same, before, after)),
        agreement=agreement,
        least_agreement=LEAST_AGREEMENT,
        gain=gained,
        gain_interval=gain_interval(pair, SEED),
        loss_bound=loss_bound,
        margin=margin,
    )


def _notes(same: int, rows: int) -> tuple[str, ...]:
    if same == rows:
        return ()
    return (
        f"{rows - same:,} of {rows:,} prompts aren't the System's own, token for token: the template or the "
        "tokenizer of the export makes others of the same texts",
    )


def _measured(asked: Asked, answers: Sequence[Answer], name: str) -> Measurement:
    return measurement(
        system=name, split="dev", metric=asked.metric, examples=asked.examples, answers=answers
    )


def _pair(asked: Asked, before: Measurement, after: Measurement) -> Pair:
    rows = asked.examples
    pair = pair_up(before, after, targets={row.id: row.output for row in rows}, groups=drawn_with(rows))
    if not pair.n:
        raise EngineError("no row was answered by both the System and its export; mend that and run again")
    return pair


def _same(before: Answer, after: Answer) -> bool:
    """Whether both calls held and say the same: the same value, or the same text where none can be read."""
    if before.failure is not None or after.failure is not None:
        return False
    if before.value is None and after.value is None:
        return before.text.strip() == after.text.strip()
    return before.value == after.value


def _same_tokens(
    subject: Subject, pool: Pool, engine: Engine, prompts: Sequence[Tokens], before: Sequence[Answer]
) -> tuple[int, int]:
    """How many next tokens both choose alike inside the System's first answers, and how many were asked."""
    from rung.training import parity

    chat, spec = subject.chat, subject.spec
    answered = [
        (prompt, chat.answer_ids(answer.text, spec.style))
        for prompt, answer in zip(prompts, before, strict=True)
        if answer.failure is None
    ][:TOKEN_ROWS]
    options = parity.single_tokens([answer for _, answer in answered])
    places = parity.positions(answered, parity.per_row([prompt for prompt, _ in answered]))
    fitting = [place for place in places if len(place) < context_of(subject.model)]
    keep, pool.keep = pool.keep, None  # both are asked at once: neither makes room for the other
    try:
        found = parity.compare(subject.system.open(pool), engine, fitting, options)
    except TrainingError as error:
        raise EngineError(f"the export can't be compared: {error}") from None
    finally:
        pool.keep = keep
    return round(found.agreement * found.agreement_rows), found.agreement_rows
