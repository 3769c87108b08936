"""The ways to tune that a task may name: the rates to try, and what of the model learns."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from rung.engines import lora, prefix
from rung.engines.device import best_device
from rung.engines.nf4 import Nf4
from rung.engines.rows import Network
from rung.task.model import Tuning, TuningMethod
from rung.training.blocked import in_blocks
from rung.training.full import full
from rung.training.learned import Learned, low_rank

RANK, ALPHA = 16, 32.0
"""The alpha of any rank: the best rate hardly depends on the rank then (Schulman et al. 2025, LoRA Without
Regret)."""
PREFIX_TOKENS = 16
RS_ALPHA = ALPHA / RANK**0.5
"""Of rsLoRA: at the usual rank it is LoRA to the bit, so that the same rates suit both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a tune begins with: a rank, where its method has one, a seed, and its longest row, in tokens."""

    rank: int
    seed: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to tune. `rates` are tried, the one in the middle where there's no time for a search.

    With `scaled` they are those for batches of 32 rows.

    `title` is what notes call it; `attach` prepares a model, by a `Start`, and tells what of it learns. The
    model is loaded on the device `loads_on`, where it isn't to lie whole on the one it's trained on. A model
    that lies `in_blocks` already needs neither that nor the `caveat`.
    """

    title: str
    rates: tuple[float, float, float]
    attach: Callable[[Network, Start], Learned]
    ranked: bool = True
    loads_on: str | None = None
    caveat: str | None = None
    scaled: bool = False

    def rates_for(self, batch: int) -> tuple[float, float, float]:
        """The rates for so many rows a step, the lowest first, in three digits.

        Scaled ones go by the root of the rows, as suits Adam (Malladi et al. 2022, arXiv:2205.10287): at the
        rate for 32 rows a tune by 8 at a time learned next to nothing of 200 rows of trec_coarse.
        """
        if not self.scaled or batch >= RATED_ROWS:
            return self.rates
        low, sure, high = (float(f"{rate * math.sqrt(batch / RATED_ROWS):.2e}") for rate in self.rates)
        return low, sure, high

    def said(self, rank: int) -> str:
        """In a report: with the rank, where it has one."""
        return f"{self.title} r = {rank}" if self.ranked else self.title


def _lora(model: Network, start: Start) -> Learned:
    lora.attach(model, rank=start.rank, alpha=ALPHA, seed=start.seed)
    return low_rank(model)


def _rslora(model: Network, start: Start) -> Learned:
    lora.attach(model, rank=start.rank, alpha=RS_ALPHA, rslora=True, seed=start.seed)
    return low_rank(model)


def _dora(model: Network, start: Start) -> Learned:
    lora.attach(model, rank=start.rank, alpha=ALPHA, dora=True, seed=start.seed)
    return low_rank(model)


def _full(model: Network, start: Start) -> Learned:
    return full(model, start.longest)


def _qlora(model: Network, start: Start) -> Learned:
    if in_blocks(model):
        return _lora(model, start)
    device = torch.device(best_device())
    lora.attach_over_blocks(
        model, lambda layer: Nf4(layer, device), rank=start.rank, alpha=ALPHA, seed=start.seed
    )
    model.to(device)
    return low_rank(model)


def _prefix(model: Network, start: Start) -> Learned:
    made = prefix.attach(model, PREFIX_TOKENS, start.seed)
    return Learned(
        groups=(([made.numbers], 1.0),),
        draw=lambda seed: prefix.draw(model, seed),
        restore=lambda tensors: prefix.restore(model, tensors),
        save=lambda folder, base: prefix.save(model, folder, base=base),
    )


RATES: Final = (2.5e-4, 5e-4, 1e-3)
"""A's; B's are `B_RATE` times as high."""
RATED_ROWS: Final = 32
"""Of a step, for which those are."""

METHODS: Final[dict[TuningMethod, Method]] = {
    "lora": Method(title="LoRA", rates=RATES, attach=_lora, scaled=True),
    "rslora": Method(title="rsLoRA", rates=RATES, attach=_rslora, scaled=True),
    "dora": Method(title="DoRA", rates=RATES, attach=_dora, scaled=True),
    "prefix": Method(
        title=f"prefix of {PREFIX_TOKENS} tokens", rates=(1e-3, 3e-3, 1e-2), attach=_prefix, ranked=False
    ),
    "full": Method(title="full tuning", rates=(1e-5, 2e-5, 5e-5), attach=_full, ranked=False),
    "qlora": Method(
        title="QLoRA",
        rates=RATES,
        scaled=True,
        attach=_qlora,
        loads_on="cpu",
        caveat="learned over weights of four bits (NF4); served, and scored here, over the base's own",
    ),
}


def begun(model: Network, tuning: Tuning, seed: int, longest: int) -> Learned:
    """A model ready for its first step, as the task wants it tuned, on rows of `longest` tokens at most."""
    return METHODS[tuning.method].attach(model, Start(rank=tuning.rank, seed=seed, longest=longest))
