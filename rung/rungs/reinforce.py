"""Reinforcement: the tuned adapter goes on by what its own answers earn, where a program can check them."""

from rung.rungs.base import Built, Context, Outlook, no_room
from rung.rungs.following import built_on, no_lora
from rung.rungs.rewards import no_reward
from rung.rungs.sft import planned
from rung.system import System

FEWEST_ROWS = 100


class Reinforce:
    """GRPO against the metric's own row score, from the System of sft on."""

    name = "reinforce"
    after = "sft"

    def skip(self, context: Context) -> str | None:
        """Answers that nothing can check have no reward, and few prompts are soon known by heart."""
        if reason := no_room(context, learns=True) or no_lora(context):
            return reason
        if reason := no_reward(context.bench.metric, context.kind):
            return reason
        if len(context.train) < FEWEST_ROWS:
            return f"{len(context.train)} training rows; reinforcement needs at least {FEWEST_ROWS}"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By the gate, a few answers and the first steps; those are settled here."""
        from rung.rungs.reinforcing import foresee

        return foresee(context, self._start(context), planned(context))

    def build(self, context: Context) -> Built:
        """Go on by reward, prove the adapter as sft does, and keep what is better on dev: that, or the start.

        Raises TrainingError where the gate says that there's nothing to learn, where there's no time, and
        where the engines don't agree.
        """
        from rung.rungs.reinforcing import reinforce

        start = self._start(context)
        return built_on(context, start, self.name, reinforce(context, start, planned(context)))

    def _start(self, context: Context) -> System:
        return context.built[self.after]
