"""Rows a second and answers by the type of llama.cpp's weights: its own file, others made of it, and torch.

    python benchmarks/weight_types.py ../shared/data/banking77 --rows 32

Labels are scored after the prompts of `few_shot` with the nearest examples, and text is written after the
last tokens of such prompts by eight requests at a time. A climb races the file as it is, torch and
q8_0: a type pays where it's clearly faster than both of the others.
"""

import argparse
import operator
import tempfile
import time
from pathlib import Path
from typing import Any

from common import median, options, print_machine, spread, table, use_all_cores
from evaluate_vs_llamacpp import Questions, questions

TYPES = ("q8_0", "q4_0", "bf16")
WRITTEN_TOKENS, AT_ONCE, READ_TOKENS = 64, 8, 16


def main() -> None:
    """All sides stay open and take turns."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=32, help="of the dev rows")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    asked = questions(argparse.Namespace(folder=given.folder, shots=8, rows=given.rows))
    from rung.engines import start
    from rung.engines.base import EngineSpec
    from rung.models.gguf_file import write_retyped
    from rung.models.weight_types import WRITTEN

    with tempfile.TemporaryDirectory() as place:
        files = {"its own file": asked.gguf}
        for name in TYPES:
            files[name] = Path(place) / f"{name}.gguf"
            write_retyped(asked.gguf, files[name], WRITTEN[name])
        sides = {
            f"llama.cpp, {name}": start(EngineSpec(engine="llama", gguf=file, context=asked.context))
            for name, file in files.items()
        }
        sides["torch"] = start(EngineSpec(engine="torch", weights=asked.weights, context=asked.context))
        sizes = {f"llama.cpp, {name}": file.stat().st_size / 2**20 for name, file in files.items()}
        chosen: dict[str, list[int]] = {}
        read: dict[str, list[float]] = {name: [] for name in sides}
        written: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(given.runs + 1):
            for name, engine in sides.items():
                answers, rows_s = scored(engine, asked)
                tokens_s = wrote(engine, asked)
                if turn:  # the first round waits for the weights
                    chosen[name] = answers
                    read[name].append(rows_s)
                    written[name].append(tokens_s)
        for engine in sides.values():
            engine.close()
    own = "llama.cpp, its own file"
    table(
        ("", "MiB", "labels scored, rows/s", "to its own file", "tokens written a second", "same labels"),
        [
            [
                name,
                f"{sizes[name]:.0f}" if name in sizes else "–",
                spread(read[name], ".2f"),
                f"{median(read[name]) / median(read[own]):.2f}",
                spread(written[name]),
                f"{sum(map(operator.eq, chosen[name], chosen[own]))} of {len(chosen[own])}",
            ]
            for name in sides
        ],
    )


def scored(engine: Any, asked: Questions) -> tuple[list[int], float]:
    """The labels chosen, and rows a second."""
    start_s = time.perf_counter()
    found = engine.choose(asked.prompts, asked.candidates)
    return [choice.index for choice in found], len(found) / (time.perf_counter() - start_s)


def wrote(engine: Any, asked: Questions) -> float:
    """Tokens a second, with no token that would end an answer early."""
    from rung.engines.base import Request

    ends = [prompt[-READ_TOKENS:] for prompt in asked.prompts[:AT_ONCE]]
    requests = [Request(prompt=end, max_tokens=WRITTEN_TOKENS) for end in ends]
    start_s = time.perf_counter()
    found = engine.generate(requests)
    return sum(len(one.tokens) for one in found) / (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
