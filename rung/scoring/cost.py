"""What answers cost: plain arithmetic on US dollars, seconds and tokens."""

import math

from rung.records import Measurement, TokenPrice

HOURS_A_MONTH = 365.25 * 24 / 12
AMORTISED_MONTHS = 12
"""Over which the cost of building is spread."""


def usd_per_1000(seconds_per_answer: float, usd_per_hour: float) -> float:
    """The price of 1,000 answers on a machine rented by the hour."""
    return 1000 * seconds_per_answer / 3600 * usd_per_hour


def tokens_usd(
    price: TokenPrice,
    prompt_tokens: float,
    completion_tokens: float,
    cached_tokens: float,
    written_tokens: float = 0.0,
) -> float:
    """What so many tokens cost; the cached and the written ones are among those of the prompt."""
    fresh = prompt_tokens - cached_tokens - written_tokens
    write_usd_per_m = price.cache_write_usd_per_m
    return (
        fresh * price.input_usd_per_m
        + cached_tokens * price.cached_input_usd_per_m
        + written_tokens * (price.input_usd_per_m if write_usd_per_m is None else write_usd_per_m)
        + completion_tokens * price.output_usd_per_m
    ) / 1e6


def billed_usd(price: TokenPrice, found: Measurement) -> float:
    """What an answer cost on average where a hosted model was measured."""
    return tokens_usd(
        price, found.prompt_tokens, found.completion_tokens, found.cached_tokens, found.written_tokens
    )


def dearest_usd(price: TokenPrice, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens may cost at most: none cached, and all written to a cache if that costs more."""
    fresh, written = (
        tokens_usd(price, prompt_tokens, completion_tokens, 0, part) for part in (0.0, prompt_tokens)
    )
    return max(fresh, written)


def per_1000_correct(usd_per_1000_answers: float, share_correct: float) -> float | None:
    """The price of 1,000 correct answers; None where none is correct."""
    return usd_per_1000_answers / share_correct if share_correct > 0 else None


def break_even_answers(
    build_usd_a: float, usd_per_1000_a: float, build_usd_b: float, usd_per_1000_b: float
) -> float | None:
    """The number of answers at which A and B have cost the same, building included.

    Below it the one that is cheaper to build is cheaper, above it the one that is cheaper to run. None
    where one of them is never dearer than the other, so that there is no such number above zero.
    """
    saved_per_answer = (usd_per_1000_a - usd_per_1000_b) / 1000
    if saved_per_answer == 0:
        return None
    answers = (build_usd_b - build_usd_a) / saved_per_answer
    return answers if answers > 0 else None


def monthly_usd(requests: float, usd_per_1000_answers: float, build_usd: float = 0.0) -> float:
    """A month's answers, and a month's share of what building cost."""
    return requests * usd_per_1000_answers / 1000 + build_usd / AMORTISED_MONTHS


def break_even_requests(
    build_usd: float, usd_per_1000_local: float, usd_per_1000_hosted: float
) -> float | None:
    """Requests a month from which on local answers cost less than hosted ones; None where they never do.

    Local ones are paid by the time that they take, and for building a month's share. 0 where that is nothing.
    """
    saved_per_1000 = usd_per_1000_hosted - usd_per_1000_local
    return build_usd / AMORTISED_MONTHS / saved_per_1000 * 1000 if saved_per_1000 > 0 else None


def rented_usd(requests: float, seconds_per_answer: float, usd_per_hour: float, build_usd: float) -> float:
    """A month of as many machines as the requests need, one at least, on all the time, and of building."""
    machines = max(1, math.ceil(requests * seconds_per_answer / (HOURS_A_MONTH * 3600)))
    return machines * HOURS_A_MONTH * usd_per_hour + build_usd / AMORTISED_MONTHS


def break_even_rented(
    build_usd: float, seconds_per_answer: float, usd_per_hour: float, usd_per_1000_hosted: float
) -> float | None:
    """The same where local answers come from machines that are rented all month, as many as they need.

    k machines answer k·capacity requests and cost k months of rent. Hosted answers cost as much from
    (k·rent + build) / price on; the first k for which that is no more than k·capacity has the break-even.
    None where one machine's capacity costs less hosted than its rent. Above the break-even a machine more
    can for a while cost more again.
    """
    rent, share = HOURS_A_MONTH * usd_per_hour, build_usd / AMORTISED_MONTHS
    price = usd_per_1000_hosted / 1000
    capacity = HOURS_A_MONTH * 3600 / seconds_per_answer
    spare = price * capacity - rent
    if price <= 0 or spare < 0 or (spare == 0 and share > 0):
        return None
    machines = max(1, math.ceil(share / spare)) if spare > 0 else 1
    return max((machines * rent + share) / price, (machines - 1) * capacity)
