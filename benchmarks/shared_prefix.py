"""Training rows that all begin with one long instruction: rung's loop with the shared prefix and without.

    python benchmarks/shared_prefix.py --prefix 300 --rest 15 --batch 32

Random token ids, so that only lengths matter. Both sides start from the same weights; the losses of their
first step are printed and agree to within bf16's rounding. Tokens a second count every token of a row, the
prefix included, as if none were shared.
"""

import random
import sys
from typing import Any

from common import in_child, median, options, print_machine, spread, table

WARM = 2
SIDES = {"without": False, "with the shared prefix": True}
VOCABULARY = 40_000
ROWS = 512


def main() -> None:
    """Both sides in turn, each in a fresh process."""
    parser = options(__doc__, folder=False)
    parser.add_argument("--prefix", type=int, default=300, help="tokens that every row begins with")
    parser.add_argument("--rest", type=int, default=15, help="tokens of a row after them")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    print_machine()
    from rung.models.resolve import resolve
    from rung.models.weights import dequantised

    draw = random.Random(0)
    prefix = [draw.randrange(100, VOCABULARY) for _ in range(given.prefix)]
    rests = [[draw.randrange(100, VOCABULARY) for _ in range(given.rest)] for _ in range(ROWS)]
    job: dict[str, Any] = {
        "weights": str(dequantised(resolve("smollm2-135m"))),
        "rows": [([*prefix, *rest], [draw.randrange(100, VOCABULARY)]) for rest in rests],
        "batch": given.batch,
        "rate": 5e-4,
        "steps": given.steps,
        "seed": 0,
        "recipe": "own",
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(given.runs):
        for side, shared in SIDES.items():
            found[side].append(in_child("ours_train.py", job | {"shared_prefix": shared}))
    if not found["with the shared prefix"][0]["shared_prefix"]:
        sys.exit("this version's trainer shares no prefix: both sides would be the same loop")
    print("loss of the first step: " + ", ".join(f"{s} {r[0]['first_loss']:.4f}" for s, r in found.items()))
    speeds = {side: [speed(run) for run in runs] for side, runs in found.items()}
    rows = [
        [
            side,
            spread(speeds[side]),
            f"{median(speeds[side]) / median(speeds['without']):.2f}",
            f"{median([run['peak_mb'] for run in runs]):,.0f}",
        ]
        for side, runs in found.items()
    ]
    table(("side", "tokens/s", "ratio", "peak MiB"), rows)


def speed(run: dict[str, Any]) -> float:
    """Tokens a second: the median of a run's steps but for the first."""
    return median([step["tokens"] / step["seconds"] for step in run["steps"][WARM:]])


if __name__ == "__main__":
    main()
