"""How many answers are asked for once a tune is trained, beside those to all of dev."""

from typing import Final

from rung.rungs.base import Context
from rung.rungs.probe import RACE_ROWS, retyped_for

CLOSING_ROWS: Final = 26
"""What the timing of single requests, and a slower engine than the tune's own, cost in the end."""
TORCH_ALONE: Final = ("dora", "prefix")
"""Methods of which llama.cpp knows nothing: no engines race for what they learn, nor are any compared."""


def closing_rows(context: Context) -> int:
    """Those, and the answers of each engine that races for the tuned System."""
    runners = _runners(context)
    return CLOSING_ROWS + (runners * (1 + RACE_ROWS) if runners > 1 else 0)


def _runners(context: Context) -> int:
    """torch, llama.cpp with the file's own weights, and with those of other types that are tried."""
    model, method = context.model, context.task.tuning.method
    if model.gguf is None or method in TORCH_ALONE:
        return 1
    return 2 + (0 if method == "full" else len(retyped_for(model)))
