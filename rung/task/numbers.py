"""Numbers as people write them: groups of digits, a point or a comma, an exponent, money and percent."""

import math
import re

MAX_DIGITS = 300
"""Past this a float is infinite."""
MOST_CHARS = 60
"""A longer text is no amount."""

NUMBER = re.compile(
    r"(?:(?<!\w)(?P<sign>[-+\u2212\u2013])[$€£¥]?|(?<![A-Za-z_0-9])(?<![0-9][.,'\u2019]))"
    r"(?P<digits>(?:[1-9][0-9]{0,2}(?:[ \u00a0\u2009\u202f][0-9]{3})+(?![0-9])|[0-9]+)(?:[.,'\u2019][0-9]+)*"
    r"|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,4}(?![A-Za-z0-9]))?"
)
"""Digits with all that may stand between those of one number."""
_WRITTEN = tuple(
    re.compile(rf"(?P<whole>{whole})(?:{point}(?P<fraction>[0-9]+))?")
    for whole, point in (
        ("[0-9]*", r"\."),
        ("[1-9][0-9]{0,2}(?:,[0-9]{3})+", r"\."),
        ("[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}", r"\."),
        ("[1-9][0-9]{0,2}(?:['\u2019 \u00a0\u2009\u202f][0-9]{3})+", "[.,]"),
        (r"[1-9][0-9]{0,2}(?:\.[0-9]{3})+", ","),
        ("[0-9]+", ","),
    )
)
"""Ways to write a number; what could be two of them is the first: 1,000 is a thousand, 1.000 one, 1,5 one and
a half. The third is India's."""
_LIST = re.compile(r"[0-9]+(?:,[0-9]{1,2}(?![0-9])|,[0-9]{4,}){2,}")
_UNIT = r"(?:[$€£¥₹%‰]|EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK)"
_AMOUNT = re.compile(rf"(?:{_UNIT}\s?)?{NUMBER.pattern}(?:\s?{_UNIT})?")


def number_in(match: re.Match[str]) -> int | float | None:
    """What a match of NUMBER says: an int where it has neither fraction nor exponent.

    None past the range of floats, and for digits that aren't one number (1.2.3), whose last part would be
    another. Of a list the last number counts, as it does with spaces.
    """
    written = match["digits"]
    if _LIST.fullmatch(written):
        written = written.rpartition(",")[2]
    found = next((one for way in _WRITTEN if (one := way.fullmatch(written))), None)
    if found is None:
        return None
    digits, fraction = re.sub("[^0-9]", "", found["whole"]), found["fraction"]
    sign = 1 if match["sign"] in (None, "+") else -1
    if len(digits) > MAX_DIGITS:
        return None
    if fraction is None and not match["exponent"]:
        return sign * int(digits)
    value = sign * float(f"{digits or 0}.{(fraction or '0')[:MAX_DIGITS]}{match['exponent'] or ''}")
    return value if math.isfinite(value) else None


def amount_of(text: str) -> int | float | None:
    """The number that a whole text is, be it money or a percentage; None where it's anything else."""
    text = text.strip()
    match = _AMOUNT.fullmatch(text) if len(text) <= MOST_CHARS else None
    return None if match is None or _LIST.fullmatch(match["digits"]) else number_in(match)
