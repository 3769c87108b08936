"""Which engine answers a System's requests faster on this machine: a short race on real rows."""

import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from rung.errors import EngineError, ModelError
from rung.memory import within_memory
from rung.records import Example
from rung.rungs.base import Context
from rung.runs import read_json, write_json
from rung.spec import Spec
from rung.system import Sources, System, save

EngineName: TypeAlias = Literal["llama", "torch"]
ENGINES: tuple[EngineName, ...] = ("llama", "torch")
RACE_ROWS = 6
"""Asked at once, as by a few callers of a service; batches of 50 would suit torch better (1.8 s a receipt
against 3.1 s) but aren't what will be asked."""
RACE_S = 20.0
"""An engine's share of a race: where answers are slow it runs over fewer rows, but over one at least."""
_OUTCOME = TypeAdapter(tuple[EngineName, str])
CLEARLY_FASTER = 1.25
"""llama.cpp serves from less memory, so torch has to be faster by this factor to take its place."""


def under_each_engine(context: Context, name: str, spec: Spec, files: Sources) -> dict[EngineName, System]:
    """The same System under both engines, each in its own folder."""
    return {
        engine: save(context.work / f"{name}-{engine}", spec.model_copy(update={"engine": engine}), files)
        for engine in ENGINES
    }


def race(context: Context, name: str, systems: dict[EngineName, System]) -> tuple[EngineName, str]:
    """The faster engine, and a sentence with both times. Systems race once in a run, whatever its budget.

    An engine that breaks on more rows than the other, or can't run the model at all, has lost: for this rung,
    as that may be a fault of the moment. Raises EngineError when neither can.
    """
    bar = context.reporter.begin(f"{name}: which engine is faster here", None)
    try:
        outcome = context.settled(f"engine: {name}", lambda: list(_raced(context, systems)))
    finally:
        context.reporter.end(bar)
    return _OUTCOME.validate_python(outcome)


def _raced(context: Context, systems: dict[EngineName, System]) -> tuple[EngineName, str]:
    """The outcome of the race, or of the one that these Systems ran before on this machine."""
    path = context.bench.store.race_path(systems["llama"].digest)
    if path.exists():
        kept = read_json(path)
        return _OUTCOME.validate_python([kept.get("engine"), kept.get("note")])
    engine, note, lasts = _run(context, systems)
    if lasts:
        write_json(path, {"engine": engine, "note": note})
    return engine, note


def _run(context: Context, systems: dict[EngineName, System]) -> tuple[EngineName, str, bool]:
    """The outcome, and whether it lasts: by the times of both engines where those usually compute, or as
    torch could never hold the model on this machine."""
    laps: dict[EngineName, tuple[float, float]] = {}
    faults: dict[EngineName, str] = {}
    rows = [e for e in context.dev if e.id not in context.too_long][: 1 + RACE_ROWS]
    asked = rows[1:] or rows
    count, never = 0, None
    for engine, system in systems.items():
        try:
            if engine == "torch" and (never := _never(context, system)):
                raise EngineError(never)
            with within_memory():
                # It waits for the weights, and says how many there is time for. Both engines are asked as
                # many: of one answer alone torch has as much work as of several at once.
                _, first_s = _lap(context, system, rows[:1])
                count = count or max(1, int(RACE_S / first_s))
                laps[engine] = _lap(context, system, asked[:count])
        except (EngineError, ModelError) as error:
            faults[engine] = " ".join(str(error).split())
    if not laps:
        raise EngineError("no engine can run the model: " + "; ".join(f"{k}: {v}" for k, v in faults.items()))
    if faults:
        (only,) = laps
        said = "; ".join(f"{name} can't run it ({why})" for name, why in faults.items())
        return only, f"engine {only}: {said}", never is not None
    (llama_broke, llama_s), (torch_broke, torch_s) = laps["llama"], laps["torch"]
    if llama_broke != torch_broke:
        better: EngineName = "llama" if llama_broke < torch_broke else "torch"
        return better, f"engine {better}: fewer of its answers broke than of the other's", False
    fastest: EngineName = "torch" if torch_s * CLEARLY_FASTER < llama_s else "llama"
    said = f"llama {1000 * llama_s:.0f} ms and torch {1000 * torch_s:.0f} ms per answer"
    return fastest, f"engine {fastest}: {said}", not _off_gpu(context, systems["torch"])


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
