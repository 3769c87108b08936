"""How many rows a step of a tune learns from: fewer where time is short, so that it gets its steps."""

ENOUGH_STEPS = 64
"""With fewer in all, half as many rows a step learn more in the same time (docs/benchmarks-training.md)."""
FEWEST_ROWS = 4
FEWEST_TOKENS = 60
"""Of a step: a smaller one costs as much."""


def batch_size(rows: int) -> int:
    """Rows per step: small sets get more steps, large ones the better use of the processor.

    On banking77's 9,500 rows 32 beat 16 and 64 after the same 3,200 rows (.83, .75, .68 on dev), and in time.
    """
    for most, size in ((200, 4), (2000, 8), (5000, 16)):
        if rows < most:
            return size
    return 32


def fewer(most: int, *, fitting: float, tokens: float) -> int:
    """`most` rows a step, halved until the `fitting` rows, which the time is enough for, make enough steps.

    A row has so many `tokens` on average; a step keeps enough of them to be worth its cost.
    """
    size = most
    while fitting < ENOUGH_STEPS * size and size // 2 >= FEWEST_ROWS and size // 2 * tokens >= FEWEST_TOKENS:
        size //= 2
    return size
