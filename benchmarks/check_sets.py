"""`rung check` of every set of a folder, each in a fresh process: what it finds, seconds and peak memory.

    python benchmarks/check_sets.py ../shared/data

Each set is a folder with train.jsonl and test.jsonl. Memory is the most that the command and the engines that
it starts hold together.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import options, print_machine, table

from rung.checks.data_report import DataReport
from rung.checks.examine import REPORT_FILE, read_report
from rung.climb.machine import resident_mb
from rung.records import Severity

EVERY_S = 0.1


def main() -> None:
    """Every set, or those that are named, one after the other."""
    parser = options(__doc__, folder=False, runs=False)
    parser.add_argument("folder", type=Path, help="holds a folder for each set")
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, help="keeps each set's report in a folder of this one")
    given = parser.parse_args()
    print_machine()
    names = given.sets or sorted(path.parent.name for path in given.folder.glob("*/train.jsonl"))
    with tempfile.TemporaryDirectory() as passing:
        out = given.out or Path(passing)
        lines = [checked(given.folder / name, out / name) for name in names]
    table(("set", "rows", "blocks on", "warns of", "s", "peak MiB"), lines)


def checked(folder: Path, out: Path) -> list[str]:
    """A set's line of the table. Ends the benchmark where the command fails to look."""
    (out / REPORT_FILE).unlink(missing_ok=True)
    start, peak_mb = time.monotonic(), 0.0
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "rung", "check", folder / "train.jsonl"),
            *("--test", folder / "test.jsonl", "--out", out),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        while child.poll() is None:
            peak_mb = max(peak_mb, resident_mb(child.pid))
            time.sleep(EVERY_S)
        seconds = time.monotonic() - start
        if not (out / REPORT_FILE).exists():
            assert child.stderr is not None, "it was asked for"
            sys.exit(f"rung check {folder} failed with exit status {child.returncode}: {child.stderr.read()}")
    report = read_report(out)
    rows = sum(count for _, count in report.parts)
    found = [said(report, severity) for severity in ("block", "warn")]
    return [folder.name, f"{rows:,}", *found, f"{seconds:.0f}", f"{peak_mb:,.0f}"]


def said(report: DataReport, severity: Severity) -> str:
    """The checks that found something of this gravity, each with the rows that it names."""
    found = [finding for finding in report.findings if finding.severity == severity]
    return ", ".join(f"{f.check} {f.count:,}" if f.count else f.check for f in found) or "–"


if __name__ == "__main__":
    main()
