"""Whether what a tune made is the same model in each engine that may serve it, in part of the time left."""

import time
from collections.abc import Mapping

from pydantic import TypeAdapter

from rung.asking import candidates
from rung.errors import TrainingError
from rung.records import Parity
from rung.rungs.base import Context, more_tokens
from rung.rungs.probe import LLAMA, TORCH, Backend
from rung.rungs.rendered import prompts_of, target_ids
from rung.spec import Spec
from rung.system import System

PROOF_SHARE, FEWEST_PROVED = 0.5, 50
"""Of the time that is left once a tune is trained, so much may go to comparing the engines, on so many
prompts at least: on two cores without AVX-512 the 190 of the demo took 73 s, and their tune 19."""
MOST_LABELS, MOST_WRITTEN = 200, 20
"""Dev rows: with labels one prompt each, else several places of an answer."""


def to_prove(prompts: int, left_s: float, each_s: float, spent_s: float = 0.0) -> int:
    """On how many of the prompts the engines are compared, with `left_s` left, where one takes `each_s`.

    Earlier comparisons took `spent_s` of the same share.
    """
    fits_s = PROOF_SHARE * (left_s + spent_s) - spent_s
    return min(prompts, max(FEWEST_PROVED, int(fits_s / each_s)))


class Proof:
    """torch with what was learned against llama.cpp with the same in its own format, in each type of weights.

    torch is asked once for all of them, and together they keep to the share of the time, but for the fewest
    prompts of each.
    """

    def __init__(self, context: Context, spec: Spec, systems: Mapping[Backend, System]) -> None:
        """Raises TrainingError where no dev row fits the model."""
        from rung.training import parity

        rows = [e for e in context.dev if e.id not in context.too_long]
        rows = rows[: MOST_LABELS if context.kind == "label" else MOST_WRITTEN]
        prompts = prompts_of(context, spec, rows)
        if context.kind == "label":
            options = candidates(spec, context.pool.chat(context.model))
        else:
            gold = [target_ids(context, spec, e) for e in rows]
            options = parity.single_tokens(gold)
            prompts = parity.positions(list(zip(prompts, gold, strict=True)), parity.per_row(prompts))
        limit = context.limit - max(map(len, options))
        fitting = [p for p in prompts if len(p) <= limit]
        if not fitting:
            raise TrainingError(
                f"no dev row fits {context.limit:,} tokens, so the tune can't be proved; shorten the inputs"
                f"{more_tokens(context.model)}"
            )
        self.context, self.systems = context, systems
        self.reference = parity.Reference(lambda: systems[TORCH].open(context.pool), fitting, options)
        self.spent_s = 0.0

    def of(self, backend: Backend = LLAMA) -> Parity:
        """How far llama.cpp agrees under that backend.

        Raises TrainingError where it disagrees beyond rounding and chance (`parity.clearly_apart`).
        """
        from rung.training import parity

        start = time.monotonic()
        serving = self.systems[backend]
        found = self.reference.beside(
            lambda: serving.open(self.context.pool), lambda each_s: self._enough(backend, each_s)
        )
        self.spent_s += time.monotonic() - start
        if parity.clearly_apart(found):
            raise TrainingError(
                f"the tuned model isn't the same in both engines: they agree on {found.agreement:.1%} of "
                f"{found.agreement_rows} rows and {found.clear_disagreements} of the others are no "
                f"near-ties; log-probabilities differ by up to {found.max_difference:.2f}; the tune isn't "
                "shipped"
            )
        return found

    def _enough(self, backend: Backend, each_s: float) -> int:
        """On how many prompts, of those that torch was asked where it was before; settled once."""
        asked = "prompts to compare the engines on"
        most = self.reference.known or len(self.reference.prompts)
        kept = self.context.settled(
            asked if backend == LLAMA else f"{asked}, {backend.said}",
            lambda: to_prove(most, self.context.seconds_left, each_s, self.spent_s),
        )
        return TypeAdapter(int).validate_python(kept)
