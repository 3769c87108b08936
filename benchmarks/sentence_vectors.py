"""Sentence vectors a second: transformers' BERT in fp32, and rung's pass in the type of the machine.

    python benchmarks/sentence_vectors.py ../shared/data/banking77 --rows 2000

The same texts in batches of like length on both sides, in one process; the vectors are compared too.
"""

import json
import random
import time
from typing import Any

from common import options, print_machine, spread, table, use_all_cores

BATCH = 64


def main() -> None:
    """Both sides in turn."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="drawn at random from train.jsonl")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    import numpy as np

    from rung.models.embed import Embedder

    lines = (given.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["input"] for line in random.Random(0).sample(lines, given.rows)]
    embedder = Embedder()
    sides = {"transformers, fp32": with_transformers(embedder.model.folder), "rung": embedder.embed}
    spent: dict[str, list[float]] = {side: [] for side in sides}
    vectors: dict[str, Any] = {}
    for embed in sides.values():
        embed(texts[:BATCH])
    for _ in range(given.runs):
        for side, embed in sides.items():
            start = time.perf_counter()
            vectors[side] = embed(texts)
            spent[side].append(time.perf_counter() - start)
    table(
        ("side", f"s for {given.rows:,} texts"),
        [[side, spread(seconds, ".2f")] for side, seconds in spent.items()],
    )
    first, second = vectors.values()
    cosine = (first * second).sum(1)
    ratio = np.median(spent["transformers, fp32"]) / np.median(spent["rung"])
    print(f"\nrung's ratio {ratio:.2f}; cosine of both vectors {cosine.min():.5f} at least")


def with_transformers(folder: Any) -> Any:
    """Mean-pooled unit vectors by transformers' BertModel, texts of like length together."""
    import numpy as np
    import torch
    from transformers import AutoTokenizer, BertModel

    network = BertModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.empty((len(texts), network.config.hidden_size), dtype=np.float32)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            inputs = tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = network(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return found

    return embed


if __name__ == "__main__":
    main()
