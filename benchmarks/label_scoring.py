"""Choose among a set's labels for short prompts: rows a second, and the share of the machine's limit.

    python benchmarks/label_scoring.py ../shared/data/banking77 --rows 2000

The torch engine without an adapter, the prompts of a tune. Useful operations: 2 for each weight of a linear
layer and token that was read, and 2 for each of the head's weights of the tokens that were weighed. What
isn't done doesn't count: a beginning that all prompts share is read once, and after its attention the last
block sees only the tokens after which some were weighed. Attention and filling count as nothing.
"""

import time
from pathlib import Path
from typing import Any, ClassVar

from common import median, opened, options, print_machine, spread, table, use_all_cores
from machine_limit import operations_forward, product_gflops

from rung.engines.base import EngineSpec
from rung.records import Example


def main() -> None:
    """Both answer forms in turn, in one process, with the limit taken before and after."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of the test set")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.asking import candidates, prompts_for
    from rung.engines.rows import shared_prefix
    from rung.models.weights import dequantised
    from rung.rungs.sft import answer_forms

    with opened(given.folder) as context:
        chat = context.pool.chat(context.model)
        weights = dequantised(context.model)
        engine = counting(EngineSpec(engine="torch", weights=weights, context=context.limit))
        asked = context_rows(given.folder, given.rows)
        forms = answer_forms(context)
        prompts = {f: prompts_for(spec, chat, asked, [[] for _ in asked]) for f, spec in forms.items()}
        labels = {form: candidates(spec, chat) for form, spec in forms.items()}
    limit = product_gflops()
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    useful: dict[str, float] = {}
    for form in forms:
        engine.choose(prompts[form][:64], labels[form])
    for _ in range(given.runs):
        for form in forms:
            engine.weighed.clear()
            start = time.perf_counter()
            found = engine.choose(prompts[form], labels[form])
            seconds[form].append(time.perf_counter() - start)
            again = (len(found) - 1) * len(shared_prefix(prompts[form]))
            read = sum(choice.evaluated_tokens for choice in found) - again
            useful[form] = operations(engine, read) / 1e9
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


def counting(spec: EngineSpec) -> Any:
    """A torch engine that notes in `weighed` how many tokens it weighs each time."""
    from rung.engines.torch import TorchEngine

    class Counting(TorchEngine):
        weighed: ClassVar[list[int]] = []

        def _feed(self, searches: Any, paths: Any, hidden: Any, trie: Any) -> None:
            self.weighed.extend(len(trie.children(path)) for path in paths if path is not None)
            super()._feed(searches, paths, hidden, trie)

    return Counting(spec)


def operations(engine: Any, read: int) -> float:
    """Those of a call in which so many tokens were read."""
    head = 2 * engine.model.config.hidden_size * sum(engine.weighed)
    return operations_forward(engine.model, read, len(engine.weighed)) + head


def context_rows(folder: Path, count: int) -> tuple[Example, ...]:
    """The first rows of the test set."""
    from rung.data.sources import read_source

    return read_source(folder / "test.jsonl").examples[:count]


if __name__ == "__main__":
    main()
