"""`rung check` of a growing number of short rows: seconds, rows a second and peak memory.

    python benchmarks/check_rows.py ../shared/data/banking77 --rows 10000 100000 1000000

A row is the first half of one training row and the second half of another one with its label; one in
`NUMBERED` ends with a number of its own. "rung" is the peak of its own process (VmHWM), "and children" the
most seen at once of that with llama.cpp's child, sampled twice a second. Every run writes its report, and
makes its sentence vectors, anew.
"""

import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from common import in_child, median, options, print_machine, spread, table

NUMBERED = 4


def main() -> None:
    """Each size in turn, in a fresh process."""
    parser = options(__doc__)
    parser.set_defaults(runs=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    given = parser.parse_args()
    print_machine()
    found: dict[int, list[dict]] = {size: [] for size in given.rows}
    with tempfile.TemporaryDirectory() as place:
        for size in given.rows:
            write_rows(given.folder / "train.jsonl", Path(place) / f"{size}.jsonl", size)
        for _ in range(given.runs):
            for size in given.rows:
                job = {"rows": str(Path(place) / f"{size}.jsonl")}
                found[size].append(in_child("check_rows_child.py", job))
    rows = []
    for size, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        rows.append(
            [
                f"{size:,}",
                spread(seconds, ".1f"),
                f"{size / median(seconds):,.0f}",
                spread([run["peak_mb"] for run in runs], ",.0f"),
                spread([run["tree_mb"] for run in runs], ",.0f"),
                str(runs[-1]["status"]),
            ]
        )
    table(("rows", "seconds", "rows a second", "peak MiB of rung", "and children", "exit status"), rows)


def write_rows(source: Path, target: Path, count: int) -> None:
    """`count` rows of a label task, recombined from those of `source`; the same ones each time."""
    halves: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        words = row["input"].split()
        middle = len(words) // 2
        halves[row["output"]].append((" ".join(words[:middle]), " ".join(words[middle:])))
    dice, labels = random.Random(0), sorted(halves)
    with target.open("w", encoding="utf-8") as stream:
        for number in range(count):
            label = dice.choice(labels)
            text = f"{dice.choice(halves[label])[0]} {dice.choice(halves[label])[1]}"
            if number % NUMBERED == 0:
                text += f" My number is {dice.randrange(10**7)}."
            stream.write(json.dumps({"input": text.strip(), "output": label}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
