"""Personal data in a text, by patterns and checksums. Names of people take a model, and aren't found here."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from rung.data.spots import Kind, Spot, apart

FROM_SCORE = 0.5
"""Presidio's score from which on a hit counts: a pattern that is specific, or a checksum that fits."""
PHONE_SCORE = 0.4
"""What Presidio gives any telephone number; one counts here only beside a word that says what it is."""
SSN_SCORE = 0.05
"""What Presidio gives nine digits in a row; they count here only behind a word that says what they are."""
NEARBY = 40
"""Characters before a number in which such a word may stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recogniser:
    """One kind of personal data and the Presidio recogniser that finds it.

    Only texts in which `gate` finds something are looked at: the recognisers are slow, and loading them
    takes seconds. It reads the text as `spelled`, sign for sign. `sure` has the last word on a hit, given the
    text, its start and its end.
    """

    kind: Kind
    gate: re.Pattern[str]
    recogniser: str
    spelled: Callable[[str], str] = lambda text: text
    sure: Callable[[str, int, int], bool] = lambda text, start, end: True
    from_score: float = FROM_SCORE


_ISSUED = re.compile(
    r"4\d{15}|5[0-5]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}"
)
_PHONES = r"phone|telephone|tel|mobile|cell|cellphone|fax"
_PHONE_WORD = rf"\b(?:{_PHONES}|call|calling|dial|ring|text|sms|whatsapp)\b"
_SAYS_PHONE = re.compile(_PHONE_WORD, re.IGNORECASE)
_NAMES_KIND = re.compile(rf"\b(?:{_PHONES}|ssn|social security|version)\b", re.IGNORECASE)
"""Keys that say what stands under them; `text` and `call` say so in a sentence alone."""
_NUMBER_OF_PHONE = re.compile(
    rf"(?<![^\W_])(?:{_PHONES})"
    r"(?:[\s_.-]{0,2}(?:numbers?|no|nr|\d(?=\W{0,2}[:=])))?(?:[^\w+(]{1,3}is[^\w+(]{1,3}|[^\w+(]{1,5})"
    r"(?P<number>\(?\d(?:[ ().-]{0,2}\d){6,12})(?![ ().-]{0,2}\d|\w)",
    re.IGNORECASE,
)
"""What stands right behind such a word, with the digits that national numbers have."""
_OTHER = re.compile(
    r"(?:19|20)\d\d([.-])\d\d\1\d\d|\d\d([.-])\d\d\2(?:19|20)\d\d"
    r"|\d{1,3}(?:\.\d{1,3}){3}|(?:.*\D)?\d\..*|.*\.\d(?:\D.*)?"
)
"""A date, an address of the internet or a version: no telephone number."""
_SSN_SAID = r"(?i:\bssn\b|social security)"
_SAYS_SSN = re.compile(_SSN_SAID)
_SAYS_UNDIVIDED = re.compile(rf"{_SSN_SAID}\D{{0,{NEARBY}}}$")
_SSN = re.compile(r"\d{3}([- .]?)\d{2}\1\d{4}")
_SAYS_VERSION = re.compile(r"\bversion\W{0,6}$", re.IGNORECASE)


_IBAN_LIKE = re.compile(
    r"\b[a-z]{2}\d{2}(?:[ -]?[a-z]{4})?(?:[ -]?(?=[a-z]{0,30}\d)[a-z0-9]{1,30}){1,10}",
    re.IGNORECASE | re.ASCII,
)
_FILES = frozenset(
    "bmp cfg conf css csv gif gz htm html ini jpeg jpg js json lock log mjs pdf png svg tar toml ts txt webp"
    " xml yaml yml".split()
)
"""What names of files end with, and no address does: `icon@2x.png`."""


def _capitals(text: str) -> str:
    """The text with what may be an IBAN in capitals, sign for sign."""
    return _IBAN_LIKE.sub(lambda hit: hit[0].upper(), text)


def _issued(text: str, start: int, end: int) -> bool:
    """Whether a card number has the first digits and the length of an issuer's: one number in ten has the
    right checksum by chance."""
    return _ISSUED.fullmatch(re.sub(r"[ -]", "", text[start:end])) is not None


def _said_to_be_phone(text: str, start: int, end: int) -> bool:
    return text[start] == "+" or _SAYS_PHONE.search(text[max(0, start - NEARBY) : start]) is not None


def _hyphened_or_said(text: str, start: int, end: int) -> bool:
    """Whether digits are meant as a social security number, and are no part of a longer one.

    Three groups of them are where hyphens part them or it's said nearby, nine in a row where no other digit
    stands between.
    """
    groups = _SSN.fullmatch(text, start, end)
    if groups is None or text[start - 1 : start] in ("-", "+", "."):
        return False
    if not groups[1]:
        return _SAYS_UNDIVIDED.search(text[max(0, start - 2 * NEARBY) : start]) is not None
    return groups[1] == "-" or _SAYS_SSN.search(text[max(0, start - NEARBY) : start]) is not None


def _public(text: str, start: int, end: int) -> bool:
    """Whether an address is one of the internet's, and no version number."""
    if _SAYS_VERSION.search(text[max(0, start - NEARBY) : start]):
        return False
    address = ipaddress.ip_interface(text[start:end]).ip
    return address.is_global and not address.is_reserved


PHONE = Kind(name="PHONE", said="telephone number")
RECOGNISERS: tuple[Recogniser, ...] = (
    Recogniser(
        kind=Kind(name="CARD", said="credit card number", grave=True),
        gate=re.compile(r"(?:\d[ -]?){12}\d"),
        recogniser="CreditCardRecognizer",
        sure=_issued,
    ),
    Recogniser(
        kind=Kind(name="SSN", said="US social security number", grave=True),
        gate=re.compile(rf"\b\d{{3}}([- .])\d{{2}}\1\d{{4}}\b|{_SSN_SAID}\D{{0,{NEARBY}}}\b\d{{9}}\b"),
        recogniser="UsSsnRecognizer",
        sure=_hyphened_or_said,
        from_score=SSN_SCORE,
    ),
    Recogniser(
        kind=Kind(name="IBAN", said="IBAN", grave=True),
        gate=re.compile(r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2}", re.IGNORECASE),
        recogniser="IbanRecognizer",
        spelled=_capitals,
    ),
    Recogniser(
        kind=Kind(name="EMAIL", said="e-mail address"), gate=re.compile("@"), recogniser="EmailRecognizer"
    ),
    Recogniser(
        kind=PHONE,
        gate=re.compile(rf"(?:\+|(?i:{_PHONE_WORD})[^+]{{0,{NEARBY}}}?)\(?\d[\d ().\-/]{{5,}}\d"),
        recogniser="PhoneRecognizer",
        sure=_said_to_be_phone,
        from_score=PHONE_SCORE,
    ),
    Recogniser(
        kind=Kind(name="IP", said="public IP address"),
        gate=re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{0,4}:"),
        recogniser="IpRecognizer",
        sure=_public,
    ),
    Recogniser(
        kind=Kind(name="MAC", said="network card's address"),
        gate=re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}"),
        recogniser="MacAddressRecognizer",
    ),
    Recogniser(
        kind=Kind(name="NINO", said="UK national insurance number"),
        gate=re.compile(r"\b[A-Za-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-Da-d]\b"),
        recogniser="UkNinoRecognizer",
    ),
    Recogniser(
        kind=Kind(name="WALLET", said="bitcoin address"),
        gate=re.compile(r"(?:bc1|[13])[a-zA-HJ-NP-Z0-9]{25}"),
        recogniser="CryptoRecognizer",
    ),
)


def personal(text: str, name: str = "") -> list[Spot]:
    """Where a text holds personal data, in order and without overlaps.

    `name` is the key of JSON that it stands under: `phone` says of a number what it is.
    """
    said = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name) + ": "
    said = said if _NAMES_KIND.search(said) else ""
    spots = apart(_found(said + text))
    return [
        Spot(kind=spot.kind, start=max(0, spot.start - len(said)), end=spot.end - len(said))
        for spot in spots
        if spot.end > len(said)
    ]


def _found(text: str) -> list[Spot]:
    found = []
    for one in RECOGNISERS:
        if one.gate.search(text) is None:
            continue
        for hit in _loaded(one.recogniser).analyze(one.spelled(text), entities=[]):
            if hit.score >= one.from_score and one.sure(text, hit.start, hit.end):
                found.append(Spot(kind=one.kind, start=hit.start, end=hit.end))
    return [*found, *_of_any_country(text)]


def _of_any_country(text: str) -> Iterator[Spot]:
    """Telephone numbers right behind a word that says so, as any country writes them.

    Presidio asks the numbering plans of eight. To ask all 245 takes 100 times as long and tells nothing: of
    numbers drawn at random, of 7 to 13 digits, 95 to 100 % are valid in some.
    """
    for hit in _NUMBER_OF_PHONE.finditer(text):
        if _OTHER.fullmatch(hit["number"]) is None:
            yield Spot(kind=PHONE, start=hit.start("number"), end=hit.end("number"))


@cache
def _loaded(name: str) -> Any:
    """A recogniser by the name of its class, with the list of internet suffixes that came with it."""
    from presidio_analyzer import predefined_recognizers

    made = getattr(predefined_recognizers, name)()
    if name == "EmailRecognizer":
        import tldextract

        # Left to itself the recogniser asks the network for a newer list.
        suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())
        made.validate_result = lambda address: bool(suffixes(address).fqdn) or _may_be_inside(address)
    return made


def _may_be_inside(address: str) -> bool:
    """Whether an address may be one of a network of its own, such as `anna@corp.local`."""
    last = address.rpartition(".")[2]
    return len(last) > 1 and last.isalpha() and last.lower() not in _FILES
