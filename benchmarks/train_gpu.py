"""rung's Trainer on one NVIDIA GPU: eager, compiled, and with Liger's kernels where they are installed.

    python benchmarks/train_gpu.py ../shared/data/banking77 --batch 32 --steps 60

The same rows, seed and rate in bf16; AdamW is torch's fused kernel. Prints tokens a second, the most GPU
memory that torch held, and the last dev loss. Exit status 2 where there is no NVIDIA GPU.
"""

import sys
from typing import Any

from common import in_child, median, options, print_machine, spread, table, tuning_rows

WARM = 10
VARIANTS = ("eager", "compiled", "liger")


def main() -> None:
    """Every variant in turn, each in a fresh process."""
    parser = options(__doc__)
    parser.add_argument("--form", choices=["codes", "words"], default="words")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no NVIDIA GPU that torch can use is here: nothing was measured", file=sys.stderr)
        sys.exit(2)
    print_machine()
    print(torch.cuda.get_device_name())
    data = tuning_rows(given.folder, given.form)
    job = {**data, "dev": data["dev"][:200], "batch": given.batch, "steps": given.steps}
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in given.variants}
    for number in range(given.runs):
        for variant in given.variants:
            found[variant].append(in_child("train_gpu_child.py", job | {"variant": variant, "seed": number}))
    lines = []
    for variant, runs in found.items():
        if any("missing" in run for run in runs):
            lines.append([variant, runs[0]["missing"], "–", "–", "–", "–"])
            continue
        speeds = [run["tokens_per_s"] for run in runs]
        base = median([run["tokens_per_s"] for run in found[given.variants[0]]])
        lines.append(
            [
                variant,
                spread(speeds),
                f"{median(speeds) / base:.2f}",
                f"{median([run['gpu_mb'] for run in runs]):,.0f}",
                f"{median([run['dev_loss'] for run in runs]):.4f}",
                f"{median([run['first_s'] for run in runs]):.1f}",
            ]
        )
    head = ("variant", "tokens/s", f"ratio to {given.variants[0]}", "GPU MiB", "dev loss", "first step, s")
    table(head, lines)


if __name__ == "__main__":
    main()
