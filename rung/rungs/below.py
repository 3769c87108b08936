"""The rungs below one that is built on what they found."""

from collections.abc import Sequence

from rung.evaluate import score_of
from rung.rungs.base import Context
from rung.system import System

PROMPTING = ("prompt", "few_shot", "retrieval", "optimise")
"""The rungs whose System is a prompt to the base model, in one call."""
BARE = "without passages"
"""What a tune's form is called that reads none, where dev chooses whether it does."""
TAGGED = "tagged calls"
"""What the form is called in which a model was taught to write calls, where that isn't JSON."""


def best_prompting(
    context: Context, names: Sequence[str] = PROMPTING, *, nearest: bool = True
) -> System | None:
    """Of the Systems of these rungs below the best on dev; None without.

    Those that answered all dev rows come before those that were stopped, which couldn't beat one of them;
    without such the rows count that all answered. With `nearest` false one that shows each question its
    nearest training rows doesn't count. A tie goes to the cheaper one. Nothing is asked: their answers are
    kept.
    """
    # A rung that rests on no model is told of the Systems of every model, which its name tells apart.
    found = [
        (name, s)
        for name, s in context.built.items()
        if s.spec.rung in names and (nearest or s.spec.shots.choice != "nearest")
    ]
    known = dict(sorted(found, key=lambda one: names.index(one[1].spec.rung)))
    kept = {name: context.bench.store.load(system.digest) for name, system in known.items()}
    if whole := [name for name in known if all(e.id in kept[name] for e in context.dev)]:
        known, kept = {name: known[name] for name in whole}, {name: kept[name] for name in whole}
    rows = [e for e in context.dev if all(e.id in answers for answers in kept.values())]
    if not known or not rows:
        return next(iter(known.values()), None)

    def value(name: str) -> float:
        return context.sign * score_of(rows, [kept[name][e.id].answer for e in rows], context.bench)

    return known[max(known, key=value)]


def without_passages(context: Context) -> tuple[str, ...]:
    """A note for what reads nothing on a task with documents; none where these gained, or there are none."""
    return () if context.no_gain is None else (f"without passages of the documents: {context.no_gain}",)
