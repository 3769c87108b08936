"""How long a tune is: the steps and the scores that fit its time, by what a step and an answer take."""

from collections.abc import Sequence
from dataclasses import dataclass

from rung.training.loop import WARMUP
from rung.training.methods import RATES

SEARCH_SHARE, MOST_SEARCH_SHARE = 1 / 4, 1 / 3
"""Of the steps: where they are few, a search may take the larger share, or there is none."""
FEWEST_TRIAL_STEPS = 2 * WARMUP
"""A rate that was hardly reached isn't tried: with 12 steps all three of sms_spam's answered "ham" alone."""
MOST_EPOCHS = 10
DECAY_SHARE = 0.5
"""At a constant 2e-3 dev stays noisy and low (.83 on banking77 after 15,000 rows); 5,000 of decay brought
it to .91. Half is on the long side of that quarter."""
MOST_EVALUATIONS, FEWEST_EVALUATIONS = 8, 2
MID_DECAY = 4
"""With fewer evaluations than this there is none halfway down the decay."""
PATIENCE = 2
"""Scores in a row that are no better, after which the rate falls."""
PROBE_STEPS = 8
SEARCH_ROWS = 200
FEWEST_SCORED = 30
USED_SHARE = 0.85
"""Of the time: the rest is for what a probe can't foresee."""
SCORING_SHARE = 0.25
"""Of the time, at most: where answers are slow fewer dev rows are scored on the way, and less often."""
PACE_FILE = "pace.json"
"""In a rung's folder: the seconds in which its tune learned from a row, and gave an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """How many steps the winner may take, those of its trials included, how many a stretch of the search
    (0: no search), and how often and by how many dev rows it is scored on the way. `probed` are the steps
    that the first arm has behind it. `tuning_s` are the seconds that all of it takes if dev goes on rising,
    `closing_s` those of the answers after it. At the `ends`, the soonest first, a tune of so many steps, each
    of which takes `step_s`, may be over in so many seconds; the last is that of one that goes on rising.
    """

    probed: int
    steps: int
    stretch: int
    evaluations: int
    rows: int
    tuning_s: float
    closing_s: float
    step_s: float
    ends: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """The seconds that a step and an answer take, how many steps there may be, dev rows and answer forms.

    After the tune the System answers all of dev and so many rows as `closing` more.
    """

    step_s: float
    answer_s: float
    most: int
    dev: int
    forms: int
    closing: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What fits a time, from the seconds that a step and a score take. `most` steps are never passed."""

    step_s: float
    score_s: float
    evaluations: int
    most: int

    def steps(self, done: int, left_s: float) -> int:
        """How many steps, `done` of them, fit together with the scores that so many bring."""
        for scores in range(1, self.evaluations + 3):
            more = max(0, int(USED_SHARE * (left_s - scores * self.score_s) / self.step_s))
            steps = max(done, min(max(PROBE_STEPS, done + more), self.most))
            if len(self.stops(done, steps)) <= scores:
                return steps
        return done

    def stops(self, done: int, steps: int) -> list[int]:
        """The steps after which an arm is scored to its end if dev goes on rising."""
        found, step = [], done
        while (stop := next_score(step, steps, self.evaluations)) > step:
            found.append(stop)
            step = stop
        return [*found, *decay_scores(step, steps, self.evaluations)]

    def ends(self, done: int, left_s: float) -> list[tuple[int, float]]:
        """The steps, and the seconds from now, after which the rest of a tune may be over.

        It ends the sooner, the sooner PATIENCE scores in a row are no better than one before; at the last of
        the ends if dev goes on rising. Its steps are counted anew after each score.
        """
        found: list[tuple[int, float]] = []
        step, spent_s, scores = done, 0.0, 0
        steps = self.steps(step, left_s)
        while (stop := next_score(step, steps, self.evaluations)) > step:
            spent_s += (stop - step) * self.step_s + self.score_s
            step, scores = stop, scores + 1
            if scores > PATIENCE:
                found.append(self._decayed(step, steps, spent_s))
            steps = self.steps(step, left_s - spent_s)
        last, last_s = self._decayed(step, steps, spent_s)
        return [*found, (last, last_s or self.score_s)]

    def _decayed(self, step: int, steps: int, spent_s: float) -> tuple[int, float]:
        """The end of a tune whose rate falls from `step` on."""
        for stop in decay_scores(step, steps, self.evaluations):
            spent_s += (stop - step) * self.step_s + self.score_s
            step = stop
        return step, spent_s


def sized(speed: Speed, probed: int, budget_s: float, left_s: float) -> Length:
    """The length of a tune in `budget_s` seconds that has `probed` steps behind it and `left_s` to come."""
    row_s, step_s, stretches = speed.answer_s, speed.step_s, stretches_of(speed.forms)
    closing_s = (speed.dev + speed.closing) * row_s
    budget_s = max(budget_s / 2, budget_s - closing_s)
    answers = SCORING_SHARE * budget_s / row_s
    evaluations = int(answers / FEWEST_SCORED) - stretches
    evaluations = min(MOST_EVALUATIONS, max(FEWEST_EVALUATIONS, evaluations))
    rows = min(speed.dev, max(FEWEST_SCORED, int(answers / (stretches + evaluations))))
    scoring_s = row_s * (stretches * min(rows, SEARCH_ROWS) + evaluations * rows)
    steps = int((USED_SHARE * budget_s - scoring_s) / step_s)
    stretch = _stretch(min(steps, speed.most), stretches)
    lost = stretch * (stretches - (2 if speed.forms > 1 else 1))
    searching_s, step = 0.0, probed
    if stretch:
        searching_s = (stretches * stretch - probed) * step_s + stretches * min(rows, SEARCH_ROWS) * row_s
        step = stretch * min(2, speed.forms)
    fit = Fit(step_s=step_s, score_s=rows * row_s, evaluations=evaluations, most=speed.most)
    ends = [(end, searching_s + s) for end, s in fit.ends(step, left_s - closing_s - searching_s)]
    return Length(
        probed=probed,
        steps=max(probed, min(steps - lost, speed.most)),
        stretch=stretch,
        evaluations=evaluations,
        rows=rows,
        tuning_s=ends[-1][1],
        closing_s=closing_s,
        step_s=step_s,
        ends=ends,
    )


def _stretch(steps: int, stretches: int) -> int:
    """How many of `steps` each of the search's `stretches` gets; 0 where they are too few to search."""
    found = int(steps * SEARCH_SHARE / stretches)
    fits = FEWEST_TRIAL_STEPS * stretches <= steps * MOST_SEARCH_SHARE
    return max(found, FEWEST_TRIAL_STEPS) if fits else 0


def stretches_of(forms: int) -> int:
    """Stretches of training in the search: one for each rate, one more for the best, two for other forms."""
    return len(RATES) + 2 * forms - 1 if forms > 1 else len(RATES)


def next_score(step: int, steps: int, evaluations: int) -> int:
    """A stretch further, or the plateau's end where that is hardly more than one away."""
    every = max(1, steps // evaluations)
    plateau = max(1, int(steps * (1 - DECAY_SHARE)))
    return plateau if plateau - step < 1.25 * every else step + every


def decay_scores(step: int, steps: int, evaluations: int) -> list[int]:
    """The decay's end, for a plateau of `step` steps, and a stop halfway where there are enough of them."""
    end = min(steps, step + max(1, int(step * DECAY_SHARE / (1 - DECAY_SHARE))))
    halfway = [step + (end - step) // 2] if evaluations >= MID_DECAY else []
    return [stop for stop in (*halfway, end) if stop > step]
