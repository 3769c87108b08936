"""Keys and passwords in a text: well-known formats, and what is assigned to a name such as `password`."""

import math
import re
from collections import Counter

from rung.data.spots import Kind, Spot, apart

ENTROPY = 3.0
"""Bits a character, by the value's own frequencies: eight different characters have three."""
SHORTEST = 8

_FORMATS: tuple[tuple[str, str], ...] = (
    ("AWS access key", r"\bA(?:KI|SI|BI|CC)A[A-Z0-9]{16}\b"),
    ("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})[A-Za-z0-9_]*"),
    ("GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("Slack webhook", r"\bhttps://hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}"),
    ("API key (sk-)", r"\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"),
    ("Google API key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("Stripe key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("PyPI token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    ("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{10,}"),
    (
        "private key",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----).)*"
        r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
)
"""What a key is called, and what it looks like."""

_NAMES = (
    r"(?:\w{0,30}[_-])?(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|apikey|access[_-]?key"
    r"|secret[_-]?key|private[_-]?key|auth[_-]?key)"
)
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9]){_NAMES}[\"']?\s{{0,3}}(?::|=|:=)\s{{0,3}}[\"']?(?P<value>[^\s\"'`,;<>{{}}()\[\]]+)",
    re.IGNORECASE,
)
_NAME = re.compile(_NAMES, re.IGNORECASE)
_IN_ADDRESS = re.compile(r"://[^\s/:@]{1,60}:(?P<value>[^\s/:@]{3,})@")
_STAND_IN = re.compile(
    r"^[<{\[]|\$|%|\*{3}|x{4}|your|example|placeholder|changeme|password|redacted", re.IGNORECASE
)
"""A variable, or a word that says to put one's own there."""
_ANY = re.compile("|".join(f"(?P<k{n}>{pattern})" for n, (_, pattern) in enumerate(_FORMATS)), re.DOTALL)
_KINDS = tuple(Kind(name="SECRET", said=said, grave=True) for said, _ in _FORMATS)
_PASSWORD = Kind(name="SECRET", said="password or token", grave=True)


def keys(text: str, name: str = "") -> list[Spot]:
    """Where a text holds keys or passwords, in order; `name` is the key of JSON that it stands under."""
    found = []
    for hit in _ANY.finditer(text):
        kind = _KINDS[int((hit.lastgroup or "k0")[1:])]
        found.append(Spot(kind=kind, start=hit.start(), end=hit.end()))
    for hit in _ASSIGNED.finditer(text):
        if _random(hit["value"]):
            found.append(Spot(kind=_PASSWORD, start=hit.start("value"), end=hit.end("value")))
    for hit in _IN_ADDRESS.finditer(text):
        if not _STAND_IN.search(hit["value"]):
            found.append(Spot(kind=_PASSWORD, start=hit.start("value"), end=hit.end("value")))
    if name and _NAME.fullmatch(name) and _random(text):
        found.append(Spot(kind=_PASSWORD, start=0, end=len(text)))
    return apart(found)


def _random(value: str) -> bool:
    """Whether a value looks drawn or invented, and not like a word or a stand-in for a password."""
    if len(value) < SHORTEST or any(map(str.isspace, value)) or _STAND_IN.search(value):
        return False
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return mixed and bits >= ENTROPY
