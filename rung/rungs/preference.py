"""Preference tuning: the tuned adapter goes on by which of two answers is better, or by judged answers."""

import math

from rung.rungs.base import Built, Context, Outlook, no_room
from rung.rungs.following import answered_all, built_on, no_lora
from rung.rungs.preferred import few_judged, few_pairs, pairs
from rung.rungs.sft import RESERVE_USED, planned
from rung.system import System


class Preference:
    """DPO on pairs or KTO on judged answers, from the System of sft on."""

    name = "preference"
    after = "sft"

    def skip(self, context: Context) -> str | None:
        """Rows without preferences have nothing to teach, and a few don't move a model."""
        if reason := no_room(context, learns=True) or no_lora(context):
            return reason
        if count := pairs(context.train):
            return few_pairs(count)
        if not context.undesirable:
            return "the rows hold no preferences: neither rejected answers nor answers judged true or false"
        return few_judged(len(context.train), len(context.undesirable))

    def outlook(self, context: Context) -> Outlook | None:
        """By how fast the answers are read and a few are given.

        Where it gains little over the start two more seeds follow.
        """
        from rung.rungs.preferring import KEEPS, foresee
        from rung.rungs.seeds import End, ranged

        plan, start = planned(context), self._start(context)
        course = foresee(context, start, plan)
        beside_s = course.closing_s + RESERVE_USED * plan.reserve_s
        # Where better answers lose their likelihood at once the start is kept: nothing new is proved, raced
        # or asked, and no seed drawn.
        soonest = End(seconds=course.soonest_s, again_s=math.inf)
        again_s = course.steps * course.step_s + course.closing_s
        return ranged(
            [soonest, End(seconds=course.tuning_s + beside_s, again_s=again_s)],
            beside_s=0.0,
            least_s=course.closing_s,
            left_s=context.seconds_left if answered_all(context, start) else 0.0,
            by=KEEPS,
        )

    def build(self, context: Context) -> Built:
        """Tune, prove the adapter as sft does, and keep what is better on dev: that, or the start.

        Raises TrainingError where there's no time, nothing fits, or the engines don't agree.
        """
        from rung.rungs.preferring import prefer

        start = self._start(context)
        return built_on(context, start, self.name, prefer(context, start, planned(context)))

    def _start(self, context: Context) -> System:
        return context.built[self.after]
