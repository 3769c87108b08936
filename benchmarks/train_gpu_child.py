"""One run of train_gpu.py: a child process."""

import time
from pathlib import Path
from typing import Any

import child
from common import median

WARM = 10


def main() -> None:
    """Train as the job says and write what it took."""
    job = child.job()
    liger = None
    if job["variant"] == "liger":
        try:
            from liger_kernel.transformers import _apply_liger_kernel_to_instance as liger
        except ImportError:
            child.finish({"missing": "liger_kernel isn't installed"})
            return
    child.finish(train(job, liger))


def train(job: dict[str, Any], liger: Any) -> dict[str, Any]:
    """Speed, memory and dev loss of one run."""
    import torch

    from rung.engines.torch import load_model
    from rung.rungs.tune import ALPHA, RANK
    from rung.training.batches import Row
    from rung.training.loop import Settings, Trainer

    model = load_model(Path(job["weights"]), torch.bfloat16)
    if liger is not None:
        # The loss is rung's own: Liger's would replace a forward that isn't called.
        liger(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    rows = [Row(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in job["rows"]]
    settings = Settings(learning_rate=5e-4, batch_size=job["batch"], rank=RANK, alpha=ALPHA, seed=job["seed"])
    trainer = Trainer(model, rows, settings, Path(job["folder"]) / "state", "")
    if job["variant"] == "compiled":
        model.model.compile(dynamic=True)
    speeds, first = [], 0.0
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for tick in trainer.run(job["steps"]):
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        first = first or seconds
        # rung's own clock stops when the kernels are launched.
        speeds.append(tick.tokens_per_s / tick.rows_per_s * job["batch"] / seconds)
        start = time.perf_counter()
    trainer.close()
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {
        "tokens_per_s": median(speeds[WARM:]),
        "gpu_mb": peak,
        "first_s": first,
        "dev_loss": child.dev_loss(model, job["dev"]),
    }


if __name__ == "__main__":
    main()
