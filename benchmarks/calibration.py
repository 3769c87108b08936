"""How far probabilities are off before and after calibration, by rung, on test rows of public label sets.

    python benchmarks/calibration.py ../shared/data/trec_coarse ../shared/data/glue_sst2

Every rung is climbed alone, so that none is stopped. The map is fitted on its dev rows, and the figures are
of test rows, which nothing else looks at. Training and test rows are the first of a seeded shuffle.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import options, print_machine, table, use_all_cores

from rung.records import RungResult

RUNGS = ("head", "prompt", "few_shot", "sft")
HEAD = (
    "set",
    "rung",
    "dev rows",
    "test rows",
    "accuracy",
    "calibration",
    "ECE",
    "ECE, 15 bins",
    "by chance",
    "Brier score",
    "log-loss",
)


def main() -> None:
    """One climb for each set and rung."""
    parser = options(__doc__, folder=False, runs=False)
    parser.add_argument("folders", type=Path, nargs="+", help="each holds train.jsonl and test.jsonl")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="with commas between")
    parser.add_argument("--train", type=int, default=1500, help="rows to learn from and to choose by")
    parser.add_argument("--dev", type=int, default=300, help="of these to choose and calibrate by")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=6.0, help="for each climb, the test not counted")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    lines = []
    for folder in given.folders:
        for rung in given.rungs.split(","):
            lines += lines_of(folder.name, rung, climbed(folder, rung, given))
    table(HEAD, lines)


def climbed(folder: Path, rung: str, given) -> RungResult | None:
    """The result of a rung that is climbed alone; None where it can't be, which is said."""
    from rung.climb.climb import climb
    from rung.climb.options import Options
    from rung.errors import RungError
    from rung.report.text import Screen

    with tempfile.TemporaryDirectory() as place, Screen() as screen:
        for name, count in (("train", given.train), ("test", given.test)):
            rows = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            chosen = random.Random(0).sample(rows, min(count, len(rows)))
            (Path(place) / f"{name}.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
        asked = Options(
            test=Path(place) / "test.jsonl",
            out=Path(place) / "run",
            budget_s=60 * given.minutes,
            dev_rows=given.dev,
            rungs=(rung,),
        )
        try:
            found, _ = climb(Path(place) / "train.jsonl", asked, screen)
        except RungError as error:
            print(f"{folder.name}, {rung}: {error}", flush=True)
            return None
    return found.results[0]


def lines_of(name: str, rung: str, result: RungResult | None) -> Iterator[list[str]]:
    """A rung's line of the table, before and after."""
    from rung.report.summary import map_text

    if result is None or result.calibration is None or result.calibration.test is None or not result.test:
        return
    found, test = result.calibration, result.test
    before, after = result.calibration.test
    print(f"{name}, {rung}: {result.what}; {found.note}", flush=True)

    def both(figure: str) -> str:
        return f"{getattr(before, figure):.3f} → {getattr(after, figure):.3f}"

    yield [
        name,
        rung,
        f"{found.rows:,}",
        f"{before.n:,}",
        f"{test.score:.3f}",
        map_text(found.map) + ("" if found.every_label else ", answers alone"),
        both("ece"),
        both("ece_15"),
        f"{before.ece_15_by_chance:.3f}",
        both("brier"),
        both("log_loss"),
    ]


if __name__ == "__main__":
    main()
