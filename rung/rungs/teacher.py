"""A teacher: a hosted model, a larger local one or a System, as a System that answers the task's inputs."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from rung.asking import answer_of_completion, request_for
from rung.engines.endpoint import Draw
from rung.errors import EngineError, ModelError, TaskError
from rung.evaluate import to_ask
from rung.hosted import hosted_of, need_same_model
from rung.models.hosted import Hosted, hosted
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.records import Answer, Example, Json
from rung.registry import names_model, resolve_system
from rung.rungs.api import Prompting, asked_ways, prompting, unasked
from rung.rungs.base import Context
from rung.rungs.called import better
from rung.rungs.instructions import answer_schema, answer_spec
from rung.rungs.probe import TORCH
from rung.rungs.verified import decided
from rung.scoring.notation import duration_text
from rung.spec import Spec, Written
from rung.system import System, ref_to, save
from rung.task import Task

TEACHER = "teacher"
"""What its Systems are called, and lie under."""
TEMPERATURE = 0.7
DRAWS, FIRST_DRAWS = 3, 2
"""Of each input, where the teacher writes, at most and at first: two at least must agree."""
FEWEST_RACED, RACE_ROWS = 64, 16
"""Inputs, and those of them by which the engines are compared."""
RACE_SHARE, FEWEST_RACE_ROWS = 0.1, 4
"""Of the rung's time, that a race may take: where answers are slow fewer inputs, and none for under four."""
RACED = "engine that draws, and its seconds"
CHUNK_ROWS = 32
"""Asked together: so many rows' draws are lost at most when the program is killed."""
MOST_MOVED = 0.5
"""Of inputs asked together, answered by another model than the teacher: then it's gone, and none is asked."""


def hosted_teacher(task: Task) -> Hosted | None:
    """The hosted model that teaches, as itself or in a System. Raises RungError for a teacher that isn't."""
    if task.teacher is None:
        return None
    if (found := hosted(task.teacher)) is not None or names_model(task.teacher):
        return found
    spec = System.load(resolve_system(task.teacher)).spec
    if spec.engine != "endpoint" or spec.model is None:
        return None
    return replace(hosted_of(spec.model), system=task.teacher)


def is_system(name: str) -> bool:
    """Whether a System is named, by its folder or a tag."""
    return hosted(name) is None and not names_model(name)


def teacher_prompting(context: Context) -> Prompting:
    """The best prompt of the rungs below for what the teacher is asked.

    Without other inputs these are training rows, whose nearest worked examples would be the rows themselves.
    """
    return prompting(context, nearest=bool(context.unlabelled))


def teacher_system(context: Context, name: str) -> System:
    """The teacher with the best prompt of the rungs below; a System is taken as it is.

    Raises TaskError for a System that answers something else.
    """
    if (model := hosted(name)) is not None:
        return better(context, asked_ways(context, model, teacher_prompting(context), TEACHER)[0])
    if not names_model(name):
        return _fitting(context, System.load(resolve_system(name)), name)
    given, local = teacher_prompting(context), resolve(name)
    context.pool.models[local.digest] = local
    spec = Spec(
        rung=TEACHER,
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=answer_schema(context),
        engine="llama" if local.gguf is not None else "torch",
        model=ref_to(local, name),
        instruction=given.instruction,
        shots=given.shots,
        retrieval=given.retrieval,
        answer=answer_spec(context, constrained=True),
        vectors=given.vectors,
        context_tokens=context.task.context_tokens,
    )
    return save(context.work / TEACHER, spec, given.files)


def unasked_teacher(context: Context, model: Hosted, written: Written) -> System:
    """The same of a hosted `model`, asked in this way, before it was asked what it calls itself."""
    name = str(context.task.teacher)
    if is_system(name):
        return teacher_system(context, name)
    return unasked(context, model, teacher_prompting(context), TEACHER, written)


def is_raced(system: System, inputs: int) -> bool:
    """Whether engines may race for so many inputs before they are drawn for."""
    return system.spec.engine == "llama" and not _settles(system) and inputs >= FEWEST_RACED


def quickest(context: Context, system: System, rows: Sequence[Example], answer_s: float = 0.0) -> System:
    """The teacher under the engine that draws faster for inputs `rows` as they are asked, many at once.

    llama.cpp, which serves it, is the faster one for a few callers; torch has all of a chunk in one batch. A
    race costs a few answers, of `answer_s` each, so there is none for few inputs. Settled once.
    """
    spec = system.spec
    if not is_raced(system, len(rows)):
        return system

    def in_race() -> int:
        pairs = RACE_SHARE * max(0.0, context.seconds_left) / (2 * max(answer_s, 1e-6))
        return int(min(RACE_ROWS, pairs - 1))

    most = context.settled("inputs that the engines race over", in_race)
    assert isinstance(most, int), "written by this function"
    if most < FEWEST_RACE_ROWS:
        return system
    files = {name: system.folder / name for name in spec.files}
    torch = TORCH.runs(spec).model_copy(update={"files": {}})
    other = save(context.work / "teacher-torch", torch, files)
    for one in (system, other):
        if rows[0].id in context.bench.store.load(_drawn_as(one, 0)):
            return one  # another rung drew from it for the same rows: these answers are there

    def raced() -> Json:
        seconds = {one.spec.engine: _seconds(context, one, rows[:most]) for one in (system, other)}
        context.pool.drop(other if seconds["llama"] <= seconds["torch"] else system)
        engine = min(seconds, key=lambda engine: seconds[engine])
        return [engine, seconds[engine] / most]

    bar = context.reporter.begin("the teacher: which engine draws faster", None)
    try:
        found = context.settled(RACED, raced)
    finally:
        context.reporter.end(bar)
    assert isinstance(found, list), "written by this function"
    return other if found[0] == "torch" else system


def draw_s(context: Context, answer_s: float) -> float:
    """Seconds of one draw by the race of the engines; `answer_s` where there was none, or neither held."""
    found = context.told(RACED)
    seconds = found[1] if isinstance(found, list) else None
    return seconds if isinstance(seconds, float) and math.isfinite(seconds) else answer_s


def _seconds(context: Context, system: System, rows: Sequence[Example]) -> float:
    """What one draw for each of these rows takes; infinite where the engine can't run the model here."""
    from rung.engines.device import best_device, best_dtype
    from rung.engines.room import free_bytes, weight_bytes

    try:
        if system.spec.engine == "torch":
            weights = system.weights or dequantised(system.model(context.pool))
            if weight_bytes(weights, best_dtype()) > free_bytes(best_device()):
                return math.inf
        _ask(context, system, rows[:1], 0)
        start = time.perf_counter()
        _ask(context, system, rows, 0)
        return time.perf_counter() - start
    except (EngineError, ModelError):
        return math.inf


def draws_of(system: System) -> int:
    """How often each input is asked at most: once where the answer is always the same one."""
    return 1 if _settles(system) else DRAWS


def too_slow(each_s: float, fewest: int, left_s: float) -> str:
    """Why the fewest inputs aren't asked where one takes so many seconds."""
    return (
        f"the teacher takes about {duration_text(each_s)} for an input and is asked {fewest} at least, and "
        f"{duration_text(max(0.0, left_s))} of the budget are left for that and to learn from it; give more "
        "with --budget, or name a quicker teacher"
    )


def enough(context: Context, row: Example, answers: Sequence[Answer]) -> bool:
    """Whether a row needs no more draws than these.

    Of an input with an output of its own the best of all draws is learned.
    """
    first = answers[:FIRST_DRAWS]
    return row.output is None and len(first) == FIRST_DRAWS and decided(first, context.kind)


def _settles(system: System) -> bool:
    """Whether it answers a question in one way: as a head, by labels' probabilities, or in own steps."""
    return system.spec.engine == "head" or system.has_probabilities or system.spec.steps is not None


def hosted_draw(number: int) -> Draw:
    """The `number`th draw of a hosted teacher."""
    return Draw(temperature=TEMPERATURE, number=number)


def all_drawn(context: Context, system: System, rows: Sequence[Example]) -> list[list[Answer]]:
    """The draws of the teacher for each row: as many as can change what is kept of them, kept on disk."""
    found: list[list[Answer]] = [[] for _ in rows]
    for number in range(draws_of(system)):
        left = [at for at, row in enumerate(rows) if not enough(context, row, found[at])]
        answers = drawn(context, system, [rows[at] for at in left], number)
        for at, answer in zip(left, answers, strict=True):
            found[at].append(answer)
    return found


def _drawn_as(system: System, number: int) -> str:
    """Under what its draws are kept."""
    return f"{system.digest}-draw{number}"


def drawn(context: Context, system: System, rows: Sequence[Example], number: int) -> list[Answer]:
    """The `number`th draw of the teacher for each row, kept on disk: none is asked twice.

    Raises EngineError where another model than the teacher gave most of them.
    """
    key = _drawn_as(system, number)
    store = context.bench.store
    known = store.load(key)
    missing = [row for row in rows if to_ask(key, row, known, store)]
    if missing:
        given = _ask(context, system, missing, number)
        need_same_model(given, MOST_MOVED)
        store.append(key, list(zip(missing, given, strict=True)), sum(a.latency_s for a in given))
        known = store.load(key)
    return [known[row.id].answer for row in rows]


def _ask(context: Context, system: System, rows: Sequence[Example], number: int) -> list[Answer]:
    pool = context.pool
    if _settles(system):
        return system.answer(rows, pool)
    if system.is_hosted:
        return system.hosted_answers(rows, pool, hosted_draw(number))
    chat, contexts = system.chat(pool), [row.context for row in rows]
    prompts = zip(system.prompts(rows, pool), contexts, strict=True)
    asked = [request_for(system.spec, chat, prompt, context) for prompt, context in prompts]
    seed = context.seed + number
    warm = [replace(request, temperature=TEMPERATURE, seed=seed) for request in asked]
    found = zip(system.open(pool).generate(warm), contexts, strict=True)
    return [answer_of_completion(system.spec, one, context) for one, context in found]


def _fitting(context: Context, system: System, name: str) -> System:
    spec = system.spec
    if spec.kind != context.kind or (spec.kind == "label" and set(spec.labels) != set(context.labels)):
        raise TaskError(
            f"teacher: the System {name!r} answers {spec.task!r} with a {spec.kind} of its own, not as this "
            f"task wants; name one that was made for a task with the same answers"
        )
    return system
