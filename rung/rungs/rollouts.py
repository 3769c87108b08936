"""Answers that a model in training draws to training prompts, as it will be asked, and what they earn."""

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rung.asking import answer_of_completion, request_for
from rung.engines.base import Completion, Request
from rung.errors import TrainingError
from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.rendered import rendered
from rung.rungs.rewards import reward
from rung.rungs.tune import Tune
from rung.scoring.notation import percent_text
from rung.spec import Spec
from rung.training.batches import Row
from rung.training.onpolicy import Drawn, gains_of

GROUP = 8
"""Answers to a prompt, as TRL draws them."""
TEMPERATURE = 1.0
SPREAD = 1e-6
"""Rewards that differ by less are equal."""
ZERO_STEPS = 20
EVEN_STEPS, MOST_EVEN = 10, 0.8
"""A course ends where so many steps in a row earned nothing, or where over so many steps a larger share of
the groups had no spread."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Training rows that fit the model, with their prompts and the row's own answer, side by side."""

    spec: Spec
    examples: Sequence[Example]
    rows: Sequence[Row]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """What was drawn to one prompt, and the reward of each."""

    requests: tuple[Request, ...]
    completions: tuple[Completion, ...]
    rewards: tuple[float, ...]

    @property
    def whole(self) -> bool:
        """Whether no call broke."""
        return all(one.failure is None for one in self.completions)

    @property
    def mixed(self) -> bool:
        """Whether the rewards differ: only then is there anything to learn."""
        return max(self.rewards) - min(self.rewards) > SPREAD


def prompts_to_draw(context: Context, spec: Spec) -> Prompts:
    """The training rows whose prompts leave room for an answer."""
    pairs = zip(context.train, rendered(context, spec, context.train), strict=True)
    fit = [(e, row) for e, row in pairs if row.tokens < context.limit]
    return Prompts(
        spec=spec,
        examples=[e for e, _ in fit],
        rows=[row for _, row in fit],
        left_out=len(context.train) - len(fit),
    )


def drawn_groups(state: Tune, given: Prompts, items: Sequence[int], place: str) -> list[Group]:
    """GROUP answers to each of these items, with the model as it is now, and what each earns."""
    asked, found = drawn_answers(state, given, items, place, GROUP)
    groups = []
    for item, requests, drawn in zip(items, asked, found, strict=True):
        example, metric = given.examples[item], state.context.bench.metric
        answers = [answer_of_completion(given.spec, one, example.context) for one in drawn]
        rewards = tuple(reward(answer, example, metric) for answer in answers)
        groups.append(Group(requests=requests, completions=drawn, rewards=rewards))
    return groups


def drawn_answers(
    state: Tune, given: Prompts, items: Sequence[int], place: str, count: int
) -> tuple[list[tuple[Request, ...]], list[tuple[Completion, ...]]]:
    """`count` requests for each of these items and what the model, as it is now, answers to them.

    They ask as the System asks: the same prompt, tokens to stop at, limit and schema, but at a temperature.
    The same `place` draws the same.
    """
    asked = [_requests(state, given, item, place, count) for item in items]
    found = iter(state.engine.generate([request for group in asked for request in group]))
    return asked, [tuple(next(found) for _ in group) for group in asked]


def _requests(state: Tune, given: Prompts, item: int, place: str, count: int) -> tuple[Request, ...]:
    dice = random.Random(f"{state.plan.seed}/{place}/{item}")
    plain = request_for(given.spec, state.chat, given.rows[item].prompt, given.examples[item].context)
    return tuple(replace(plain, temperature=TEMPERATURE, seed=dice.getrandbits(32)) for _ in range(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class Yield:
    """What groups of answers were like: means over them, the tokens of an answer as drawn among these.

    `mixed` is the share of groups with unlike rewards, `cut` that of answers which the token limit ended.
    """

    groups: int
    reward: float
    mixed: float
    tokens: float
    cut: float


def yield_of(groups: Sequence[Group]) -> Yield:
    """Of the groups in which no call broke. Raises TrainingError where there is none."""
    whole = [group for group in groups if group.whole]
    if not whole:
        broken = groups[0].completions[0].failure if groups else "there was none"
        raise TrainingError(f"no answer could be drawn to the training prompts: {broken}")
    answers = [one for group in whole for one in group.completions]
    return Yield(
        groups=len(whole),
        reward=statistics.fmean(value for group in whole for value in group.rewards),
        mixed=statistics.fmean(group.mixed for group in whole),
        tokens=statistics.fmean(len(one.drawn) for one in answers),
        cut=statistics.fmean(one.truncated for one in answers),
    )


def red_flag(steps: Sequence[dict]) -> str | None:
    """Why it's no use to draw on, by what the steps so far gave (`Yield`s as a journal keeps them)."""
    if len(steps) >= ZERO_STEPS and not any(one["reward"] for one in steps[-ZERO_STEPS:]):
        return f"no answer earned anything in {ZERO_STEPS} steps"
    if len(steps) < EVEN_STEPS:
        return None
    even = 1 - statistics.fmean(one["mixed"] for one in steps[-EVEN_STEPS:])
    if even > MOST_EVEN:
        return (
            f"over {EVEN_STEPS} steps all answers earned the same in {percent_text(even)} of the groups, "
            f"more than {percent_text(MOST_EVEN)}: there's too little to learn from"
        )
    return None


def lesson_of(state: Tune, groups: Sequence[Group]) -> list[Drawn]:
    """The answers that teach anything: those of groups with unlike rewards, each once.

    Of an answer that the limit cut off the tokens that were drawn are learned from, and not those that closed
    it: the limit is the System's own, so what is rewarded is what it would have answered. DAPO leaves such
    answers out. Where that was tried on numbers of three tokens, being cut off cost a wrong answer nothing:
    in 20 steps the share that was rose from 4 to 43 %, and from 3 to 2 % as it is done here.
    """
    found = []
    for group in groups:
        if not group.whole or not group.mixed:
            continue
        gains = zip(group.completions, gains_of(group.rewards), strict=True)
        # What was drawn several times earns the same each time, so it's read once.
        counts = Counter((one.drawn, gain) for one, gain in gains)
        for (tokens, gain), count in counts.items():
            allowed = state.engine.let_through(group.requests[0], tokens)
            row = Row(prompt=group.requests[0].prompt, answer=tokens)
            found.append(Drawn(row=row, count=count, advantage=gain, allowed=allowed))
    return found
