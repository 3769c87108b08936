"""Rows a second by the size of what is read at once: torch's portions of tokens, llama.cpp's slots.

    python benchmarks/batch_sizes.py ../shared/data/banking77 --rows 48

Labels are scored after the prompts of `few_shot` with the nearest examples and, by torch, after short ones
of a tune. What the engines use is marked; a probe at the start of a climb would pay where another size were
clearly faster.
"""

import argparse
import time

from common import median, opened, options, print_machine, spread, table, use_all_cores
from evaluate_vs_llamacpp import questions

READ_TOKENS = (256, 512, 1024, 2048)
SLOTS = (2, 4, 8, 16)


def main() -> None:
    """Every size of torch's in turn, then every number of slots."""
    parser = options(__doc__)
    parser.add_argument(
        "--rows", type=int, default=48, help="of the dev rows; ten times as many short prompts"
    )
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    import torch

    long = questions(argparse.Namespace(folder=given.folder, shots=8, rows=given.rows))
    from rung.asking import candidates, prompts_for
    from rung.engines import packed, start
    from rung.engines import torch as torch_engine
    from rung.engines.base import EngineSpec
    from rung.engines.parallel import workers
    from rung.engines.torch import TorchEngine
    from rung.rungs.sft import answer_forms
    from rung.system import Pool

    with opened(given.folder) as context:
        chat, spec = context.pool.chat(context.model), answer_forms(context)["codes"]
        rows = context.dev[: 10 * given.rows]
        short = prompts_for(spec, chat, rows, [[] for _ in rows])
        codes = candidates(spec, chat)
    count = workers(torch.device("cpu"))
    used, slots = packed.READ_TOKENS, Pool().parallel
    engine = TorchEngine(EngineSpec(engine="torch", weights=long.weights, context=long.context))
    found: dict[tuple[str, int], list[float]] = {}

    def timed(name: str, size: int, prompts: list, labels: list, asked: object) -> None:
        start_s = time.perf_counter()
        asked.choose(prompts, labels)  # type: ignore[attr-defined]
        found.setdefault((name, size), []).append(len(prompts) / (time.perf_counter() - start_s))

    engine.choose(long.warm, long.candidates)
    for _ in range(given.runs):
        for size in READ_TOKENS:
            packed.READ_TOKENS = size
            torch_engine.PROMPT_TOKENS = size * count
            timed("torch, long prompts", size, long.prompts, long.candidates, engine)
            timed("torch, short prompts", size, short, codes, engine)
    engine.close()
    for size in SLOTS:
        llama = start(EngineSpec(engine="llama", gguf=long.gguf, context=long.context, parallel=size))
        llama.choose(long.warm[:2], long.candidates)
        for _ in range(given.runs):
            timed("llama, long prompts", size, long.prompts, long.candidates, llama)
        llama.close()
    lines = []
    for (name, size), rates in found.items():
        usual = found[name, slots if name.startswith("llama") else used]
        mark = " (used)" if rates is usual else ""
        lines.append([name, f"{size:,}{mark}", spread(rates, ".2f"), f"{median(rates) / median(usual):.2f}"])
    table(("", "tokens or slots at once", "rows/s", "to what is used"), lines)


if __name__ == "__main__":
    main()
