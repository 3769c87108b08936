"""Train one LoRA on a label set for a number of rows and print its dev accuracy, loss and speed.

    python benchmarks/tune_recipe.py ../shared/data/banking77 --form codes --rate 5e-4 --batch 32 --rows 3200

What the defaults of `sft` rest on: the same rows under another batch size, rate or answer form.
"""

import argparse
from pathlib import Path

from common import opened

from rung.rungs.sft import answer_forms
from rung.rungs.tune import Arm, Plan, Tune
from rung.training import learned, loop


def main() -> None:
    """One run, and one line that says how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds train.jsonl and test.jsonl")
    parser.add_argument("--form", choices=["codes", "words"], default="codes")
    parser.add_argument("--rate", type=float, default=5e-4, help="of A")
    parser.add_argument("--b-rate", type=float, default=learned.B_RATE, help="of B, times A's")
    parser.add_argument("--warmup", type=int, default=loop.WARMUP, help="steps")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=3200)
    parser.add_argument("--decay", type=float, default=0.5, help="share of the steps that the rate falls in")
    given = parser.parse_args()
    learned.B_RATE = given.b_rate
    with opened(given.folder) as context:
        plan = Plan(folder=context.folder / "training", budget_s=1e9, reserve_s=0.0, seed=0)
        with Tune(context, {given.form: answer_forms(context)[given.form]}, plan) as state:
            state.batch, state.warmup = given.batch, given.warmup
            arm, steps = Arm(form=given.form, rate=given.rate), given.rows // given.batch
            decay = (int(steps * (1 - given.decay)), steps)
            ticks = [*state.run(arm, decay[0]), *state.run(arm, steps, decay=decay)]
            found = state.score(arm, steps, context.dev)
    seconds = sum(tick.seconds for tick in ticks)
    print(
        f"{arm.name}, {steps} steps of {given.batch}: {found['score']:.3f} on {found['n']} dev rows, loss "
        f"{found['loss']:.3f}, {seconds:.0f} s, {given.rows / seconds:.1f} rows/s"
    )


if __name__ == "__main__":
    main()
