"""What a tune learns with rung's packed rows and with transformers' own forward and backward passes.

    python benchmarks/same_accuracy.py ../shared/data/banking77 --rows 3200

The same rows in the same order at the same rates, once for each seed and side; half of the steps at a falling
rate. Both are scored by one engine on the dev and the test rows; no choice rests on either.
"""

from pathlib import Path

from common import median, opened, options, print_machine, table, use_all_cores
from label_scoring import context_rows

SIDES = ("transformers", "packed rows")
RATE = 5e-4


def main() -> None:
    """Both sides for each seed, and the mean gain of the second."""
    parser = options(__doc__, runs=False)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3200, help="to train on")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--test-rows", type=int, default=3080)
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import Arm, Plan, Tune
    from rung.training import loop

    over_packs = loop.packed
    asked = context_rows(given.folder, given.test_rows)
    arm, steps = Arm(form="codes", rate=RATE), given.rows // given.batch
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    lines = []
    for seed in range(given.seeds):
        for side in SIDES:
            loop.packed = over_packs if side == "packed rows" else lambda model: None
            with opened(given.folder) as context:
                plan = Plan(folder=Path(context.folder) / "training", budget_s=1e9, reserve_s=0.0, seed=seed)
                with Tune(context, {"codes": answer_forms(context)["codes"]}, plan) as state:
                    state.batch = given.batch
                    ticks = [*state.run(arm, steps // 2), *state.run(arm, steps, decay=(steps // 2, steps))]
                    scored = state.score(arm, steps, (*context.dev, *asked))
                    answers = state.score(arm, steps, context.dev)
            speed = median([tick.tokens_per_s for tick in ticks])
            found[side].append((answers["score"], scored["score"]))
            lines.append([str(seed), side, *(f"{score:.4f}" for score in found[side][-1]), f"{speed:.0f}"])
    rows = f"{len(context.dev)} dev rows"
    table(("seed", "side", rows, f"with {len(asked):,} test rows", "tokens/s"), lines)
    for place, name in enumerate(("dev rows", "dev and test rows")):
        old, new = ([run[place] for run in found[side]] for side in SIDES)
        gains = [100 * (b - a) for a, b in zip(old, new, strict=True)]
        mean = sum(gains) / len(gains)
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name}: packed rows gain {mean:+.2f} points on average ({each} by seed)")


if __name__ == "__main__":
    main()
