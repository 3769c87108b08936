"""What the benchmarks share: their options, children with fresh memory, a set's rows in tokens, a table."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rung.climb.machine import describe_machine, versions
from rung.rungs.base import Context

HERE = Path(__file__).parent
USERS_ENVIRONMENT = dict(os.environ)
"""As the user has it: a peer doesn't inherit what rung sets for its own threads."""


def options(doc: str | None, *, folder: bool = True, runs: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; the docstring's first line says what it does."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if folder:
        parser.add_argument("folder", type=Path, help="holds train.jsonl and test.jsonl")
    if runs:
        parser.add_argument("--runs", type=int, default=5, help="each side in turn, so many times")
    return parser


def with_peer(parser: argparse.ArgumentParser) -> None:
    """The option that names the peer's environment."""
    parser.add_argument(
        "--peer-python", default=sys.executable, help="interpreter of the peer's environment (this one)"
    )


def print_machine(peer: dict[str, str] | None = None) -> None:
    """The machine and everything whose version can change a number, the peer's apart."""
    from rung.threads import yield_while_waiting

    if "torch" not in sys.modules:  # the machine's line loads it, where it asks for a GPU's name
        yield_while_waiting()
    print(describe_machine())
    print(", ".join(f"{name} {number}" for name, number in versions()))
    if peer:
        print("peer: " + ", ".join(f"{name} {number}" for name, number in peer.items()))


def in_child(script: str, job: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """The result of `script` of this folder in a fresh process, which gets `job` as a JSON file.

    Ends the benchmark with the end of the child's output where it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "job.json", Path(folder) / "result.json"
        given.write_text(json.dumps(job | {"folder": folder}), encoding="utf-8")
        done = subprocess.run(
            [python, str(HERE / script), str(given), str(result)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=USERS_ENVIRONMENT,
        )
        if done.returncode or not result.exists():
            sys.exit(f"{script} failed with exit status {done.returncode}:\n{done.stdout[-3000:]}")
        return json.loads(result.read_text(encoding="utf-8"))


@contextmanager
def opened(folder: Path, dev_rows: int | None = None) -> Iterator[Context]:
    """A label set as the rungs get it, with the default model, no deadline, and a folder for the while."""
    from rung.checks.rows import prepare
    from rung.climb.climb import Options
    from rung.evaluate import Bench, Store
    from rung.models.resolve import resolve
    from rung.report.text import Screen
    from rung.system import Pool

    prepared = prepare(folder / "train.jsonl", Options(test=folder / "test.jsonl", dev_rows=dev_rows))
    with tempfile.TemporaryDirectory() as place, Screen() as screen, Pool(say=screen.say) as pool:
        yield Context(
            task=prepared.task,
            train=prepared.splits.train,
            dev=prepared.splits.dev,
            model=resolve(prepared.task.models[0]),
            folder=Path(place),
            bench=Bench(pool=pool, store=Store(Path(place) / "answers"), metric="accuracy"),
            reporter=screen,
            deadline=time.monotonic() + 1e9,
            seed=0,
        )


def tuning_rows(folder: Path, form: str) -> dict[str, Any]:
    """What a tune learns from and is scored on: {"weights", "rows", "dev"}, a row as (prompt, answer)."""
    from rung.models.weights import dequantised
    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import rows_of

    with opened(folder) as context:
        spec = answer_forms(context)[form]
        train, dev = (
            [(row.prompt, row.answer) for row in rows_of(context, spec, part)]
            for part in (context.train, context.dev)
        )
        return {"weights": str(dequantised(context.model)), "rows": train, "dev": dev}


def median(values: Sequence[float]) -> float:
    """The median. Raises StatisticsError without values: no run is no number."""
    return statistics.median(values)


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """The median with the least and the most, for a cell of a table."""
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def use_all_cores() -> None:
    """rung's own threads in this process: asleep while idle, one for each core. Before torch loads."""
    from rung.threads import yield_while_waiting

    assert "torch" not in sys.modules or os.environ.get("OMP_WAIT_POLICY"), "torch's threads spin already"
    yield_while_waiting()
    import torch

    from rung.engines.cores import available_cores

    torch.set_num_threads(available_cores())
