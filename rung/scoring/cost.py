"""What answers cost: plain arithmetic on US dollars, seconds and tokens."""


def usd_per_1000(seconds_per_answer: float, usd_per_hour: float) -> float:
    """The price of 1,000 answers on a machine rented by the hour."""
    return 1000 * seconds_per_answer / 3600 * usd_per_hour


def usd_per_1000_by_token(
    prompt_tokens: float, completion_tokens: float, usd_per_m_prompt: float, usd_per_m_completion: float
) -> float:
    """The price of 1,000 answers where tokens are paid for.

    Tokens are means per answer; prices are US dollars per million tokens.
    """
    return 1000 * (prompt_tokens * usd_per_m_prompt + completion_tokens * usd_per_m_completion) / 1e6


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
