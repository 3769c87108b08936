"""Training steps of a LoRA, and their share of what the machine's matrix product allows.

    python benchmarks/train_step.py ../shared/data/banking77 --batch 32

Useful operations: 4 for each weight of a linear layer and token (forward, and the gradient of the inputs: the
weights are frozen), 4 for each weight of the head and supervised position, and LoRA's own 6 for each of its
weights and token, which are shown apart. What isn't done doesn't count: after its attention the last block
sees supervised positions alone, and the first one's queries, keys and values need no gradient of their input.
Attention's products and everything else, filling included, count as nothing.
"""

import tempfile
from pathlib import Path
from typing import Any

from common import median, options, print_machine, spread, table, tuning_rows, use_all_cores
from machine_limit import head_parameters, linear_parameters, operations_forward, product_gflops

WARM = 3


def operations(model: Any, tokens: float, supervised: float) -> float:
    """Those of a step's frozen weights on so many tokens, of which `supervised` are learned from."""
    unneeded = 2 * tokens * linear_parameters(model)[0][0]
    blocks = 2 * operations_forward(model, tokens, supervised) - unneeded
    return blocks + 4 * supervised * head_parameters(model)


def added_operations(model: Any, tokens: float, supervised: float) -> float:
    """The same of LoRA's own weights."""
    from rung.engines import lora

    found, blocks = 0.0, len(model.model.layers)
    for name, layer in lora.layers(model):
        block = int(name.split(".layers.")[1].partition(".")[0])
        before = name.endswith(("q_proj", "k_proj", "v_proj"))
        seen = supervised if block == blocks - 1 and not before else tokens
        found += 6 * seen * (layer.lora_a.numel() + layer.lora_b.numel())
        if block == 0 and before:
            found -= 2 * seen * layer.lora_a.numel()
    return found


def main() -> None:
    """Runs of some steps each, in one process, with the limit taken before and after."""
    parser = options(__doc__)
    parser.add_argument("--form", choices=["codes", "words"], default="codes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="of a run")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.engines.torch import load_model
    from rung.training.batches import Row
    from rung.training.loop import Settings, Trainer
    from rung.training.methods import ALPHA, RANK

    data = tuning_rows(given.folder, given.form)
    rows = [Row(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in data["rows"]]
    model = load_model(Path(data["weights"]), attention="eager")
    settings = Settings(learning_rate=5e-4, batch_size=given.batch, rank=RANK, alpha=ALPHA)
    limit = product_gflops()
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, rows, settings, Path(folder), "")
        list(trainer.run(WARM))
        for _ in range(given.runs):
            speeds.append(median([t.tokens_per_s for t in trainer.run(trainer.step + given.steps)]))
        trainer.close()
    limit = max(limit, product_gflops())
    supervised = sum(len(row.answer) for row in rows) / sum(row.tokens for row in rows)
    speed = median(speeds) / 1e9
    useful = speed * operations(model, 1, supervised)
    added = speed * added_operations(model, 1, supervised)
    table(
        ("batch", "tokens/s", "useful GFLOP/s", "of the limit", "LoRA's own GFLOP/s", "limit, GFLOP/s"),
        [
            [
                str(given.batch),
                spread(speeds),
                f"{useful:.0f}",
                f"{useful / limit:.0%}",
                f"{added:.0f}",
                f"{limit:.0f}",
            ]
        ],
    )


if __name__ == "__main__":
    main()
