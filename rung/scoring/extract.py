"""Reading an answer: free text in, a value of the task's output kind out, or None where there is none.

Every reader is linear in the text's length, so a babbling model can't stall a run; only a pattern of the
task's own schema may take longer, up to its limit.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from rung.errors import TaskError
from rung.records import Json, OutputKind
from rung.task.numbers import MAX_DIGITS, NUMBER, number_in
from rung.task.validator import validator_of

# Scripts written without spaces: one character is one word. Chinese, Japanese and Korean; then the letters,
# but not the digits, of Thai, Lao, Burmese and Khmer.
_UNSPACED = (
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
)
_LAST_MARK = 0x20000
"""Past the last combining mark, but for the selectors of how a character looks."""
# Vowel points and the stroke that draws a word out, of Arabic (as Lucene's ArabicNormalizer has them, and
# those of the Koran) and Hebrew, and the selectors of a look: the same word is mostly written without.
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)

# Behind a stroke only the commonest scales: 3/4 and 5/7 are fractions or days, too.
_ON_SCALE = re.compile(
    r"(?:\s*/\s*(?:5|10|100)|\s+(?:(?:out\s+)?of|von|sur)\s+(?:[2-9]|10|20|100))(?![0-9A-Za-z_/]|\s?%)",
    re.IGNORECASE,
)
"""What follows a rating, with the end of its scale: of 4/5, of 4 out of 5."""
_DASHES = "-\u2013\u2014\u2212"
_MAX_DEPTH = 100

_QUOTES = "\"'`*«»“”‘’„()[]{}<>"
_PUNCTUATION = ".,;:!?…。！？、，"


def read_answer(text: str, *, kind: OutputKind, labels: Sequence[str] = (), schema: Json = None) -> Json:
    """Read `text` as a value of `kind`; None where it can't be read as one.

    label: one of `labels`, exactly as written there. number: a finite int or float. json: a value with
    finite numbers, at most 100 levels deep, that fits the JSON Schema `schema` if one is given; tool_call:
    the same under the schema of its calls, which a stranger may have written: its patterns are matched in
    linear time. text: the text without the white space around it.
    """
    if kind == "label":
        return _read_label(text, tuple(dict.fromkeys(labels)))
    if kind == "number":
        return _read_number(text)
    if kind in ("json", "tool_call"):
        return _read_json(text, schema, linear=kind == "tool_call")
    return text.strip() or None


def words(text: str) -> list[str]:
    """Split `text` into case-folded words.

    A word is a run of letters and digits with the marks on them, such as the vowels of Hindi; in scripts
    without spaces each character is one. The points of Arabic and Hebrew are left out. ASCII text gives the
    same words as the default tokenizer of the `rouge_score` package.
    """
    return _word().findall(_folded(text))


def _folded(text: str) -> str:
    """Case folded and composed (NFC), without the points that the same word is mostly written without."""
    folded = unicodedata.normalize("NFC", text).casefold()
    return folded if folded.isascii() else _POINTS.sub("", unicodedata.normalize("NFC", folded))


@cache
def _word() -> re.Pattern[str]:
    """A word with its combining marks (category M), which aren't among Python's word characters."""
    marks = [char for char in map(chr, range(_LAST_MARK)) if unicodedata.category(char)[0] == "M"]
    low, high = ("".join(m for m in marks if (m > "\uffff") is far) for far in (False, True))
    # `re` looks through a set's characters past U+FFFF one after the other: only where one stands.
    mark = rf"(?:[{low}]|(?=[\U00010000-\U0010ffff])[{high}])"
    letter = rf"[^\W_{_UNSPACED}]"
    return re.compile(rf"{letter}(?:{letter}|{mark})*|[{_UNSPACED}]{mark}*")


@cache
def _word_or_sign() -> re.Pattern[str]:
    """A word, or any other character but a space."""
    return re.compile(rf"{_word().pattern}|[^\w\s]")


def _read_label(text: str, labels: Sequence[str]) -> str | None:
    """Read the label that the text is, or else the only one that it mentions."""
    stripped = text.strip()
    if stripped in labels:
        return stripped
    plain = _plain(text)
    same = [label for label in labels if plain and _plain(label) == plain]
    if len(same) == 1:
        return same[0]
    return None if same else _only_mention(text, labels)


def _plain(text: str) -> str:
    """Fold case, underscores, white space and the quotes and punctuation around the text."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().replace("_", " ").split())
    return folded.lstrip(_QUOTES + " ").rstrip(_QUOTES + _PUNCTUATION + " ")


def _only_mention(text: str, labels: Sequence[str]) -> str | None:
    """Find the single label mentioned as a whole sequence of words; at each word the longest label counts."""
    by_tokens: dict[tuple[str, ...], str | None] = {}
    for label in labels:
        key = tuple(_word_or_sign().findall(_folded(label)))
        by_tokens[key] = None if key in by_tokens else label
    lengths: dict[str, list[int]] = {}
    for key in by_tokens:
        if key and len(key) not in lengths.setdefault(key[0], []):
            lengths[key[0]].append(len(key))
    tokens = _word_or_sign().findall(_folded(text))
    found: str | None = None
    at = 0
    while at < len(tokens):
        step = 1
        for length in sorted(lengths.get(tokens[at], ()), reverse=True):
            key = tuple(tokens[at : at + length])
            if key not in by_tokens:
                continue
            label = by_tokens[key]
            if label is None or (found is not None and label != found):
                return None
            found, step = label, length
            break
        at += step
    return found


def _read_number(text: str) -> int | float | None:
    """Read the number after the last `####`, or else the last number in the text: of 4/5 that is 4."""
    marked = text.rpartition("####")
    if marked[1]:
        first = next(NUMBER.finditer(marked[2]), None)
        if first:
            return number_in(first)
    before = last = None
    for match in NUMBER.finditer(text):
        before, last = last, match
    if last and before and _is_rating(text, before, last):
        last = before
    return number_in(last) if last else None


def _is_rating(text: str, match: re.Match[str], top: re.Match[str]) -> bool:
    """Say whether a number is surely a rating on a scale that ends at the next one, `top`.

    It isn't where it's more than the scale's end (24/7), begins with a nought as in dates, or is joined to
    what stands before it (2024/5/10, 3-4/5, 1 4/5).
    """
    scale = _ON_SCALE.match(text, match.end())
    if scale is None or scale.end() != top.end() or re.match("0[0-9]", match["digits"]):
        return False
    ahead = text[: match.start()].rstrip().rstrip(_DASHES).rstrip()[-1:]
    value, end = number_in(match), number_in(top)
    return value is not None and end is not None and 0 <= value <= end and ahead not in tuple("/0123456789")


def _read_json(text: str, schema: Json, *, linear: bool) -> Json:
    """Parse the whole text, or else the first object or array inside it that is sound and fits `schema`."""
    fits = _schema_check(schema, linear)
    try:
        return next((value for value in _json_values(text) if _is_sound(value) and fits(value)), None)
    except TaskError:
        return None  # whether it fits a pattern takes too long to tell


def _json_values(text: str) -> Iterator[Json]:
    """Yield the whole text's value, or else the objects and arrays inside it, first to last.

    The characters read are counted against a budget: nested openings that never close would otherwise
    cost the square of the length.
    """
    decoder = json.JSONDecoder(parse_int=_json_int)
    openings = re.compile(r"[{\[]")
    try:
        yield decoder.decode(text)
        return
    except (ValueError, RecursionError):
        pass
    budget = 4 * len(text) + 100_000
    at = 0
    while budget > 0:
        if at > 4096:
            # json counts the lines before each error, so what has been passed must go.
            text, at = text[at:], 0
        opening = openings.search(text, at)
        if opening is None:
            return
        start = opening.start()
        try:
            value, at = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            budget -= error.pos - start + 64
            at = start + 1
        except RecursionError:
            budget -= 10_000
            at = start + 1
        else:
            # A value that is yielded and turned down has cost a check against the schema.
            budget -= 2_000
            yield value


def _json_int(digits: str) -> int | float:
    """Read a JSON integer; one with too many digits for a float becomes infinite, to be refused later."""
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def _schema_check(schema: Any, linear: bool) -> Callable[[Json], bool]:
    """Make the function that says whether a value fits `schema`; everything fits None."""
    if schema is None:
        return lambda value: True
    return validator_of(schema, linear=linear).is_valid


def _is_sound(value: Json) -> bool:
    """Say whether every number is finite, every string can be written as UTF-8 and nothing lies too deep."""
    stack: list[tuple[Json, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > _MAX_DEPTH:
            return False
        if isinstance(item, float) and not math.isfinite(item):
            return False
        if isinstance(item, str) and not _is_utf8(item):
            return False
        if isinstance(item, dict):
            if not all(_is_utf8(key) for key in item):
                return False
            stack.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            stack.extend((child, depth + 1) for child in item)
    return True


def _is_utf8(text: str) -> bool:
    """Say whether the text has no lone surrogate, which a JSON escape can make."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
