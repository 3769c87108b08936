"""The rung to beat: after every few dev rows, whether a dearer one can still win against it."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rung.records import Answer, Example, Measurement, MetricName, Stopped
from rung.scoring import stats
from rung.scoring.scorers import SCORERS, worst_error
from rung.task.draws import drawn_with


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The best cheaper rung, with its score of each dev row that it answered, turned so that more is better.

    A dearer rung has to gain `needed` over it. One that does, over all tasks' rows like these, is called
    hopeless with a probability of `level` at most, however often it is looked at. `drawn` says what dev rows
    that are drawn with others are drawn with: they are counted when all of them were asked. `worst` is the
    score of an answer that can't be read, as the metric has it over all dev rows.
    """

    rung: str
    metric: MetricName
    scores: Mapping[str, float]
    needed: float
    level: float
    drawn: Mapping[str, str]
    worst: float

    def beyond(self, examples: Sequence[Example], answers: Sequence[Answer]) -> bool:
        """Whether these first dev rows show that the rung which gave the answers can't gain enough."""
        return self._shown(examples, self._gains(examples, answers), self.needed)

    def stopped(self, examples: Sequence[Example], answers: Sequence[Answer], of: int) -> Stopped:
        """The record of a rung that was stopped after these rows."""
        gains = self._gains(examples, answers)
        if (SCORERS[self.metric].binary and not self.drawn) or self._most_above(0.0) <= 0.0:
            # Where nothing can be gained, no bet says how much was lost: the rows that differ are counted.
            lost = self._short(examples, gains, 0.0)
            down, up = sum(one > 0 for one in lost), sum(one < 0 for one in lost)
            worse = stats.log_e_value(down, up) >= -math.log(self.level)
        else:
            worse = self._shown(examples, gains, 0.0)
        return Stopped(rows=len(examples), of=of, rival=self.rung, worse=worse)

    def foreseen_stop(
        self, examples: Sequence[Example], answers: Sequence[Answer], look: int, dice: Random
    ) -> int:
        """After how many rows, looked at after every `look`, a rung is out if it goes on as in these answers.

        `answers` are those to the first examples; all examples, if it isn't out before. What is gained on the
        others is drawn by `_to_come`.
        """
        first = self._gains(examples[: len(answers)], answers)
        if not first:
            return len(examples)
        rows = [e.id for e in examples[len(answers) :] if e.id in self.scores]
        gains = first | self._to_come(first, rows, dice)
        for end in range(look, len(examples), look):
            asked = examples[:end]
            if self._shown(asked, {e.id: gains[e.id] for e in asked if e.id in gains}, self.needed):
                return end
        return len(examples)

    def _to_come(self, first: Mapping[str, float], rows: Sequence[str], dice: Random) -> dict[str, float]:
        """Gains on these rows, of which the rival's scores are known, if the rung goes on as on the `first`.

        They are drawn like the first ones, twice: which gains there might be (the Bayesian bootstrap), then
        which of them come. Where answers are right or wrong, on rows that the rival has right like those on
        such rows, and on its faults like those on faults: where it has few there is little to gain, however
        many of them are among the first rows. As few rows may tell of faults, the prior of being right on a
        row of either kind is uniform.
        """
        binary, scores = SCORERS[self.metric].binary, self.scores
        half = 0.5 if binary else -math.inf
        drawn: dict[str, float] = {}
        for is_right in (True, False):
            told = [gain for row, gain in first.items() if (scores[row] > half) is is_right]
            told += [0.0, -1.0 if is_right else 1.0] if binary else []
            coming = [row for row in rows if (scores[row] > half) is is_right]
            if coming:
                weights = [dice.expovariate(1.0) for _ in told]
                drawn |= zip(coming, dice.choices(told, weights, k=len(coming)), strict=True)
        return drawn

    def _gains(self, examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, float]:
        """The gain on each row that both answered."""
        scorer = SCORERS[self.metric]
        sign = 1.0 if scorer.higher_is_better else -1.0
        return {
            example.id: sign
            * (self.worst if answer.value is None else scorer.row(answer.value, example.output))
            - self.scores[example.id]
            for example, answer in zip(examples, answers, strict=True)
            if answer.failure is None and example.id in self.scores
        }

    def _most_above(self, bar: float) -> float:
        """By how much a draw can exceed the `bar`, added up over its rows; 0 where none can.

        A row that the rival has right leaves nothing to gain, however many are drawn with it. What a call
        that breaks leaves out may have been under the bar: such rows take nothing off.
        """
        top = 1.0 if SCORERS[self.metric].higher_is_better else 0.0
        room: dict[str, float] = defaultdict(float)
        for row, score in self.scores.items():
            room[self.drawn.get(row, row)] += max(0.0, top - score - bar)
        return max(room.values(), default=0.0)

    def _shown(self, examples: Sequence[Example], gains: Mapping[str, float], bar: float) -> bool:
        """Whether the mean gain is shown to be under `bar`, rows that are drawn together being one draw."""
        most = self._most_above(bar)
        if most <= 0.0:
            return True
        return stats.log_e_above_zero(self._short(examples, gains, bar), most) >= -math.log(self.level)

    def _short(self, examples: Sequence[Example], gains: Mapping[str, float], bar: float) -> list[float]:
        """How far each draw of which all rows were asked stays under the `bar`, added up over its rows."""
        rows = Counter(self.drawn.values())
        asked = Counter(self.drawn[e.id] for e in examples if e.id in self.drawn)
        short: dict[str, float] = defaultdict(float)
        for example in examples:
            draw = self.drawn.get(example.id, example.id)
            if example.id in gains and asked[draw] == rows[draw]:
                short[draw] += bar - gains[example.id]
        return list(short.values())


def rival(
    rung: str, found: Measurement, rows: Sequence[Example], *, needed: float, level: float
) -> Rival | None:
    """A rung as the one to beat by `needed`; None for a metric of the whole set, which no row tells of."""
    scorer = SCORERS[found.metric]
    if scorer.of_set is not None:
        return None
    sign = 1.0 if scorer.higher_is_better else -1.0
    return Rival(
        rung=rung,
        metric=found.metric,
        scores={p.example_id: sign * p.score for p in found.predictions if p.score is not None},
        needed=needed,
        level=level,
        drawn=drawn_with(rows),
        worst=0.0 if scorer.higher_is_better else worst_error([e.output for e in rows]),
    )
