"""Several calls for one answer: a vote over samples, reasoning first, or a draft that is repaired."""

import math
import statistics
from collections.abc import Sequence

from rung.evaluate import Kept, mean_s, score_of
from rung.records import Answer, OutputKind
from rung.rungs.base import Built, Context, Outlook, Variant, no_room
from rung.rungs.below import best_prompting
from rung.rungs.instructions import answer_spec, instructions, longest_answer, spec_for
from rung.rungs.probe import race, under_each_engine
from rung.rungs.rehearsal import outlook
from rung.rungs.variants import choose
from rung.runs import Shared
from rung.scoring.cost import usd_per_1000
from rung.scoring.notation import percent_text, score_text, usd_text
from rung.spec import Spec, StepsSpec
from rung.steps import FAULT, calls_of
from rung.system import Sources, System, save
from rung.task.outputs import shown

SAMPLES = (3, 5)
HEAT = 0.7
THOUGHT_TOKENS = 96
THINK = "First think it through in a few short sentences; don't give the final answer yet."
CLOSE: dict[OutputKind, str] = {
    "label": "Now give the answer: one of the labels, alone.",
    "json": "Now give the answer: the JSON object, alone.",
    "number": "Now give the answer: the number, alone.",
    "tool_call": "Now give the answer: the JSON list of function calls, alone.",
}
MEND = f"That can't be used: {FAULT}. Write the whole answer again, corrected, and nothing else."
REVIEW = (
    "Check this reply against the instruction and the text. Mend what is wrong, then write the final reply, "
    "and nothing else."
)
NO_VOTE = "no vote on labels alone: they have exact probabilities, and drawing from these only adds noise"


class Workflow:
    """The best prompting System so far, asked more than once for each answer."""

    name = "workflow"

    def skip(self, context: Context) -> str | None:
        """Every task can be asked twice, if only its rows fit."""
        return no_room(context, learns=False)

    def outlook(self, context: Context) -> Outlook | None:
        """By a few rows of each workflow."""
        return outlook(context, _variants(context)[0])

    def build(self, context: Context) -> Built:
        """Try each workflow that the kind of output allows, on the best prompting System below."""
        variants, notes = _variants(context)
        chosen, trials, more = choose(context, variants)
        told, below = _told(context, chosen.system), best_prompting(context)
        return Built(
            system=chosen.system,
            what=chosen.name,
            trials=trials,
            found=told,
            notes=(*notes, *((NO_VOTE,) if context.kind == "label" else ()), *more),
            upon=below and below.spec.rung,
        )


def _variants(context: Context) -> tuple[list[Variant], list[str]]:
    """What is tried, the quickest first, and notes on what it starts from."""
    notes: list[str] = []
    spec, files = _start(context, notes)
    made = [_variant(context, name, spec, steps, files) for name, steps in _steps(context).items()]
    return made, notes


def _start(context: Context, notes: list[str]) -> tuple[Spec, Sources]:
    """The Spec and the files of the System that is asked several times."""
    best = best_prompting(context)
    if best is not None:
        notes.append(f"asked several times: the System of {best.spec.rung}{_alone(context, best)}")
        return best.spec, {name: Shared(best.folder / name) for name in best.spec.files}
    spec = spec_for(
        context,
        "workflow",
        instruction=instructions(context)["plain"],
        answer=answer_spec(context, constrained=True),
    )
    backend, note = race(context, "one call", under_each_engine(context, "race", spec, {}))
    notes.append(note)
    return backend.runs(spec), {}


def _alone(context: Context, system: System) -> str:
    """Its dev score with one call, as far as it was asked."""
    kept = context.bench.store.load(system.digest)
    rows = [e for e in context.dev if e.id in kept]
    if not rows:
        return ""
    metric = context.bench.metric
    score = score_of(rows, [kept[e.id].answer for e in rows], context.bench)
    return f", {score_text(score, metric)} on {len(rows):,} dev rows with one call"


def _steps(context: Context) -> dict[str, StepsSpec]:
    """The workflows that make sense for the kind of output, by name."""
    kind, room = context.kind, longest_answer(context)
    found: dict[str, StepsSpec] = {}
    if kind != "text":
        found["reasoning first"] = StepsSpec(kind="think", max_tokens=THOUGHT_TOKENS, close=CLOSE[kind])
        found["draft, check, repair"] = StepsSpec(kind="repair", max_tokens=room, close=MEND)
    else:
        found["draft, review"] = StepsSpec(kind="repair", max_tokens=room, close=REVIEW)
    if kind != "label":
        for samples in SAMPLES:
            found[f"vote of {samples}"] = StepsSpec(kind="vote", samples=samples, temperature=HEAT)
    if kind in ("label", "number"):
        found[f"vote of {SAMPLES[-1]}, each reasoning first"] = StepsSpec(
            kind="think",
            samples=SAMPLES[-1],
            temperature=HEAT,
            max_tokens=THOUGHT_TOKENS,
            close=CLOSE[kind],
        )
    return found


def _variant(context: Context, name: str, start: Spec, steps: StepsSpec, files: Sources) -> Variant:
    """A workflow on the Spec it starts from. What is written freely first is held to its form at the end."""
    changes: dict[str, object] = {"rung": "workflow", "steps": steps}
    if steps.kind != "vote":
        changes["answer"] = answer_spec(context, constrained=True)
    if steps.kind == "think":
        changes["instruction"] = " ".join(part for part in (start.instruction, THINK) if part)
    folder = context.work / f"{steps.kind}-{steps.samples}"
    return Variant(name=name, system=save(folder, start.model_copy(update=changes), files))


def _told(context: Context, system: System) -> tuple[str, ...]:
    """What each step of the chosen System took on average, how many drafts had a fault, and one answer's.

    A model of this machine answers them all, so that its time is what they cost.
    """
    known: dict[str, Kept] = context.bench.store.load(system.digest)
    kept = [known[e.id] for e in context.dev if e.id in known]
    answers = [one.answer for one in kept if one.answer.failure is None and one.answer.steps]
    if not answers:
        return ()
    calls = statistics.fmean(map(calls_of, answers))
    # Answers that earlier versions kept don't say what each of their steps took.
    whole = [answer for answer in answers if any(step.latency_s for step in answer.steps)]
    usd = usd_per_1000(mean_s(kept), context.task.machine_usd_per_hour)
    taken = f": {'; '.join(_taken(whole, usd))}" if whole else ""
    told = [f"{calls:.2f} calls per answer{taken}"]
    mended = [a for a in answers if any(step.what == "fault" for step in a.steps)]
    if system.spec.steps is not None and system.spec.steps.kind == "repair" and context.kind != "text":
        read = sum(a.value is not None for a in mended)
        told.append(f"{len(mended):,} of {len(answers):,} drafts had a fault; {read:,} could be read then")
    steps = (mended or answers)[0].steps
    told.append(f"such as {', '.join(f'{step.what} {shown(step.text.strip())}' for step in steps)}")
    return tuple(told)


def _taken(answers: Sequence[Answer], usd: float) -> list[str]:
    """Of each kind of call: how many an answer takes, with what tokens, and its part of all their time.

    The same part of `usd`, which 1,000 answers cost, is what the calls of that kind do.
    """
    calls = [step for answer in answers for step in answer.steps if step.what != "fault"]
    whole_s = math.fsum(step.latency_s for step in calls) or 1.0
    lines = []
    for what in dict.fromkeys(step.what for step in calls):
        same = [step for step in calls if step.what == what]
        read = sum(step.prompt_tokens for step in same) / len(answers)
        written = sum(step.completion_tokens for step in same) / len(answers)
        share = math.fsum(step.latency_s for step in same) / whole_s
        cost = f", {usd_text(share * usd)} per 1,000 answers" if usd else ""
        lines.append(
            f"{what} {len(same) / len(answers):.2f}, {read:,.0f} tokens read and {written:,.0f} written, "
            f"{percent_text(share)} of the time{cost}"
        )
    return lines
