"""Which engine answers a System's requests faster on this machine: a short race on real rows."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from pydantic import TypeAdapter

from rung.errors import EngineError, ModelError, RungError, WeightsError
from rung.memory import within_memory
from rung.models.resolve import Model
from rung.models.retyped import room_to_retype, worth_retyping
from rung.records import Example
from rung.rungs.base import Context
from rung.runs import read_json, write_json
from rung.spec import Spec, WeightType, engine_text
from rung.system import WEIGHTS_GGUF, Sources, System, save

EngineName: TypeAlias = Literal["llama", "torch"]
RACE_ROWS = 6
"""Asked at once, as by a few callers of a service; batches of 50 would suit torch better (1.8 s a receipt
against 3.1 s) but aren't what will be asked."""
RACE_S = 20.0
"""An engine's share of a race: where answers are slow it runs over fewer rows, but over one at least."""
CLEARLY_FASTER = 1.25
"""llama.cpp serves from less memory, so torch has to be faster by this factor to take its place; so has
another type of weights, which is another file to keep and mostly a larger one."""
MOST_BY_TYPE = 2.5
"""Where torch is this much faster than llama.cpp, another type of weights isn't tried: it gains 1.7 times."""


class Backend(NamedTuple):
    """What answers: an engine, and llama.cpp's type of the base's weights where it isn't their file's."""

    engine: EngineName
    weight_type: WeightType | None = None

    @classmethod
    def of(cls, spec: Spec) -> "Backend":
        """That of a Spec whose engine runs a language model."""
        return _BACKEND.validate_python((spec.engine, spec.weight_type))

    def runs(self, spec: Spec) -> Spec:
        """The Spec under this backend."""
        return spec.model_copy(update=self._asdict())

    @property
    def said(self) -> str:
        """For a sentence."""
        return engine_text(self.engine, self.weight_type)


LLAMA, TORCH = Backend("llama"), Backend("torch")
RETYPED = tuple(Backend("llama", name) for name in get_args(WeightType))
_BACKEND = TypeAdapter(Backend)
_OUTCOME = TypeAdapter(tuple[EngineName, str] | tuple[EngineName, str, WeightType | None])
"""The engine, the sentence, and the type of its weights: earlier races had none."""


def retyped_for(model: Model) -> tuple[Backend, ...]:
    """llama.cpp with each other type of weights that is worth trying for a model."""
    return tuple(one for one in RETYPED if one.weight_type and worth_retyping(model, one.weight_type))


def under_each_engine(context: Context, name: str, spec: Spec, files: Sources) -> dict[Backend, System]:
    """The same System under each backend that may be the fastest, each in its own folder.

    Not in another type of weights where they are the System's own, or most would be what they are. What is
    told of the model alone: a race that is over has its winner here whatever became of the disk.
    """
    wanted = () if WEIGHTS_GGUF in files else retyped_for(context.model)
    return {
        backend: save(context.work / f"{name}-{'-'.join(filter(None, backend))}", backend.runs(spec), files)
        for backend in (LLAMA, TORCH, *wanted)
    }


def race(context: Context, name: str, systems: Mapping[Backend, System]) -> tuple[Backend, str]:
    """The fastest backend, and a sentence with the times. Systems race once in a run, whatever its budget.

    One that breaks on more rows than another, or can't run the model at all, has lost: for this rung, as that
    may be a fault of the moment. Raises EngineError when none can.
    """
    bar = context.reporter.begin(f"{name}: which engine is faster here", None)
    try:
        outcome = context.settled(f"engine: {name}", lambda: list(_raced(context, systems)))
    finally:
        context.reporter.end(bar)
    return _decided(outcome)


def _decided(outcome: object) -> tuple[Backend, str]:
    engine, note, *kind = _OUTCOME.validate_python(outcome)
    return Backend(engine, *kind), note


def _raced(context: Context, systems: Mapping[Backend, System]) -> tuple[EngineName, str, WeightType | None]:
    """The outcome of the race, or of the one that these Systems ran before on this machine."""
    types = [backend.weight_type for backend in systems if backend.weight_type is not None]
    path = context.bench.store.race_path("-".join([systems[LLAMA].digest, *types]))
    if path.exists():
        kept = read_json(path)
        backend, note = _decided([kept.get("engine"), kept.get("note"), kept.get("weight_type")])
    else:
        backend, note, lasts = _run(context, systems)
        if lasts:
            write_json(path, {**backend._asdict(), "note": note})
    return backend.engine, note, backend.weight_type


def _run(context: Context, systems: Mapping[Backend, System]) -> tuple[Backend, str, bool]:
    """The outcome, and whether it lasts: by the times of all where those usually compute, or as torch could
    never hold the model on this machine."""
    never = _never(context, systems[TORCH])
    laps, faults = _laps(context, systems, never)
    told = {backend: " ".join(str(error).split()) for backend, error in faults.items()}
    if not laps:
        each = "; ".join(f"{backend.said}: {why}" for backend, why in told.items())
        raise EngineError(f"no engine can run the model: {each}")
    best = _best(laps)
    fewer = best != _best({backend: (0.0, seconds) for backend, (_, seconds) in laps.items()})
    said = ["fewer of its answers broke"] if fewer else [_times(laps)] if len(laps) > 1 else []
    said += [f"{backend.said} can't run it ({why})" for backend, why in told.items()]
    if TORCH in faults:
        passes = never is None
    else:
        passes = _off_gpu(context, systems[TORCH])
    passes = passes or fewer or any(_may_pass(backend, error) for backend, error in faults.items())
    return best, f"engine {best.said}: {'; '.join(said)}", not passes


def _laps(
    context: Context, systems: Mapping[Backend, System], never: str | None
) -> tuple[dict[Backend, tuple[float, float]], dict[Backend, RungError]]:
    """The share of answers that broke and seconds per answer of those that ran, and why the others didn't.

    `never` is why torch can't in any case.
    """
    laps: dict[Backend, tuple[float, float]] = {}
    faults: dict[Backend, RungError] = {}
    rows = [e for e in context.dev if e.id not in context.too_long][: 1 + RACE_ROWS]
    asked = rows[1:] or rows
    count = 0
    for backend, system in systems.items():
        if backend in RETYPED and not _may_win(context, backend, laps):
            continue
        try:
            if backend == TORCH and never:
                raise EngineError(never)
            with within_memory():
                # It waits for the weights, and says how many there is time for. All are asked as many: of one
                # answer alone torch has as much work as of several at once.
                _, first_s = _lap(context, system, rows[:1])
                count = count or max(1, int(RACE_S / first_s))
                laps[backend] = _lap(context, system, asked[:count])
        except (EngineError, ModelError) as error:
            faults[backend] = error
    return laps, faults


def _may_pass(backend: Backend, error: RungError) -> bool:
    """Whether a fault of llama.cpp's may be the moment's: unreadable weights stay so."""
    return backend == LLAMA or (backend in RETYPED and isinstance(error, EngineError | WeightsError))


def _may_win(context: Context, backend: Backend, laps: Mapping[Backend, tuple[float, float]]) -> bool:
    """Whether llama.cpp may be the fastest with other weights: where it runs, isn't far behind torch, and the
    file of them may be made here."""
    if LLAMA not in laps or backend.weight_type is None:
        return False
    if not room_to_retype(context.model, backend.weight_type):
        return False
    return TORCH not in laps or laps[LLAMA][1] < MOST_BY_TYPE * laps[TORCH][1]


def _best(laps: Mapping[Backend, tuple[float, float]]) -> Backend:
    """Of those whose fewest answers broke the first, or a later one that is clearly faster than what was best
    before it."""
    fewest = min(broke for broke, _ in laps.values())
    times = {backend: seconds for backend, (broke, seconds) in laps.items() if broke == fewest}
    best, *others = (backend for backend in (LLAMA, *RETYPED, TORCH) if backend in times)
    for other in others:
        if times[other] * CLEARLY_FASTER < times[best]:
            best = other
    return best


def _times(laps: Mapping[Backend, tuple[float, float]]) -> str:
    found = [f"{backend.said} {1000 * seconds:.0f} ms" for backend, (_, seconds) in laps.items()]
    return f"{', '.join(found[:-1])} and {found[-1]} per answer"


def _off_gpu(context: Context, system: System) -> bool:
    """Whether torch computes on the processor though there is a GPU: another program may hold its memory.

    So it is, too, where an engine that was just measured can't be opened again to be looked at.
    """
    from rung.engines.device import describe_gpu
    from rung.engines.torch import TorchEngine

    if describe_gpu() is None:
        return False
    try:
        with within_memory():
            engine = system.open(context.pool)
    except (EngineError, ModelError):
        return True
    return isinstance(engine, TorchEngine) and engine.device.type == "cpu"


def _never(context: Context, system: System) -> str | None:
    """Why this machine could never hold the weights for torch, which aren't made yet; None where it may."""
    from rung.engines.device import too_big

    return too_big(system.model(context.pool).parameters)


def _lap(context: Context, system: System, rows: Sequence[Example]) -> tuple[float, float]:
    """The share of answers that broke, and seconds per answer in one batch."""
    start = time.perf_counter()
    answers = system.answer(rows, context.pool)
    seconds = time.perf_counter() - start
    return sum(a.failure is not None for a in answers) / len(rows), seconds / len(rows)
