"""Other ways to tune here beside rung's LoRA: over the blocks of the GGUF file, and every weight in fp32.

    python benchmarks/full_and_qlora.py ../shared/data/banking77 --peer-python ../peers/bin/python

`blocks` is rung's own (`tuning: {method: qlora}` without a GPU), as is `all` (`method: full`), of every
weight in the model's blocks. `full` is a plain loop of transformers and torch's AdamW, of every weight that
there is. `packed` loads the GGUF file with its weights left in their blocks (transformers' GgufConfig), with
PEFT's LoRA on top; where that can't be done here the reason is printed and no number.
"""

from typing import Any

from common import (
    in_child,
    median,
    options,
    print_machine,
    spread,
    table,
    tuning_rows,
    with_peer,
)

WARM = 2
SIDES = ("rung", "blocks", "all", "full", "packed")
OURS = ("rung", "blocks", "all")


def main() -> None:
    """Every way in turn, each in a fresh process."""
    parser = options(__doc__)
    with_peer(parser)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    given = parser.parse_args()
    sides = [side for side in SIDES if side == "rung" or side in given.sides]
    from rung.models.resolve import resolve

    gguf = resolve("smollm2-135m").gguf
    job: dict[str, Any] = {
        **tuning_rows(given.folder, "codes"),
        "gguf": str(gguf),
        "batch": given.batch,
        "rate": 5e-5,
        "steps": given.steps,
        "recipe": "own",
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(given.runs):
        for side in sides:
            if any("refusal" in run for run in found[side]):
                continue
            asked = job | {"seed": number, "variant": side, "in_blocks": side == "blocks"}
            asked |= {"method": "full" if side == "all" else "lora"}
            if side in OURS:
                found[side].append(in_child("ours_train.py", asked))
            else:
                found[side].append(in_child("peer_train.py", asked, given.peer_python))
    print_machine(found["rung"][0]["versions"])
    ours = [speed(run) for run in found["rung"]]
    lines = []
    for side, runs in found.items():
        if "refusal" in runs[0]:
            lines.append([side, "–", "–", "–", "–"])
            print(f"{side}: {runs[0]['refusal']}")
            continue
        speeds = [speed(run) for run in runs]
        peak = median([run["peak_mb"] for run in runs])
        ratio = f"{median(ours) / median(speeds):.2f}"
        lines.append([side, spread(speeds), ratio, f"{peak:,.0f}", f"{runs[0]['trainable']:,}"])
    table(("way", "tokens/s", "rung's ratio to it", "peak MiB", "trained"), lines)


def speed(run: dict[str, Any]) -> float:
    """Tokens a second: the median of a run's steps but for the first."""
    return median([step["tokens"] / step["seconds"] for step in run["steps"][WARM:]])


if __name__ == "__main__":
    main()
