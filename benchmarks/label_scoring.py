"""Choose among a set's labels for short prompts: rows a second, and the share of the machine's limit.

    python benchmarks/label_scoring.py ../shared/data/banking77 --rows 2000

The torch engine without an adapter, the prompts of a tune. Useful operations: 2 for each weight of a linear
layer and token that was read, and 2 for each of the head's weights of the labels' first tokens. Attention
counts as nothing.
"""

import time
from pathlib import Path

from common import median, opened, options, print_machine, spread, table, use_all_cores
from machine_limit import linear_parameters, product_gflops

from rung.records import Example


def main() -> None:
    """Both answer forms in turn, in one process, with the limit taken before and after."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of the test set")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.asking import candidates, prompts_for
    from rung.engines.base import EngineSpec
    from rung.engines.torch import TorchEngine
    from rung.models.weights import dequantised
    from rung.rungs.sft import answer_forms

    with opened(given.folder) as context:
        chat = context.pool.chat(context.model)
        weights = dequantised(context.model)
        engine = TorchEngine(EngineSpec(engine="torch", weights=weights, context=context.limit))
        asked = context_rows(given.folder, given.rows)
        forms = answer_forms(context)
        prompts = {f: prompts_for(spec, chat, asked, [[] for _ in asked]) for f, spec in forms.items()}
        labels = {form: candidates(spec, chat) for form, spec in forms.items()}
    linear, width = linear_parameters(engine.model), engine.model.config.hidden_size
    limit = product_gflops()
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    useful: dict[str, float] = {}
    for form in forms:
        engine.choose(prompts[form][:64], labels[form])
    for _ in range(given.runs):
        for form in forms:
            start = time.perf_counter()
            found = engine.choose(prompts[form], labels[form])
            seconds[form].append(time.perf_counter() - start)
            read = sum(choice.evaluated_tokens for choice in found)
            scored = len(found) * len({label[0] for label in labels[form]})
            useful[form] = (2 * linear * read + 2 * width * scored) / 1e9
    limit = max(limit, product_gflops())
    lines = []
    for form, spent in seconds.items():
        speed = useful[form] / median(spent)
        tokens = sum(map(len, prompts[form])) / len(asked)
        lines.append(
            [
                form,
                f"{len(asked):,}",
                f"{tokens:.1f}",
                spread([len(asked) / one for one in spent], ".1f"),
                f"{speed:.0f}",
                f"{speed / limit:.0%}",
                f"{limit:.0f}",
            ]
        )
    head = (
        "answers",
        "rows",
        "tokens a prompt",
        "rows/s",
        "useful GFLOP/s",
        "of the limit",
        "limit, GFLOP/s",
    )
    table(head, lines)


def context_rows(folder: Path, count: int) -> tuple[Example, ...]:
    """The first rows of the test set."""
    from rung.data.sources import read_source

    return read_source(folder / "test.jsonl").examples[:count]


if __name__ == "__main__":
    main()
