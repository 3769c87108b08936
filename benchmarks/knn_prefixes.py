"""Nearest examples so that prompts begin alike: what it saves in tokens and what it costs in accuracy.

    python benchmarks/knn_prefixes.py ../shared/data/banking77 --rows 300

The prompts of `few_shot` on dev rows, the labels scored by the torch engine. Every way picks the examples of
a question from the training rows and the question alone, so that a served request gets the same prompt:
the nearest ones; the same ones with hubs first, which are near many training rows; half of them fixed for
the nearest of `--clusters` k-means clusters. "To read" are the tokens left where each beginning that several
prompts share is read once, with however many prompts in memory: the most that sharing could save.
"""

import argparse
from itertools import pairwise
from typing import Any

import numpy as np
from common import opened, options, print_machine, table, use_all_cores

Tokens = tuple[int, ...]


def main() -> None:
    """Each way once on the same rows."""
    parser = options(__doc__, runs=False)
    parser.add_argument("--rows", type=int, default=300, help="of the dev rows")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--clusters", type=int, default=50)
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.asking import candidates, prompts_for
    from rung.engines.base import EngineSpec
    from rung.engines.torch import TorchEngine
    from rung.models.weights import dequantised
    from rung.rungs import few_shot
    from rung.rungs.instructions import answer_spec, few_shot_instruction, spec_for
    from rung.wording import label_texts

    with opened(given.folder) as context:
        chat = context.pool.chat(context.model)
        spec = spec_for(
            context,
            few_shot.FewShot.name,
            instruction=few_shot_instruction(context),
            answer=answer_spec(context, constrained=True),
        )
        rows = context.dev[: given.rows]
        stored = [few_shot._shot(row, context) for row in context.train]
        ways = chosen(context.vectors(context.train), context.vectors(rows), given)
        engine = TorchEngine(
            EngineSpec(engine="torch", weights=dequantised(context.model), context=context.limit)
        )
        labels, texts = candidates(spec, chat), label_texts(spec.labels)
        right = [texts.index(context.target(row)) for row in rows]
        lines = []
        for name, indices in ways.items():
            shots = [[stored[i] for i in some] for some in indices]
            prompts = prompts_for(spec, chat, rows, shots, context.limit)
            found = engine.choose(prompts, labels)
            assert all(choice.failure is None for choice in found), "a prompt was refused"
            answers = [choice.index for choice in found]
            accuracy = np.mean([a == r for a, r in zip(answers, right, strict=True)])
            whole, left = sum(map(len, prompts)), to_read(prompts)
            lines.append([name, f"{accuracy:.3f}", f"{whole:,}", f"{left:,}", f"{whole / left:.2f}"])
    table((f"examples of {len(rows)} questions", "accuracy", "tokens", "to read", "saving"), lines)


def chosen(stored: Any, asked: Any, given: argparse.Namespace) -> dict[str, list[list[int]]]:
    """Indices of the examples of each question, by the name of the way."""
    from sklearn.cluster import KMeans

    from rung.system import nearest

    k, half = given.shots, given.shots // 2
    near = nearest(asked, stored, k)
    hubs = np.bincount(np.ravel(nearest(stored, stored, k)), minlength=len(stored))
    clusters = KMeans(given.clusters, n_init=1, random_state=0).fit(stored)
    centres = clusters.cluster_centers_ / np.linalg.norm(clusters.cluster_centers_, axis=1, keepdims=True)
    fixed = nearest(centres, stored, half)
    own = [fixed[cluster] for cluster in clusters.predict(asked)]
    return {
        f"{half} nearest": nearest(asked, stored, half),
        f"{k} nearest, the nearest last": near,
        f"{k} nearest, hubs first": [sorted(some, key=lambda i: (-hubs[i], i)) for some in near],
        f"{half} of the cluster, then {half} nearest": [
            first + [i for i in some if i not in first][-half:] for first, some in zip(own, near, strict=True)
        ],
    }


def to_read(prompts: list[Tokens]) -> int:
    """Tokens that are left where every shared beginning is read once."""
    ordered = sorted(prompts)
    return len(ordered[0]) + sum(len(b) - common(a, b) for a, b in pairwise(ordered))


def common(a: Tokens, b: Tokens) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    main()
