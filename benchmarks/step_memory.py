"""What a training step keeps for its way back, and its seconds, by how long the rows are.

    python benchmarks/step_memory.py --rows 8x20 5x30+3x17 4x77 2x725 1x1212

`8x20` is eight rows of 20 tokens, all in one part of a batch. Random token ids; a LoRA of rank 16 on all
linear layers, the loss over the last ten tokens of each row, weights in bf16 where the processor multiplies
it, else in fp32. Beside rung's packed rows transformers' own pass over the same LoRA, with torch's attention
kernel and rows padded to the longest.
"""

import random
import time
from functools import partial

from common import median, options, print_machine, spread, table, use_all_cores

ANSWER = 10
VOCABULARY = 40_000


def main() -> None:
    """Both sides in turn, in one process; the first pass of each shape isn't counted."""
    parser = options(__doc__, folder=False)
    parser.add_argument("--rows", nargs="+", default=["8x20", "5x30+3x17", "4x77", "2x725", "1x1212"])
    parser.add_argument("--threads", type=int, default=1, help="a part of a batch has one core of two")
    parser.add_argument("--sides", nargs="+", default=["rung", "transformers"])
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    import torch

    from rung.engines import lora
    from rung.engines.packed import packed
    from rung.engines.torch import load_model
    from rung.models.resolve import resolve
    from rung.models.weights import dequantised
    from rung.training import loop
    from rung.training.batches import Row

    torch.set_num_threads(given.threads)
    model = load_model(dequantised(resolve("smollm2-135m")), attention="sdpa")
    lora.attach(model, rank=16, alpha=32, seed=0)
    ways = {"rung": partial(loop.packed_loss, packed(model)), "transformers": partial(loop.batch_loss, model)}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    draw, lines = random.Random(0), []
    for shape in given.rows:
        rows = []
        for size in sizes_of(shape):
            ids = tuple(draw.randrange(100, VOCABULARY) for _ in range(size + 1))
            rows.append(Row(prompt=ids[:-ANSWER], answer=ids[-ANSWER:]))
        seconds: dict[str, list[float]] = {side: [] for side in given.sides}
        kept: dict[str, float] = {}
        for run in range(given.runs + 1):
            for side in given.sides:
                start = time.perf_counter()
                kept[side] = kept_by(partial(ways[side], rows), own)
                if run:
                    seconds[side].append(time.perf_counter() - start)
        base = median(seconds[given.sides[0]])
        for side in given.sides:
            ratio = median(seconds[side]) / base
            lines.append([shape, side, f"{kept[side]:,.0f}", spread(seconds[side], ".2f"), f"{ratio:.2f}"])
    table(["rows", "side", "MiB kept", "s, forward and back", "its ratio"], lines)


def sizes_of(shape: str) -> list[int]:
    """The lengths that `5x30+3x17` names."""
    pairs = [part.split("x") for part in shape.split("+")]
    return [int(size) for count, size in pairs for _ in range(int(count))]


def kept_by(loss, own: set[int]) -> float:
    """MiB of what the way back of a loss keeps, the model's own weights left out; it's taken, too."""
    import torch

    kept: dict[int, int] = {}

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        found = loss()
    found.backward()
    return sum(kept.values()) / 2**20


if __name__ == "__main__":
    main()
