"""Climb public data sets with their official test rows and print each table of rungs as Markdown.

    python benchmarks/climb_sets.py ../shared/data --sets sms_spam trec_coarse --budget 20m --out runs/sets

Each set is a folder with train.jsonl and test.jsonl. A climb that is complete is only read again.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from rung.climb.climb import load_climb
from rung.climb.machine import describe_machine, versions
from rung.records import Climb, Measurement, RungResult


def main() -> None:
    """Run the climbs one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--out", type=Path, default=Path("runs/sets"))
    parser.add_argument("--test-all", action="store_true", help="score every rung on the test rows")
    given = parser.parse_args()
    print(describe_machine())
    print(", ".join(f"{name} {number}" for name, number in versions()))
    for name in given.sets:
        run = given.out / name
        start = time.monotonic()
        subprocess.run(
            [
                *(sys.executable, "-m", "rung", "climb", given.folder / name / "train.jsonl"),
                *("--test", given.folder / name / "test.jsonl", "--budget", given.budget, "--out", run),
                *(["--test-all"] if given.test_all else []),
            ],
            check=True,
            stdout=subprocess.DEVNULL if not os.environ.get("RUNG_SHOW") else None,
        )
        show(name, load_climb(run), time.monotonic() - start)


def show(name: str, climb: Climb, wall_s: float) -> None:
    """One climb as a Markdown table."""
    rows = f"{climb.n_train:,} train / {climb.n_dev} dev / {climb.n_test:,} test rows"
    print(f"\n### {name}: {climb.metric}, {rows}")
    print("\n| rung | dev | test | s per answer | p50 / p95 ms | build s | peak MB | what |")
    print("|---|---|---|---|---|---|---|---|")
    for result in climb.results:
        print(line(result))
    for result in climb.results:
        if result.parity is not None:
            found = result.parity
            print(
                f"\nparity of {result.rung}: {found.agreement:.1%} of {found.agreement_rows} rows agree, "
                f"log-probabilities differ by {found.mean_difference:.3f} on average, "
                f"{found.max_difference:.2f} at most"
            )
    print(f"\n{climb.decision.kind}: {climb.decision.sentence}")
    print(f"\nwall time {climb.seconds:.0f} s, this call {wall_s:.0f} s")


def line(result: RungResult) -> str:
    """One rung as a row of the table."""
    if result.dev is None:
        return f"| {result.rung} | – | – | – | – | – | – | {result.skipped or result.failed} |"
    cells = [
        result.rung,
        scored(result.dev) + (f", {result.stopped.rows} rows" if result.stopped else ""),
        scored(result.test),
        f"{result.dev.seconds_per_answer:.4f}",
        "–" if result.stopped else f"{1000 * result.dev.p50_s:.0f} / {1000 * result.dev.p95_s:.0f}",
        f"{result.build_s:.0f}",
        f"{result.build_peak_mb:.0f}",
        result.what,
    ]
    return f"| {' | '.join(cells)} |"


def scored(found: Measurement | None) -> str:
    """A score with its interval."""
    if found is None:
        return "–"
    return f"{found.score:.3f} ({found.interval.low:.3f}–{found.interval.high:.3f})"


if __name__ == "__main__":
    main()
