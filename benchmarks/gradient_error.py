"""How far the LoRA gradients of both ways through the model are from those in fp32, before and in a tune.

    python benchmarks/gradient_error.py ../shared/data/banking77

`packed rows` is what a tune uses, `transformers` its own passes over padded rows; both in
the type of the machine (bf16 where it multiplies that), the reference in fp32 with the same weights.
"""

import copy
import statistics
from pathlib import Path
from typing import Any

from common import opened, options, print_machine, table, use_all_cores

SIDES = ("transformers", "packed rows")


def main() -> None:
    """Relative errors at some steps of a tune, medians over batches."""
    parser = options(__doc__, runs=False)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 60], help="of the tune, to look after")
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import Arm, Plan, Tune

    lines = []
    with opened(given.folder) as context:
        plan = Plan(folder=Path(context.folder) / "training", budget_s=1e9, reserve_s=0.0, seed=0)
        with Tune(context, {"codes": answer_forms(context)["codes"]}, plan) as state:
            state.batch, arm = given.batch, Arm(form="codes", rate=5e-4)
            for step in given.steps:
                state.run(arm, step)
                found = errors(state.trainer(arm), given.batches, given.batch)
                for side in SIDES:
                    a, b = (statistics.median(pair[part] for pair in found[side]) for part in (0, 1))
                    lines.append([str(step), side, f"{a:.2%}", f"{b:.2%}"])
    table(("after step", "side", "error of A's gradient", "of B's"), lines)


def errors(trainer: Any, batches: int, batch: int) -> dict[str, list[tuple[float, float]]]:
    """|g - g in fp32| / |g in fp32| of all A and of all B, by side and batch."""
    from rung.engines import lora
    from rung.training.loop import batch_loss, packed_loss

    wide = copy.deepcopy(trainer.model).float()
    matrices = lora.parameters(wide)
    reference = [*matrices[0::2], *matrices[1::2]]
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for number in range(batches):
        rows = trainer.rows[number * batch : (number + 1) * batch]
        wanted = slopes(lambda part: batch_loss(wide, part), rows, reference)
        for side, loss in (
            ("transformers", lambda part: batch_loss(trainer.model, part)),
            ("packed rows", lambda part: packed_loss(trainer.packed, part, trainer.shared)),
        ):
            got = slopes(loss, rows, trainer.parameters)
            a, b = (
                float((one - other).norm() / other.norm()) for one, other in zip(got, wanted, strict=True)
            )
            found[side].append((a, b))
    return found


def slopes(loss: Any, rows: list, parameters: list) -> tuple[Any, Any]:
    """The gradients of all A and of all B as two vectors, rows taken in two parts as in training."""
    import torch

    targets = sum(len(row.answer) for row in rows)
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        share = sum(len(row.answer) for row in part) / targets
        with torch.enable_grad():
            found = torch.autograd.grad(loss(part) * share, parameters)
        for into, more in zip(total, found, strict=True):
            into.add_(more)
    border = len(parameters) // 2
    return (
        torch.cat([t.flatten() for t in total[:border]]),
        torch.cat([t.flatten() for t in total[border:]]),
    )


if __name__ == "__main__":
    main()
