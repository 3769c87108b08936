"""A better instruction and better examples: drawn at random and halved, or found by a model that reflects."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from rung.evaluate import LOOK_ROWS, counted_answers, score_of
from rung.records import Example
from rung.rungs.base import Built, Context, Outlook, Variant, no_room
from rung.rungs.below import best_prompting
from rung.rungs.few_shot import is_short, room_for_shots, shot_lines
from rung.rungs.instructions import EXAMPLES_SHOW_IT, answer_spec, spec_for, wordings
from rung.rungs.probe import Backend, race, under_each_engine
from rung.rungs.reflect import (
    FEWEST_ROWS,
    METRIC_CALLS,
    can_be_asked,
    cannot_reflect,
    foreseen,
    reflected,
    reflector,
)
from rung.rungs.rehearsal import outlook
from rung.rungs.retrieval import LOOK_THERE
from rung.rungs.variants import choose
from rung.runs import Shared
from rung.scoring.notation import score_text
from rung.scoring.scorers import SCORERS
from rung.scoring.selection import optimism
from rung.spec import ShotSpec, Spec
from rung.system import SHOTS_FILE, Sources, System, save

BELOW = ("prompt", "few_shot", "retrieval")
"""The rungs that a search goes on from."""
CANDIDATES = 16
SHOTS = (4, 8)
FEWEST_TRAIN = 8
NOT_NEAREST = (
    "the search didn't begin with the nearest examples, which did best: too few training rows are left to "
    "look at beside those that it asks"
)
SHOWN_CHARS = 300
"""Of an instruction in a note."""


@dataclass(frozen=True)
class Optimise:
    """Searches over instructions and sets of examples; the best on dev is kept.

    A reflective search takes `metric_calls` answers to training rows.
    """

    metric_calls: int = METRIC_CALLS
    name: str = field(default="optimise", init=False)

    def skip(self, context: Context) -> str | None:
        """There have to be rows to draw examples from, or to reflect on."""
        if reason := no_room(context, learns=True):
            return reason
        reflective = cannot_reflect(context) is None
        least = FEWEST_ROWS if reflective else FEWEST_TRAIN
        if len(context.train) < least:
            return f"{len(context.train)} training rows; a search for a better prompt needs at least {least}"
        if not reflective and room_for_shots(context) < 1:
            return f"one worked example and a question don't fit a prompt of {context.limit:,} tokens"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By a few rows of each candidate; of those yet to be thought of by rows of what they begin with."""
        if cannot_reflect(context) is None:
            return foreseen(context, _start(context), self.metric_calls)
        return outlook(context, _drawn(context)[0], LOOK_ROWS, halving=True)

    def build(self, context: Context) -> Built:
        """Search, choose on dev, and say by how much such a choice flatters itself."""
        why_not = cannot_reflect(context)
        model = reflector(context) if why_not is None else None
        below = None
        if model is not None:
            below = _first(context)
            variants, notes = reflected(context, _start(context), model, self.metric_calls)
            if best_prompting(context, BELOW) is not below:
                notes.append(NOT_NEAREST)
        else:
            variants, notes = _drawn(context)
            notes.append(str(why_not))
        chosen, trials, more = choose(context, variants, LOOK_ROWS, halving=True)
        names = {trial.name for trial in trials}
        tried = [one for one in variants if one.name in names]
        told = [*_gained(context, chosen.system), *_flattered(context, tried, chosen.system)]
        spec = chosen.system.spec
        if spec.looks_up:
            below = context.built.get("few_shot" if spec.shots.choice == "nearest" else "retrieval")
        shown = (spec.instruction or "")[:SHOWN_CHARS]
        notes.append(f"the instruction of {chosen.name}: {shown!r}")
        many = str(len(variants)) if len(tried) == len(variants) else f"{len(tried)} of {len(variants)}"
        return Built(
            system=chosen.system,
            what=f"best of {many} candidates: {chosen.name}",
            trials=trials,
            notes=(*notes, *told, *more),
            spent_usd=context.paid_usd,
            upon=below and below.spec.rung,
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An instruction and a set of examples for it."""

    name: str
    instruction: str
    shots: tuple[Example, ...]


def candidates(context: Context, count: int = CANDIDATES) -> list[Candidate]:
    """So many at random: every way of putting the instruction with sets of examples of every size."""
    dice = random.Random(f"{context.seed}:optimise")
    rows = [e for e in context.train if is_short(context, e)]
    room = room_for_shots(context)
    sizes = [k for k in SHOTS if k <= room] or [room]
    pairs = list(product(wordings(context).items(), sizes))
    dice.shuffle(pairs)
    found = []
    for number in range(count):
        (wording, text), k = pairs[number % len(pairs)]
        name = f"set {number + 1} of {k} examples, {wording} instruction"
        found.append(Candidate(name=name, instruction=text, shots=tuple(drawn_shots(rows, k, dice))))
    return found


def _drawn(context: Context) -> tuple[list[Variant], list[str]]:
    """The candidates as Systems, under the engine of the rung below or the faster one, and notes on that.

    A set of examples comes first, which answers faster than neighbours do: by its pace it's told whether
    there is time for any.
    """
    spec = spec_for(context, "optimise", instruction=None, answer=answer_spec(context, constrained=True))
    near, reading = _by_neighbours(context), _by_passages(context)
    made: list[tuple[str, Spec, Sources]] = [
        (
            one.name,
            spec.model_copy(
                update={
                    "instruction": one.instruction,
                    "shots": ShotSpec(choice="fixed", k=len(one.shots)),
                }
            ),
            {SHOTS_FILE: shot_lines(one.shots, context)},
        )
        for one in candidates(context, CANDIDATES - len(near) - len(reading))
    ]
    made[1:1] = near
    backend, notes = _backend(context, *made[0][1:])
    made = [(name, backend.runs(one), files) for name, one, files in made]
    # Passages make the longest prompts: theirs is the engine that was faster with them.
    made[1:1] = reading
    return [
        Variant(name=name, system=save(context.work / f"candidate-{number}", one, files))
        for number, (name, one, files) in enumerate(made)
    ], notes


def _by_neighbours(context: Context) -> list[tuple[str, Spec, Sources]]:
    """few_shot's nearest examples under each other instruction; none where one set for all did better."""
    below = context.built.get("few_shot")
    if below is None or below.spec.shots.choice != "nearest":
        return []
    return _reworded(below, f"{below.spec.shots.k} nearest examples", wordings(context))


def _by_passages(context: Context) -> list[tuple[str, Spec, Sources]]:
    """retrieval's passages under the other instructions; none where another rung below did as well.

    No examples stand beside them, so that no instruction that speaks of some is tried.
    """
    below = best_prompting(context, BELOW)
    if below is None or below.spec.retrieval is None:
        return []
    told = {name: text for name, text in wordings(context).items() if EXAMPLES_SHOW_IT not in text}
    with_parts = {name: f"{text} {LOOK_THERE}" for name, text in told.items()}
    return _reworded(below, below.spec.retrieval.said, with_parts)


def _reworded(below: System, shown: str, told: Mapping[str, str]) -> list[tuple[str, Spec, Sources]]:
    """The System below, which shows what it looks up, under each of the instructions that isn't its own."""
    files: Sources = {name: Shared(below.folder / name) for name in below.spec.files}
    return [
        (
            f"{shown}, {wording} instruction",
            below.spec.model_copy(update={"rung": "optimise", "instruction": text}),
            files,
        )
        for wording, text in told.items()
        if text != below.spec.instruction
    ]


def _backend(context: Context, first: Spec, files: Sources) -> tuple[Backend, list[str]]:
    """The backend of the rung below whose prompts are as long, or the faster one in a race."""
    if (below := context.built.get("few_shot")) is not None:
        return Backend.of(below.spec), []
    backend, note = race(context, "fixed examples", under_each_engine(context, "race", first, files))
    return backend, [note]


def drawn_shots(rows: Sequence[Example], k: int, dice: random.Random) -> list[Example]:
    """k rows at random, in turn from distinct outputs in an order drawn at random, in an order drawn anew."""
    by_output: dict[str, list[Example]] = defaultdict(list)
    for row in dice.sample(sorted(rows, key=lambda e: e.id), len(rows)):
        by_output[json.dumps(row.output, sort_keys=True)].append(row)
    queues = list(by_output.values())
    dice.shuffle(queues)
    chosen: list[Example] = []
    while len(chosen) < k and any(queues):
        for queue in queues:
            if queue and len(chosen) < k:
                chosen.append(queue.pop())
    dice.shuffle(chosen)
    return chosen


def _first(context: Context) -> System | None:
    """The best System below that can be asked training rows; None where there is none."""
    best = best_prompting(context, BELOW)
    if best is None or can_be_asked(context, best):
        return best
    return best_prompting(context, BELOW, nearest=False)


def _start(context: Context) -> System:
    """What a reflecting model begins with: that System, or the plain instruction."""
    best = _first(context)
    if best is not None:
        spec: Spec = best.spec
        files: Sources = {name: Shared(best.folder / name) for name in spec.files}
    else:
        text = wordings(context).get("plain", "")
        spec = spec_for(context, "optimise", instruction=text, answer=answer_spec(context, constrained=True))
        files = {}
        backend, _ = race(context, "zero-shot", under_each_engine(context, "race", spec, files))
        spec = backend.runs(spec)
    return save(context.work / "start", spec.model_copy(update={"rung": "optimise"}), files)


def _gained(context: Context, chosen: System) -> list[str]:
    """The dev score of the best prompting System below, and of the chosen one, on the rows of both."""
    start = best_prompting(context, BELOW)
    if start is None:
        return []
    before, after = (context.bench.store.load(one.digest) for one in (start, chosen))
    rows = [e for e in context.dev if e.id in before and e.id in after]
    if not rows:
        return []
    bench = context.bench
    scores = [
        score_text(score_of(rows, [kept[e.id].answer for e in rows], bench), bench.metric)
        for kept in (before, after)
    ]
    return [f"{start.spec.rung} scores {scores[0]} and this {scores[1]} on the same {len(rows):,} dev rows"]


def _flattered(context: Context, tried: Sequence[Variant], chosen: System) -> list[str]:
    """What choosing among so many adds to the dev score by luck; nothing for a metric of the whole set."""
    scorer = SCORERS[context.bench.metric]
    kept = [context.bench.store.load(one.system.digest) for one in tried]
    rows = [e for e in context.dev if all(e.id in answers for answers in kept)]
    asked = sum(e.id in context.bench.store.load(chosen.digest) for e in context.dev)
    if scorer.of_set is not None or len(rows) < 2:
        return [
            f"the best of {len(kept)} on {asked:,} dev rows: its dev score flatters it, as the test will show"
        ]
    targets = [e.output for e in rows]
    counted = [
        counted_answers(rows, [answers[e.id].answer for e in rows], context.bench)[0] for answers in kept
    ]
    scores = [scorer.rows([answer.value for answer in answers], targets) for answers in counted]
    found = optimism(np.array(scores, dtype=float), asked)
    return [
        f"the best of {len(kept)} on {asked:,} dev rows: were all equally good, its dev score would be "
        f"{score_text(found, context.bench.metric)} too good on average; the sealed test tells"
    ]
