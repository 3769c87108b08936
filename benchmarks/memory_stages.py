"""What memory.py measures, one stage in a process: a child of it. Imports only what its stage needs."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import child

STEPS, BATCH, SCORED = 20, 32, 200


def main() -> None:
    """Run the job's stage and write the peak memory."""
    from rung.threads import yield_while_waiting

    yield_while_waiting()
    job, start = child.job(), time.perf_counter()
    STAGES[job["stage"]](job)
    child.finish({"seconds": time.perf_counter() - start})


def importing(job: dict) -> None:
    """importing rung and its command line"""
    import rung.cli.main  # noqa: F401


def loading(job: dict) -> None:
    """loading the default model in the torch engine"""
    from common import opened

    with opened(Path(job["set"])) as context:
        engine_of(context)


def training(job: dict) -> None:
    """the same with 20 LoRA steps of 32 rows"""
    from common import opened

    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import rows_of
    from rung.training.loop import Settings, Trainer
    from rung.training.methods import ALPHA, RANK

    with opened(Path(job["set"])) as context, tempfile.TemporaryDirectory() as folder:
        rows = rows_of(context, answer_forms(context)["codes"], context.train)
        settings = Settings(learning_rate=5e-4, batch_size=BATCH, rank=RANK, alpha=ALPHA)
        trainer = Trainer(engine_of(context).model, rows, settings, Path(folder), "")
        list(trainer.run(STEPS))
        trainer.close()


def scoring(job: dict) -> None:
    """loading it and choosing among the labels for 200 dev rows"""
    from common import opened

    from rung.asking import candidates, prompts_for
    from rung.rungs.sft import answer_forms

    with opened(Path(job["set"])) as context:
        spec, chat = answer_forms(context)["words"], context.pool.chat(context.model)
        rows = context.dev[:SCORED]
        prompts = prompts_for(spec, chat, rows, [[] for _ in rows])
        engine_of(context).choose(prompts, candidates(spec, chat))


def tuning(job: dict) -> None:
    """the whole tune: the search for a rate, training, dev scores"""
    from common import opened

    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import Plan
    from rung.rungs.tuning import tune

    with opened(Path(job["set"])) as context:
        context = replace(context, deadline=time.monotonic() + job["tune_s"])
        folder = context.work / "training"
        plan = Plan(folder=folder, budget_s=job["tune_s"], reserve_s=0.0, seed=0)
        tune(context, answer_forms(context), plan)


def engine_of(context: Any) -> Any:
    """The default model in the torch engine, as the pool opens it."""
    from rung.engines.base import EngineSpec
    from rung.models.weights import dequantised

    weights = dequantised(context.model)
    return context.pool.engine(EngineSpec(engine="torch", weights=weights, context=context.limit))


STAGES: dict[str, Callable[[dict], None]] = {
    "importing": importing,
    "loading": loading,
    "training": training,
    "scoring": scoring,
    "tuning": tuning,
}


if __name__ == "__main__":
    main()
