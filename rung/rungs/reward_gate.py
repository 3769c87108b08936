"""Whether reward has anything to teach: what a few answers to some prompts earn before the first step."""

import random
import statistics
import time
from dataclasses import asdict, dataclass

from rung.rungs.rollouts import GROUP, Prompts, drawn_groups, yield_of
from rung.rungs.tune import Arm, Tune
from rung.scoring.notation import duration_text, percent_text

MOST_PROMPTS, FEWEST_PROMPTS = 100, 30
CHUNK = 10
TIME_SHARE, MOST_TIME_SHARE = 0.15, 0.5
"""Of the rung's time: after the first no more prompts are asked than the fewest, and those take the second at
most."""
LEAST_MIXED = 0.3
LEAST_REWARD, MOST_REWARD = 0.05, 0.9


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Of so many prompts: the mean reward, and the share with unlike rewards."""

    prompts: int
    reward: float
    mixed: float
    asked_s: float
    out_of_time: bool = False

    @property
    def said(self) -> str:
        """The figures."""
        return (
            f"of {self.prompts} training prompts with {GROUP} answers each {percent_text(self.mixed)} had "
            f"answers with unlike rewards, and the mean reward was {self.reward:.3f}"
        )

    @property
    def refusal(self) -> str | None:
        """Why it's no use to go on; None where it is."""
        if self.out_of_time:
            return (
                f"{GROUP} answers to {self.prompts} prompts took {duration_text(self.asked_s)}, and "
                f"{FEWEST_PROMPTS} are needed to tell whether reward can teach anything; raise --budget"
            )
        if self.prompts < FEWEST_PROMPTS:
            return f"{self.prompts} training prompts can be answered; at least {FEWEST_PROMPTS} are needed"
        if self.reward < LEAST_REWARD:
            why = (
                f"under {LEAST_REWARD:g} right answers are too rare to learn from; sft needs more rows first"
            )
        elif self.reward > MOST_REWARD:
            why = f"over {MOST_REWARD:g} there's next to nothing left to learn from"
        elif self.mixed < LEAST_MIXED:
            least = percent_text(LEAST_MIXED)
            why = f"under {least} too many answers earn what the others to their prompt do, and teach nothing"
        else:
            return None
        return f"{self.said}: {why}"


def gate(state: Tune, arm: Arm, given: Prompts) -> Gate:
    """Draw answers with the adapter that is gone on from, a few prompts at a time; kept in the journal."""
    order = list(range(len(given.rows)))
    random.Random(f"{state.plan.seed}/gate").shuffle(order)
    chosen = order[:MOST_PROMPTS]
    state.trainer(arm)
    bar = state.context.reporter.begin("reinforce: what answers to training prompts earn", len(chosen))
    chunks: list[dict] = []
    try:
        for first in range(0, len(chosen), CHUNK):
            if chunks and _enough(chunks, state.plan.budget_s):
                break
            chunks.append(_chunk(state, given, chosen[first : first + CHUNK], first))
            state.context.reporter.advance(bar, first + CHUNK)
    finally:
        state.context.reporter.end(bar)
    asked = sum(one["groups"] for one in chunks)

    def mean(name: str) -> float:
        return sum(one["groups"] * one[name] for one in chunks) / asked

    return Gate(
        prompts=asked,
        reward=mean("reward"),
        mixed=mean("mixed"),
        asked_s=sum(one["seconds"] for one in chunks),
        out_of_time=_hopeless(chunks, state.plan.budget_s),
    )


def _chunk(state: Tune, given: Prompts, items: list[int], first: int) -> dict:
    known = state.find(kind="gate", first=first)
    if known is None:
        begun = time.perf_counter()
        found = yield_of(drawn_groups(state, given, items, "gate"))
        seconds = time.perf_counter() - begun
        known = state.note({"kind": "gate", "first": first, "seconds": seconds, **asdict(found)})
    return known


def _enough(chunks: list[dict], budget_s: float) -> bool:
    """Whether the time, by what is in the journal, allows no more prompts."""
    asked, spent_s = CHUNK * len(chunks), sum(one["seconds"] for one in chunks)
    if asked < FEWEST_PROMPTS:
        return _hopeless(chunks, budget_s)
    return spent_s > TIME_SHARE * budget_s


def _hopeless(chunks: list[dict], budget_s: float) -> bool:
    """Whether the fewest prompts would take too long."""
    asked = CHUNK * len(chunks)
    each_s = statistics.fmean(one["seconds"] for one in chunks) / CHUNK
    return asked < FEWEST_PROMPTS and each_s * FEWEST_PROMPTS > MOST_TIME_SHARE * budget_s
