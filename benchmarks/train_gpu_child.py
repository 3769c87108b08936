"""One run of train_gpu.py by rung's Trainer: a child process."""

import time
from pathlib import Path
from typing import Any

import child

OURS = ("rung", "eager", "transformers", "compiled", "liger")
METHODS = ("rslora", "dora", "qlora", "full")


def main() -> None:
    """Train as the job says and write what it took."""
    job = child.job()
    if job["variant"] == "liger":
        try:
            import liger_kernel  # noqa: F401
        except ImportError:
            child.finish({"refusal": "liger_kernel isn't installed"})
            return
    child.finish(train(job), ("torch", "transformers"))


def train(job: dict[str, Any]) -> dict[str, Any]:
    """The steps of one run with their times, and the last dev loss."""
    import torch

    from rung.engines.torch import load_model
    from rung.training.batches import Row
    from rung.training.loop import Settings, Trainer
    from rung.training.methods import ALPHA, RANK
    from rung.training.methods import METHODS as known

    method = known.get(job["variant"])
    device = None if method is None else method.loads_on
    model = load_model(Path(job["weights"]), torch.bfloat16, device=device)
    if job["variant"] == "liger":
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # The loss is rung's own: Liger's would replace a forward that isn't called.
        _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    rows = [Row(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in job["rows"]]
    settings = Settings(
        learning_rate=job["rate"] if method is None else method.rates[1],
        batch_size=job["batch"],
        rank=RANK,
        alpha=ALPHA,
        seed=job["seed"],
    )
    learned = None if method is None else method.attach(model, RANK, job["seed"])
    trainer = Trainer(model, rows, settings, Path(job["folder"]) / "state", "", learned=learned)
    if job["variant"] in OURS[1:]:
        trainer.graphs = None
    if job["variant"] in OURS[2:]:
        trainer.packed = None
    if job["variant"] == "compiled":
        model.model.compile(dynamic=True)
    steps = []
    start = time.perf_counter()
    for tick in trainer.run(job["steps"]):
        child.wait_for_gpu()
        seconds = time.perf_counter() - start
        # rung's own clock stops when the kernels are launched.
        tokens, count = (round(each * tick.seconds) for each in (tick.tokens_per_s, tick.rows_per_s))
        steps.append({"seconds": seconds, "tokens": tokens, "rows": count})
        start = time.perf_counter()
    trainer.close()
    peak = child.gpu_mb()
    loss = child.dev_loss(model, job["dev"])
    return {"steps": steps, "dev": [(job["steps"], 0.0, loss)], "gpu_mb": peak}


if __name__ == "__main__":
    main()
