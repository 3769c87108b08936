"""rung's side of a training benchmark: the Trainer on tokenised rows, as `sft` runs it. A child process.

Recipes: "own" is sft's (B at 16 times A's rate, a warm-up, then a constant rate), "trl" that of SFTTrainer
(one rate for A and B, linear decay over all steps, no warm-up, no weight decay).
"""

from pathlib import Path
from typing import Any

import child
from common import use_all_cores

RECIPES = ("own", "trl")


def main() -> None:
    """Train as the job says and write what it took."""
    use_all_cores()
    child.finish(train(child.job()), ("torch", "transformers"))


def train(job: dict[str, Any]) -> dict[str, Any]:
    """The steps of one run, their times, and the dev losses between them."""
    import torch

    from rung.engines.torch import load_model
    from rung.rungs.tune import PLAIN_ROWS
    from rung.training import batches, full, learned, loop
    from rung.training.methods import ALPHA, RANK

    rows = [batches.Row(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in job["rows"]]
    lengths = sorted(row.tokens for row in rows)
    short = lengths[int(0.95 * (len(lengths) - 1))] <= PLAIN_ROWS
    dtype = torch.float32 if job.get("fp32") else None
    attention = "eager" if short else "sdpa"
    if job.get("in_blocks"):
        from rung.training.blocked import load_in_blocks

        model = load_in_blocks(Path(job["weights"]), Path(job["gguf"]), attention)
    else:
        model = load_model(Path(job["weights"]), dtype, attention=attention)
    decay = None
    settings = loop.Settings(
        learning_rate=job["rate"], batch_size=job["batch"], rank=RANK, alpha=ALPHA, seed=job["seed"]
    )
    if job["recipe"] == "trl":
        learned.B_RATE, loop.WEIGHT_DECAY = 1.0, 0.0
        settings = loop.Settings(
            **{name: getattr(settings, name) for name in settings.__slots__} | {"warmup": 1}
        )
        decay = (0, job["steps"])
    taught = full.full(model, lengths[-1]) if job.get("method") == "full" else None
    trainer = loop.Trainer(model, rows, settings, Path(job["folder"]) / "state", "", learned=taught)
    shared = shared_prefix(trainer, job.get("shared_prefix", True))
    steps, dev = [], []
    for tick in trainer.run(job["steps"], decay=decay):
        seconds = tick.seconds
        tokens, count = (round(each * seconds) for each in (tick.tokens_per_s, tick.rows_per_s))
        steps.append({"seconds": seconds, "tokens": tokens, "rows": count})
        if tick.step == 1:
            first = tick.loss
        if job.get("every") and tick.step % job["every"] == 0:
            loss = child.dev_loss(model, job["dev"])
            dev.append((tick.step, sum(step["seconds"] for step in steps), loss))
            if loss <= job.get("until_loss", -1.0):
                break
    trainer.close()
    return {
        "first_loss": first,
        "steps": steps,
        "dev": dev,
        "tokens_per_row": sum(lengths) / len(lengths),
        "trainable": sum(p.numel() for p in trainer.parameters),
        "shared_prefix": shared,
    }


def shared_prefix(trainer: Any, wanted: bool) -> int:
    """Leave the trainer's shared prefix as it is, or switch it off; how many tokens are shared from now on.

    0 where this version's trainer has no such prefix. This is the only place that knows the switch.
    """
    if not hasattr(trainer, "shared"):
        return 0
    if not wanted:
        trainer.shared = 0
    return trainer.shared


if __name__ == "__main__":
    main()
