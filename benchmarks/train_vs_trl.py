"""Train one LoRA on a label set with rung and with TRL: tokens a second, time to one dev loss, memory.

    python benchmarks/train_vs_trl.py ../shared/data/banking77 --peer-python ../peers/bin/python

Both get the same token ids, the loss on the answer's tokens alone, the same LoRA (r = 16, alpha = 32, all
linear layers, no dropout), batch size and rate; peer_train.py says what each peer is. A token is one that
goes through the model and isn't padding. The untrained loss of rung's first batch by either side's own loss
function is printed: where they agree to within bf16's rounding, and in fp32 to all digits, both do the same
work.

`--until-steps 60` measures the training time to the dev loss that every run of the first peer has after 60
steps, `--until-loss 2.0` to that one; dev losses are taken outside of the clock by one function. rung runs
with its own recipe and with the peer's. `--prompts own` gives each tool the rows as its users would, and
compares rows a second.
"""

import argparse
import json
from typing import Any

import peer_train
from common import in_child, median, options, print_machine, spread, table, tuning_rows, with_peer
from ours_train import RECIPES

WARM = 3
"""Steps at the start that aren't timed."""
INSTRUCTION = "Classify the customer's banking question by its intent. Answer with the intent alone."


def main() -> None:
    """Run the sides in turn and print one table."""
    parser = options(__doc__)
    with_peer(parser)
    parser.add_argument(
        "--peers", nargs="+", choices=peer_train.VARIANTS, default=["trl", "trl-fast", "plain"]
    )
    parser.add_argument("--prompts", choices=["same", "own"], default="same")
    parser.add_argument("--form", choices=["codes", "words"], default="codes", help="rung's answers")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=18, help="of a run, where no loss is to be reached")
    parser.add_argument("--until-steps", type=int, default=0, help="to the loss of the first peer after them")
    parser.add_argument("--until-loss", type=float, help="nats a supervised token on dev")
    parser.add_argument("--most-steps", type=int, default=300, help="where --until-loss isn't reached")
    parser.add_argument("--every", type=int, default=5, help="steps between dev losses")
    parser.add_argument("--dev-rows", type=int, default=200)
    given = parser.parse_args()
    rows = tuning_rows(given.folder, given.form)
    first = first_batch(rows["rows"], given.batch)
    job = {
        **rows,
        "dev": rows["dev"][: given.dev_rows],
        "first": first,
        "batch": given.batch,
        "rate": given.rate,
    }
    if given.prompts == "own":
        own_prompts(given, job)
    elif given.until_steps or given.until_loss is not None:
        until_loss(given, job)
    else:
        speed(given, job)


def first_batch(rows: list, size: int) -> list[int]:
    """The rows of rung's first step with seed 0."""
    from rung.training import batches

    made = [batches.Row(prompt=tuple(prompt), answer=tuple(answer)) for prompt, answer in rows]
    return batches.epoch(made, size, 0, 0)[0]


def run(side: str, job: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """One run of a side: `rung`, `rung, peer's recipe`, or a peer's variant."""
    if side in SIDES:
        own = {key: value for key, value in job.items() if key != "conversations"}
        return in_child("ours_train.py", own | {"recipe": SIDES[side]})
    peer = in_child("peer_train.py", job | {"variant": side}, given.peer_python)
    if not run.told:
        run.told = True
        print_machine(peer["versions"])
    return peer


SIDES = dict(zip(("rung", "rung, TRL's recipe"), RECIPES, strict=True))
run.told = False


def speed(given: argparse.Namespace, job: dict[str, Any]) -> None:
    """Tokens a second of the same rows."""
    found = in_turn(["rung", *given.peers], job | {"steps": given.steps}, given)
    first = {side: runs[0]["first_loss"] for side, runs in found.items()}
    exact = in_child("ours_train.py", job | {"recipe": "own", "seed": 0, "steps": 1, "fp32": True})
    first["rung in fp32"] = exact["first_loss"]
    print("untrained loss of the first batch: " + ", ".join(f"{s} {loss:.4f}" for s, loss in first.items()))
    rates = {side: [rate(run, "tokens") for run in runs] for side, runs in found.items()}
    head = (
        "side",
        "tokens/s, median of the runs' medians",
        "rung's ratio to it",
        "rows/s",
        "peak MiB",
        "trained",
    )
    table(
        head,
        [
            [
                side,
                spread(rates[side]),
                f"{median(rates['rung']) / median(rates[side]):.2f}",
                f"{median([rate(run, 'rows') for run in runs]):.1f}",
                f"{median([run['peak_mb'] for run in runs]):,.0f}",
                f"{runs[0]['trainable']:,}",
            ]
            for side, runs in found.items()
        ],
    )


def until_loss(given: argparse.Namespace, job: dict[str, Any]) -> None:
    """Training seconds to a dev loss: a given one, or the highest that the first peer's runs end with."""
    job |= {"steps": given.until_steps or given.most_steps, "every": given.every}
    if given.until_loss is not None:
        job["until_loss"] = given.until_loss
    found = in_turn([*SIDES, *given.peers], job, given)
    ends = {side: [run["dev"][-1][2] for run in runs] for side, runs in found.items()}
    target = max(ends[given.peers[0]]) if given.until_loss is None else given.until_loss
    print("dev loss at the end: " + ", ".join(f"{side} {spread(last, '.3f')}" for side, last in ends.items()))
    ours = reached(found["rung"], target)
    lines = []
    for side, runs in found.items():
        hits, peak = reached(runs, target), f"{median([run['peak_mb'] for run in runs]):,.0f}"
        if len(hits) < len(runs):
            lines.append(
                [side, f"not reached by {len(runs) - len(hits)} of {len(runs)} runs", "–", "–", peak]
            )
            continue
        seconds = [hit[1] for hit in hits]
        ratio = median(seconds) / median([hit[1] for hit in ours]) if len(ours) == given.runs else None
        steps = f"{median([hit[0] for hit in hits]):.0f}"
        lines.append([side, spread(seconds, ".1f"), "–" if ratio is None else f"{ratio:.2f}", steps, peak])
    table(
        ("side", f"seconds to a dev loss of {target:.3f}", "its ratio to rung's", "steps", "peak MiB"), lines
    )


def own_prompts(given: argparse.Namespace, job: dict[str, Any]) -> None:
    """Rows a second, each tool with its own prompt."""
    found = in_turn(
        ["rung", *(peer for peer in given.peers if peer.startswith("trl"))],
        job | {"steps": given.steps, "first": job["first"], "conversations": conversations(given)},
        given,
    )
    print("rung sees the input, one separator token, and one token as the answer, which alone is supervised")
    shown = json.dumps(conversations(given)[0], ensure_ascii=False)
    print(f"TRL sees, under the model's chat template, every token supervised: {shown}")
    rates = {side: [rate(run, "rows") for run in runs] for side, runs in found.items()}
    head = ("side", "rows/s", "rung's ratio to it", "tokens a row", "of them supervised", "peak MiB")
    table(
        head,
        [
            [
                side,
                spread(rates[side], ".1f"),
                f"{median(rates['rung']) / median(rates[side]):.2f}",
                f"{runs[0]['tokens_per_row']:.1f}",
                f"{runs[0].get('supervised_per_row', answer_tokens(job)):.1f}",
                f"{median([run['peak_mb'] for run in runs]):,.0f}",
            ]
            for side, runs in found.items()
        ],
    )


def conversations(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The training rows as a user of TRL would write them: a system turn, the question, the label's words."""
    with (given.folder / "train.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        {
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": row["input"]},
                {"role": "assistant", "content": row["output"].replace("_", " ")},
            ]
        }
        for row in rows
    ]


def in_turn(
    sides: list[str], job: dict[str, Any], given: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Every side's runs, taken alternately, the run's number as the seed."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(given.runs):
        for side in sides:
            found[side].append(run(side, job | {"seed": number}, given))
    return found


def rate(run: dict[str, Any], unit: str) -> float:
    """Tokens or rows a second: the median of a run's steps but for the first."""
    return median([step[unit] / step["seconds"] for step in run["steps"][WARM:]])


def reached(runs: list[dict[str, Any]], loss: float) -> list[tuple[int, float, float]]:
    """(step, training seconds, loss) where a run first came to the loss; runs that never did are left out."""
    firsts = (next((look for look in run["dev"] if look[2] <= loss), None) for run in runs)
    return [first for first in firsts if first is not None]


def answer_tokens(job: dict[str, Any]) -> float:
    """Supervised tokens of a row of rung's."""
    return sum(len(answer) for _, answer in job["rows"]) / len(job["rows"])


if __name__ == "__main__":
    main()
