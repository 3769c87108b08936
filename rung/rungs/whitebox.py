"""On-policy distillation: a student's own answers, each token beside what its teacher would have said there.

Where both have the same tokens, a teacher's whole next-token distribution can be learned from, and not only
the answers that it gave (Agarwal et al. 2023, arXiv:2306.13649). The teacher reads them after its own prompt,
instruction and worked examples included; the student after the short one that is served.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rung.asking import context_of
from rung.engines.device import best_dtype, roomy_device
from rung.engines.packed import Packed, packed
from rung.engines.room import GIB, free_bytes, weight_bytes
from rung.engines.rows import Network
from rung.engines.torch import load_adapter, load_model
from rung.errors import EngineError, ModelError, TrainingError
from rung.models.weights import dequantised
from rung.records import Example
from rung.rungs.base import Built, Context
from rung.rungs.coursing import Bounds, settled_course, stretches
from rung.rungs.following import Outcome, built_on, kept_best, no_lora
from rung.rungs.rendered import prompts_of
from rung.rungs.rollouts import Prompts, drawn_answers
from rung.rungs.sft import planned
from rung.rungs.tune import BEST_FOLDER, Arm, Lesson, Plan, Tune
from rung.spec import Spec
from rung.system import System
from rung.training.batches import Row
from rung.training.blocked import blocks_for
from rung.training.loop import answer_states
from rung.training.onpolicy import Shown, Taught

RATE = 1e-4
"""A's; B's is `B_RATE` times as high."""
PROMPTS = 16
"""In a step, with an answer each."""
MOST_PASSES = 2
MOST_STEPS, FEWEST_STEPS = 300, 5
WARMUP = 3
TIME_SHARE = 0.35
"""Of the rung's time that is left once the teacher's answers are in, kept back from the tune on those."""
FEWEST_S = 90.0
"""With less than that nothing is kept back."""
ROOM = 1.1
"""Of the memory that the teacher's weights take, for what it needs to read a batch."""


def no_white_box(context: Context, teacher: System, spec: Spec) -> str | None:
    """Why a student that answers by `spec` can't learn from a teacher's probabilities; None where it can."""
    if teacher.is_hosted or teacher.spec.engine not in ("llama", "torch") or teacher.spec.steps is not None:
        return "it isn't one local model that answers in one go"
    if (reason := no_lora(context)) is not None:
        return reason
    if context.kind == "label":
        return "labels are chosen and not written"
    ours, theirs = context.pool.chat(context.model), teacher.chat(context.pool)
    if ours.tokens.texts != theirs.tokens.texts:
        return "its tokens aren't those of the student"
    if ours.answer_ids("a", spec.style) != theirs.answer_ids("a", teacher.spec.style):
        return "it begins or ends its answers with other tokens than the student"
    if spec.answer.written != teacher.spec.answer.written:
        return "it writes calls in another form than the student"
    return None


def answers_alone(why: str) -> str:
    """A note on a teacher whose probabilities couldn't be learned from."""
    return f"only the teacher's answers were learned from, not its probabilities: {why}"


def no_memory(context: Context, teacher: System) -> str | None:
    """Why a teacher can't be read beside its student, by the weights of both; else None. Settled once.

    Engines are closed for that, as the tune that comes next would.
    """

    def found() -> str:
        context.pool.close()
        size = best_dtype().itemsize
        in_blocks = blocks_for(context.model, context.task.tuning.method) is not None
        student = 0 if in_blocks else size * context.model.parameters
        needed = int(ROOM * size * teacher.model(context.pool).parameters)
        return _short(needed, free_bytes(roomy_device(student)) - student) or ""

    return str(context.settled("what memory lacks for the teacher", found)) or None


def _short(needed: int, free: int) -> str | None:
    if needed <= free:
        return None
    return (
        f"the teacher needs about {needed / GIB:.1f} GiB beside its student, and {max(0, free) / GIB:.1f} "
        "GiB are free; a smaller teacher would do"
    )


@dataclass(frozen=True, kw_only=True)
class _Pupil:
    """Inputs with the student's prompts, and beside them the teacher's for the same."""

    given: Prompts
    asked: Sequence[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """The teacher as transformers has it, and over packs where it can be read so."""

    model: Network
    packed: Packed | None


def on_policy(context: Context, teacher: System, made: Built, inputs: Sequence[Example]) -> Built:
    """Go on from what was learned of the teacher's answers; that, or what it was, whichever is better on dev.

    Where it can't be done, or has no time, the notes of `made` say why.
    """
    if why := no_white_box(context, teacher, made.system.spec):
        return replace(made, notes=(*made.notes, answers_alone(why)))
    apart = replace(context, folder=context.work / "on-policy")
    apart.folder.mkdir(parents=True, exist_ok=True)
    try:
        outcome = _learn(apart, teacher, made.system, inputs, planned(apart))
        found = built_on(apart, made.system, made.system.spec.rung, outcome)
    except (TrainingError, ModelError, EngineError) as error:
        return replace(made, notes=(*made.notes, f"nothing was learned from the teacher on policy: {error}"))
    notes = (*made.notes, *found.notes)
    before = tuple(replace(trial, chosen=False) for trial in made.trials)
    if found.system.spec.files == made.system.spec.files:
        trials = (*before[:-1], *outcome.trials, made.trials[-1])
        return replace(made, trials=trials, notes=(*notes, "on policy no step was better on dev"))
    return replace(
        found,
        what=f"{made.what}; then {found.what}",
        passes=made.passes,
        cut_short=made.cut_short,
        trials=(*before, *found.trials),
        notes=notes,
        upon=made.upon,
    )


def from_sft(context: Context, teacher: System, start: System, inputs: Sequence[Example]) -> Built:
    """The System of sft gone on from, without the teacher's answers; that as it was, where no step is better.

    Raises TrainingError, ModelError or EngineError where it can't be done, or has no time.
    """
    # A folder of its own: where this is refused, `on_policy` begins from another start later on.
    apart = replace(context, folder=context.work / "from-sft")
    apart.folder.mkdir(parents=True, exist_ok=True)
    return built_on(apart, start, "distill", _learn(apart, teacher, start, inputs, planned(apart)))


def _learn(
    context: Context, teacher: System, start: System, inputs: Sequence[Example], plan: Plan
) -> Outcome:
    form = start.spec.answer.form
    pupil = _pupil(context, teacher, start.spec, inputs)
    lesson = Lesson(
        name="distill on policy",
        items={form: pupil.given.rows},
        left_out=pupil.given.left_out,
        batch=PROMPTS,
        warmup=WARMUP,
        start=start.adapter,
        start_digest=f"{start.digest} beside {teacher.digest}",
    )
    arm = Arm(form=form, rate=RATE)
    bounds = Bounds(most_steps=MOST_STEPS, most_passes=MOST_PASSES, fewest_steps=FEWEST_STEPS)
    with Tune(context, {form: start.spec}, plan, lesson) as state, _reader(state, teacher) as reader:
        state.objective = Taught(
            lambda batch, step: (_shown(state, pupil, reader, batch, step), ""), reader.model.lm_head
        )
        course = settled_course(state, arm, bounds)
        if course.refusal is not None:
            raise TrainingError(course.refusal)
        notes: list[str] = []
        first = state.score(arm, 0, course.rows)
        best, trials = kept_best(state, first, stretches(state, arm, course, first, notes))
        steps = max(r["step"] for r in state.records if r["kind"] == "score")
        apart = [r["loss"] for r in state.records if r["kind"] == "stretch"]
    passes = steps * PROMPTS / len(pupil.given.rows)
    told = f", {apart[0]:.3f} nats a token at first and {apart[-1]:.3f} at last" if apart else ""
    notes.append(
        f"on policy: {steps} steps of {PROMPTS} answers of the student's own to {len(pupil.given.rows):,} "
        f"inputs; reverse KL to the teacher{told}"
    )
    return Outcome(
        adapter=None if best is first else state.plan.folder / BEST_FOLDER,
        what=f"on policy, {arm.name}, {best['step']} steps of {PROMPTS}",
        passes=passes,
        trials=tuple(trials),
        notes=tuple(notes),
    )


def _pupil(context: Context, teacher: System, spec: Spec, inputs: Sequence[Example]) -> _Pupil:
    """The inputs whose prompts both leave room for an answer. Raises TrainingError where there are none."""
    end = context.pool.chat(context.model).end
    rows = [Row(prompt=prompt, answer=(end,)) for prompt in prompts_of(context, spec, inputs)]
    asked = teacher.prompts(inputs, context.pool)
    room, theirs = spec.answer.max_tokens, context_of(teacher.model(context.pool))
    fit = [
        place
        for place in range(len(inputs))
        if len(rows[place].prompt) + room < context.limit and len(asked[place]) + room < theirs
    ]
    if not fit:
        raise TrainingError("no input fits both prompts, the student's and the teacher's; shorten the inputs")
    given = Prompts(
        spec=spec,
        examples=[inputs[place] for place in fit],
        rows=[rows[place] for place in fit],
        left_out=len(inputs) - len(fit),
    )
    return _Pupil(given=given, asked=[asked[place] for place in fit])


@contextmanager
def _reader(state: Tune, teacher: System) -> Iterator[_Reader]:
    """The teacher, its adapter included, beside the student. TrainingError where memory is short for both."""
    weights = teacher.weights or dequantised(teacher.model(state.context.pool))
    device = state.engine.device
    needed = int(ROOM * weight_bytes(weights, best_dtype()))
    if (why := _short(needed, free_bytes(device))) is not None:
        raise TrainingError(why)
    model = load_model(weights, device=str(device))
    if teacher.adapter is not None:
        load_adapter(model, teacher.adapter)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    yield _Reader(model=model, packed=packed(model))


def _shown(state: Tune, pupil: _Pupil, reader: _Reader, batch: Sequence[int], step: int) -> list[Shown]:
    """The student's answers to a step's inputs, read by the teacher after its own prompts.

    Raises TrainingError where none could be drawn.
    """
    asked, found = drawn_answers(state, pupil.given, batch, f"step {step}", 1)
    broken = [one.failure for (one,) in found if one.failure is not None]
    if len(broken) == len(found):
        raise TrainingError(f"no answer could be drawn to the inputs: {broken[0]}")
    drawn = [
        (item, requests[0], one[0])
        for item, requests, one in zip(batch, asked, found, strict=True)
        if one[0].failure is None and one[0].drawn
    ]
    read = [Row(prompt=pupil.asked[item], answer=one.drawn) for item, _, one in drawn]
    states = answer_states(reader.model, read, reader.packed)
    return [
        Shown(
            row=Row(prompt=request.prompt, answer=one.drawn),
            states=own,
            allowed=state.engine.let_through(request, one.drawn),
        )
        for (_, request, one), own in zip(drawn, states, strict=True)
    ]
