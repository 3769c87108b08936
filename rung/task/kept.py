"""Answers kept in memory for texts that come again, but not those to very long ones."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MOST_CHARS = 1 << 16
"""Of all texts together that a call is given; longer ones are worked on each time."""


def kept_if_short(count: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep the last `count` answers of a function of texts, but none to more than MOST_CHARS of them.

    Who sends texts to a server chooses how long they are: kept by their number alone they could fill its
    memory.
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        known = lru_cache(count)(function)

        @wraps(function)
        def answer(*given: P.args, **named: P.kwargs) -> R:
            texts = (value for value in (*given, *named.values()) if isinstance(value, str))
            return (known if sum(map(len, texts)) <= MOST_CHARS else function)(*given, **named)

        return answer

    return made
