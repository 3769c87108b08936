"""What a hosted judge costs, said before anything is built, and the bar that shows how far judging is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.checks.rows import Prepared
from rung.engines.key_hosts import need_known_host
from rung.engines.till import BYTES_A_TOKEN
from rung.errors import EngineError, TaskError
from rung.judging import MOST_TOKENS, Verdicts, tokens_written
from rung.models.hosted import Hosted
from rung.records import Example
from rung.rungs.api import price_unknown
from rung.rungs.base import Reporter
from rung.scoring.cost import tokens_usd
from rung.system import Pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreseen:
    """The prompts that judge one System's answers to all dev rows and to all test rows, as long as these are.

    `how` says in words how they are asked, and `before` what is asked before, `first`.
    """

    dev: Sequence[Example]
    test: Sequence[Example]
    how: str
    first: Sequence[Example] = ()
    before: str = ""


def ready_to_pay(model: Hosted, pool: Pool) -> None:
    """Raises TaskError where a hosted judge has no key, or none for its host, or its price isn't known."""
    if model.key_missing:
        raise TaskError(
            f"judge.model: {model.given} can't be asked: {model.key_variable} isn't set in the environment"
        )
    if pool.till is None or (model.url, model.model) not in pool.till.prices:
        raise TaskError(f"judge.model: {price_unknown(model)}")
    try:
        need_known_host(model, pool.till.named)
    except EngineError as error:
        raise TaskError(f"judge.model: {error}") from None


def tell_price(
    verdicts: Verdicts,
    model: Hosted,
    foreseen: Foreseen,
    prepared: Prepared,
    pool: Pool,
    reporter: Reporter,
) -> None:
    """Say about what judging costs. TaskError where one System's rows pass the cap.

    What is read is put rather too high. What is written is put at what the judge's first answer, to an easy
    question, was billed for: one that thinks first may think longer about the rows.
    """
    till, splits = pool.till, prepared.splits
    assert till is not None, "a hosted judge is paid"
    price = till.price(model.url, model.model)
    written = max(MOST_TOKENS / 2, tokens_written(verdicts.path.parent, verdicts.given))

    def usd(rows: Sequence[Example]) -> float:
        told = len((verdicts.system.spec.instruction or "").encode())
        read = sum(len(row.input.encode()) + told for row in rows) / BYTES_A_TOKEN
        return tokens_usd(price, read, written * len(rows), 0)

    dev, test, first = usd(foreseen.dev), usd(foreseen.test), usd(foreseen.first)
    also = f", ${first:.4f} for {foreseen.before}" if foreseen.first else ""
    reporter.say(
        f"judge {verdicts.given}: about ${dev:.4f} for one System's answers to {len(splits.dev):,} dev rows "
        f"{foreseen.how}, ${test:.4f} to {len(splits.test):,} test rows{also}, at {written:,.0f} tokens a "
        "verdict; each variant that a rung tries on dev is judged, the same answer once; "
        f"${till.spent_usd:.4f} of ${till.cap_usd:g} were paid so far"
    )
    left = till.cap_usd - till.spent_usd
    if not verdicts.known and dev + test + first > left:
        raise TaskError(
            f"judging one System alone would cost about ${dev + test + first:.4f}, and "
            f"${max(0.0, left):.4f} of ${till.cap_usd:g} are left to pay; raise --api-usd, or choose by "
            "fewer rows with --dev-rows"
        )


def bar_of(reporter: Reporter, given: str) -> Callable[[int, int], None]:
    """A progress bar for each stretch of judging."""
    handle: int | None = None

    def on_done(done: int, total: int) -> None:
        nonlocal handle
        handle = reporter.begin(f"the judge {given}", total) if handle is None else handle
        reporter.advance(handle, done)
        if done == total:
            reporter.end(handle)
            handle = None

    return on_done
