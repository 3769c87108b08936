"""Peak resident memory of what a climb does, each in a fresh process.

    python benchmarks/memory.py ../shared/data/banking77

A process's peak is read from the kernel at its end (VmHWM where there is one, else ru_maxrss); llama.cpp's
child isn't part of it.
"""

from common import in_child, median, options, print_machine, spread, table
from memory_stages import STAGES


def main() -> None:
    """Every stage in turn."""
    parser = options(__doc__)
    parser.add_argument("--tune-s", type=float, default=240.0, help="seconds that the whole tune may take")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    given = parser.parse_args()
    print_machine()
    job = {"set": str(given.folder.resolve()), "tune_s": given.tune_s}
    found: dict[str, list[dict]] = {stage: [] for stage in given.stages}
    for _ in range(given.runs):
        for stage in given.stages:
            found[stage].append(in_child("memory_stages.py", job | {"stage": stage}))
    rows = []
    for stage, runs in found.items():
        seconds = median([run["seconds"] for run in runs])
        rows.append(
            [STAGES[stage].__doc__ or "", spread([run["peak_mb"] for run in runs], ",.0f"), f"{seconds:.1f}"]
        )
    table(("what", "peak MiB", "seconds"), rows)


if __name__ == "__main__":
    main()
