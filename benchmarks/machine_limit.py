"""How many operations a second this machine's matrix product does, to hold other figures against.

python benchmarks/machine_limit.py
"""

import time
from typing import Any

from common import options, print_machine, use_all_cores

SIZE = 2048


def main() -> None:
    """Print the limit in bf16 and in fp32."""
    options(__doc__, folder=False).parse_args()
    print_machine()
    use_all_cores()
    import torch

    for dtype in (torch.bfloat16, torch.float32):
        print(f"{SIZE}³ in {dtype}: {product_gflops(dtype):.0f} GFLOP/s at best")


def product_gflops(dtype: Any = None, seconds: float = 2.0) -> float:
    """The best GFLOP/s of a 2048³ matrix product (bf16 unless said otherwise) with all of torch's threads."""
    import torch

    left, right = (torch.randn(SIZE, SIZE).to(dtype or torch.bfloat16) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best / 1e9


def linear_parameters(model: Any) -> list[tuple[int, int]]:
    """Weights of each decoder block's linear layers: those before its attention, which make queries, keys and
    values, and those after it. Two operations each for a token's way forward.
    """
    found = []
    for block in model.model.layers:
        sizes = {True: 0, False: 0}
        for name, module in block.named_modules():
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim == 2:
                sizes[name.endswith(("q_proj", "k_proj", "v_proj"))] += weight.numel()
        found.append((sizes[True], sizes[False]))
    return found


def operations_forward(model: Any, tokens: float, places: float) -> float:
    """Those of the blocks' linear layers, for `tokens` of which the states at some `places` are wanted.

    Of the last block what comes after its attention is done at these places alone.
    """
    *blocks, (before, after) = linear_parameters(model)
    return 2 * (tokens * (sum(map(sum, blocks)) + before) + places * after)


def head_parameters(model: Any) -> int:
    """Weights of the output layer."""
    return model.lm_head.weight.numel()


if __name__ == "__main__":
    main()
