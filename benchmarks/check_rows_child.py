"""What check_rows.py measures: one `rung check`, in a process of its own."""

import time
from pathlib import Path

import child

from rung.cli.main import run
from rung.climb.machine import Watch


def main() -> None:
    """Run the command as a user does and write its exit status, time and memory."""
    job = child.job()
    start = time.perf_counter()
    with Watch(lambda: None) as watch:
        status = run(["check", job["rows"], "--out", str(Path(job["folder"]) / "report")])
    seconds = time.perf_counter() - start
    child.finish({"status": status, "seconds": seconds, "tree_mb": watch.peak_mb})


if __name__ == "__main__":
    main()
