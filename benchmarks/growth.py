"""Seconds of each phase of a climb with some rows and with ten times as many, and the factor.

    python benchmarks/growth.py ../shared/data/banking77 --rows 1000

Rows are drawn at random from train.jsonl. A factor of 10.5 at most is what every phase should keep to; a
lookup is of one query among all stored rows, labels are scored for a tenth of the rows.
"""

import gc
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import median, opened, options, print_machine, table, use_all_cores

TIMES = 10
REACH = 10.5


def main() -> None:
    """Both sizes in turn, in one process; medians of the runs."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="of the small size")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    lines = (given.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    sizes = (given.rows, given.rows * TIMES)
    if len(lines) < sizes[1]:
        parser.error(f"{str(given.folder)!r} has {len(lines):,} training rows; {sizes[1]:,} are needed")
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as place:
        phases(cut(Path(place) / "warm", lines, sizes[0], given.folder), sizes[0])
        for _ in range(given.runs):
            for size in sizes:
                found[size].append(phases(cut(Path(place) / str(size), lines, size, given.folder), size))
    rows = []
    for phase in found[sizes[0]][0]:
        small, large = (median([run[phase] for run in found[size]]) for size in sizes)
        factor = large / small
        rows.append(
            [phase, f"{small:.4f}", f"{large:.4f}", f"{factor:.1f}", "yes" if factor <= REACH else "no"]
        )
    table(("phase", f"s, {sizes[0]:,} rows", f"s, {sizes[1]:,} rows", "factor", f"at most {REACH}"), rows)


def cut(folder: Path, lines: list[str], size: int, source: Path) -> Path:
    """A set of `size` training rows in a folder of its own, with the whole test."""
    folder.mkdir(exist_ok=True)
    chosen = random.Random(0).sample(lines, size)
    (folder / "train.jsonl").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    (folder / "test.jsonl").write_text((source / "test.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def phases(folder: Path, size: int) -> dict[str, float]:
    """Seconds by phase, each through rung's own functions."""
    spent: dict[str, float] = {}

    def timed(phase: str, call: Callable[[], Any], share: int = 1) -> Any:
        gc.collect()  # no phase pays for what another left
        start = time.perf_counter()
        found = call()
        spent[phase] = (time.perf_counter() - start) / share
        return found

    learned(folder, timed)
    # As large a share of both sizes is left for training: a climb's own dev part stops growing at 500 rows.
    with opened(folder, dev_rows=size // TIMES) as context:
        scored(context, size, timed)
    return spent


def learned(folder: Path, timed: Callable[..., Any]) -> None:
    """Reading, parting and checking rows; heads; neighbours."""
    import numpy as np

    from rung.checks.base import Subject
    from rung.checks.rows import near_duplicates
    from rung.checks.table import check
    from rung.data import splits
    from rung.data.sources import conform, read_source
    from rung.models.embed import Embedder
    from rung.models.head import counted, fit_tfidf
    from rung.system import nearest
    from rung.task import infer, load_task, settle_kind

    source = timed("reading", lambda: read_source(folder / "train.jsonl"))
    task, _ = settle_kind(load_task(folder / "train.jsonl", test=None), source.examples)
    rows = conform(source.examples, "label")
    timed("grouping equal inputs", lambda: splits._blocks(rows))
    parts = timed("splits", lambda: splits.split(rows, test=None, seed=0, stratify=True))
    task, _ = timed("inferring the task", lambda: infer(task, (*parts.train, *parts.dev)))
    near = timed("near duplicates", lambda: near_duplicates(rows))
    subject = Subject(task=task, splits=parts, near=near)
    timed("checks", lambda: check(subject, (), ("rows",)))
    texts, targets = [row.input for row in rows], [str(row.output) for row in rows]
    timed("TF-IDF head", lambda: fit_tfidf(counted(texts), targets, 1.0, 0))
    embedder = Embedder()
    embedder.embed(texts[:1])
    vectors = timed("sentence vectors", lambda: embedder.embed(texts))
    queries = np.ascontiguousarray(vectors[:50])
    timed("neighbours of one", lambda: [nearest(q[None], vectors, 8) for q in queries], len(queries))
    timed("neighbours of 50 at once", lambda: nearest(queries, vectors, 8))


def scored(context: Any, size: int, timed: Callable[..., Any]) -> None:
    """Rows into tokens, tokens into batches, labels scored."""
    from rung.asking import candidates
    from rung.engines.base import EngineSpec
    from rung.models.weights import dequantised
    from rung.rungs.sft import answer_forms
    from rung.rungs.tune import rows_of
    from rung.training.batches import epoch

    spec = answer_forms(context)["codes"]
    rows = timed("rows into tokens", lambda: rows_of(context, spec, context.train))
    timed("batches of an epoch", lambda: epoch(rows, 32, 0, 0))
    weights = dequantised(context.model)
    engine = context.pool.engine(EngineSpec(engine="torch", weights=weights, context=context.limit))
    labels = candidates(spec, context.pool.chat(context.model))
    prompts = [row.prompt for row in rows[: size // TIMES]]
    engine.choose(prompts[:8], labels)
    timed(f"labels of 1 in {TIMES} rows", lambda: engine.choose(prompts, labels))


if __name__ == "__main__":
    main()
