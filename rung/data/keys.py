"""Keys and passwords in a text: well-known formats, and what is assigned to a name such as `password`."""

import math
import re
from collections import Counter

from rung.data.spots import Kind, Spot, apart

ENTROPY = 3.0
"""Bits a character, by the value's own frequencies: eight different characters have three."""
SHORTEST = 8
FEWEST, DIFFERENT = 4, 3
"""Characters of what may be a password at all, and different ones among them where it's told of unasked."""
MOST = 200
"""Characters of a value between quotes."""
MOST_WORDS = 64
"""Characters of several words that are one password."""

_FORMATS: tuple[tuple[str, str], ...] = (
    ("AWS access key", r"\bA(?:KI|SI|BI|CC)A[A-Z0-9]{16}\b"),
    ("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})[A-Za-z0-9_]*"),
    ("GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("Slack webhook", r"\bhttps://hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}"),
    ("API key (sk-)", r"\bsk-[A-Za-z0-9_-]{20,}"),
    ("Google API key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("Stripe key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("npm token", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("PyPI token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    ("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,}(?:\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{10,})?"),
    (
        "private key",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----).)*"
        r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
)
"""What a key is called, and what it looks like."""
_MUST_HOLD = {"API key (sk-)": re.compile("[0-9]"), "JSON web token": re.compile("[.]")}
"""What else has to be in one: a look-ahead would read on from each place where one may begin."""

_PASSWORDS = (
    r"(?:\w{0,30}[_-])?(?:password|passwd|passphrase|passcode|pwd|passwort|kennwort|mot de passe"
    r"|contrase[nñ]a|senha|wachtwoord|hasło|lösenord|пароль|密码|密碼|パスワード|비밀번호)"
)
_NAMES = (
    r"(?:\w{0,30}[_-])?(?:secret|token|api[ _-]?key|apikey|access[ _-]?key|secret[ _-]?key|private[ _-]?key"
    r"|auth[ _-]?key)"
)
_BARE = r"[^\s\"'`][^\s\"`]*"
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9])(?:(?P<password>{_PASSWORDS})|{_NAMES})[\"']?"
    r"(?:\s{0,3}(?:=|:=|[:\uff1a])\s{0,3}|(?P<said>\s{1,3}(?:is|was|ist|lautet|est|es|é)\s{1,3}))"
    rf"(?:\"(?P<double>(?:[^\"\\\n]|\\.){{1,{MOST}}})\"|'(?P<single>[^'\n]{{1,{MOST}}})'"
    rf"|`(?P<back>[^`\n]{{1,{MOST}}})`|[\"'`]?(?P<bare>{_BARE}))",
    re.IGNORECASE,
)
_QUOTED = ("double", "single", "back")
_NAME = re.compile(rf"(?:[\w -]{{0,40}} )?(?:(?P<password>{_PASSWORDS})|{_NAMES})", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"\bbearer\s{1,3}(?P<bearer>(?=[A-Za-z._~+/=-]*[0-9])[A-Za-z0-9._~+/=-]{16,})"
    r"|\bauthorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?basic\s{1,3}(?P<basic>[A-Za-z0-9+/]{8,}={0,2})",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"://[^\s/:@]{1,60}:(?P<value>[^\s/:@]{3,})@")
_STAND_IN = re.compile(
    r"\$[A-Z_][A-Z0-9_]*|\$[a-z_]+|\$\d|\$\{[^}\n]*\}{1,2}|\$\([^)\n]*\)|%\w+%|%(?:\(\w+\))?[sdr]"
    r"|<[^>\n]*>|\{[^}\n]*\}{1,2}|\[[^\]\n]*\]|[*x\u2022.#_-]{3,}|\u2026"
    r"|(?i:(?:your|example|placeholder|change_?me|password|passwort|redacted|hidden|removed|none|null|true|false"
    r"|undefined)(?:[_-][\w-]*)?)"
)
"""A variable, what is in brackets, or a word that says to put one's own there."""
_CALL = re.compile(r"[A-Za-z_][\w.]*[(\[]")
"""How code goes on that gets a value from somewhere."""
_ENDS = {".": "", ",": "", ";": "", ":": "", ")": "(", "]": "[", "}": "{", ">": "<", "'": "'"}
"""What ends a sentence or closes a bracket: no part of a value, unless the bracket was opened in it."""
_SIGN = re.compile(r"[@#$%^&*+=~|\\]")
_GOES_ON = re.compile(r"[^\S\n]*[^\s,;.)\]}>\"'`]")
_ANY = re.compile("|".join(f"(?P<k{n}>{pattern})" for n, (_, pattern) in enumerate(_FORMATS)), re.DOTALL)
_KINDS = tuple(Kind(name="SECRET", said=said, grave=True) for said, _ in _FORMATS)
_PASSWORD = Kind(name="SECRET", said="password or token", grave=True)
_PERHAPS = Kind(name="SECRET", said="what may be a password")


def keys(text: str, name: str = "", *, wary: bool = False) -> list[Spot]:
    """Where a text holds keys or passwords, in order; `name` is the key of JSON that it stands under.

    What only may be a password, be it that it's short, is of a kind that isn't grave. Who is `wary` is told
    of words that may be passwords, too: those in `password: letmein`, and in `password: forgotten`.
    """
    found = []
    for hit in _ANY.finditer(text):
        kind = _KINDS[int((hit.lastgroup or "k0")[1:])]
        needed = _MUST_HOLD.get(kind.said)
        if needed is None or needed.search(hit[0]):
            found.append(Spot(kind=kind, start=hit.start(), end=hit.end()))
    for hit in _ASSIGNED.finditer(text):
        if (spot := _assigned(text, hit, wary)) is not None:
            found.append(spot)
    for hit in _CREDENTIALS.finditer(text):
        start, end = hit.span(hit.lastgroup or 0)
        found.append(Spot(kind=_PASSWORD, start=start, end=end))
    for hit in _IN_ADDRESS.finditer(text):
        if not _STAND_IN.fullmatch(hit["value"]):
            found.append(Spot(kind=_PASSWORD, start=hit.start("value"), end=hit.end("value")))
    named = _NAME.fullmatch(name) if name else None
    if named is not None and (kind := _kind(text, named["password"] is not None, wary)) is not None:
        found.append(Spot(kind=kind, start=0, end=len(text)))
    return apart(found)


def _assigned(text: str, hit: re.Match[str], wary: bool) -> Spot | None:
    """The value that a name is given, up to white space or the closing quote; None where it's no secret."""
    quoted = next((name for name in _QUOTED if hit[name] is not None), None)
    start, end = hit.span(quoted or "bare")
    stand_in = _STAND_IN.match(text, start)
    if stand_in is not None and not text[stand_in.end() : end].strip("".join(_ENDS)):
        return None
    value = text[start:end] if quoted else _trimmed(text[start:end])
    end = start + len(value)
    last = quoted is not None or value.endswith("!") or _GOES_ON.match(text, end) is None
    is_password, said = hit["password"] is not None, hit["said"] is not None
    kind = _kind(value, is_password, wary and last and not said)
    # `The password is` is how people talk of one, too.
    return kind and Spot(kind=_PERHAPS if said else kind, start=start, end=end)


def _trimmed(value: str) -> str:
    while value and value[-1] in _ENDS and (_ENDS[value[-1]] or value[-1]) not in value[:-1]:
        value = value[:-1]
    return value


def _kind(value: str, is_password: bool, wary: bool) -> Kind | None:
    """What a value is that is given to a password or to another secret; None where it's none."""
    if _STAND_IN.fullmatch(value):
        return None
    if _random(value):
        return _PASSWORD
    if not is_password or len(value) < FEWEST or (not wary and len(set(value)) < DIFFERENT):
        return None
    if any(map(str.isspace, value)) or _CALL.match(value):
        return _PERHAPS if wary and len(value) <= MOST_WORDS else None
    plain = value.rstrip("!?")
    telling = plain.isdecimal() or _is_mixed(value) or _SIGN.search(plain) is not None
    return _PERHAPS if wary or telling else None


def _is_mixed(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _random(value: str) -> bool:
    """Whether a value looks drawn or invented, and like no word and no code that gets one."""
    if len(value) < SHORTEST or any(map(str.isspace, value)) or _CALL.match(value):
        return False
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return _is_mixed(value) and bits >= ENTROPY
