"""What a hosted model's tokens cost: as the task says, else by the price list of genai-prices."""

from decimal import Decimal

from rung.records import TokenPrice

TOKENS = 1000
"""As many as a usual prompt has: some prices rise with its length."""


def listed_price(model: str, url: str) -> TokenPrice | None:
    """The price of a model behind a provider's URL; None for one that the list doesn't know.

    Nor has one a price by the token that bills each request beside its tokens. The list comes with the
    package: nothing is fetched.
    """
    from genai_prices import Usage, calc_price

    def usd_per_m(usage: Usage) -> float:
        total: Decimal = calc_price(usage, model, provider_api_url=url).total_price
        return float(total * 1_000_000 / TOKENS)

    try:
        if usd_per_m(Usage(input_tokens=0)):
            return None
        fresh = usd_per_m(Usage(input_tokens=TOKENS))
        written = usd_per_m(Usage(input_tokens=TOKENS, cache_write_tokens=TOKENS))
        return TokenPrice(
            input_usd_per_m=fresh,
            output_usd_per_m=usd_per_m(Usage(output_tokens=TOKENS)),
            cached_input_usd_per_m=usd_per_m(Usage(input_tokens=TOKENS, cache_read_tokens=TOKENS)),
            cache_write_usd_per_m=None if written == fresh else written,
        )
    except LookupError:
        return None
