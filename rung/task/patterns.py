"""Patterns of JSON Schemas: whether they can be read, and whether a text matches one, in bounded time."""

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rung.errors import TaskError

if TYPE_CHECKING:
    import regex
    from llguidance import LLMatcher, LLTokenizer

LONGEST_PATTERN = 10_000
"""In characters: `re` takes time in the square of them."""
MATCH_S = 5.0
"""Seconds of the processor in which a pattern has to be found in a text; most take a millionth of that."""
_BRACE = re.compile(r"(\\N\{[^}]*\}|\\.)|\{(?!\d+(?:,\d*)?\}|,\d*\})", re.DOTALL)
"""An escape, or a brace that says nothing of how often."""


def pattern_fault(pattern: str) -> str | None:
    """Why Python's re can't read a pattern, or would take long to; None where it can."""
    import regex

    if len(pattern) > LONGEST_PATTERN:
        return f"it has more than {LONGEST_PATTERN:,} characters"
    try:
        re.compile(pattern)
        _searcher(pattern)
    except (re.error, regex.error) as error:
        return str(error)
    except (OverflowError, ValueError):
        return "a number in it is too large"
    except RecursionError:
        return "it is nested too deeply"
    return None


def is_found(pattern: str, text: str) -> bool:
    """Whether a text matches a pattern of the task's own schema, as re has it but for marks in words.

    Raises TaskError where that takes longer than MATCH_S: going back over a text may have no end.
    """
    try:
        return _searcher(pattern).search(text, timeout=MATCH_S) is not None
    except TimeoutError:
        part = f"{text[:40]!r}{'…' if len(text) > 40 else ''}"
        raise TaskError(
            f"pattern {pattern[:80]!r} takes over {MATCH_S:g} s on the text {part}; write it so that a text "
            "fits it in one way only"
        ) from None


@lru_cache(maxsize=256)
def _searcher(pattern: str) -> "regex.Pattern[str]":
    """A pattern for the package `regex`, which reads them much as re does and can be given an end."""
    import regex

    # It would read other braces than those of repeats as how far a text may miss the pattern.
    return regex.compile(_BRACE.sub(lambda found: found[1] or r"\{", pattern), regex.VERSION0)


def matches(pattern: str, text: str, *, unread: bool = False) -> bool:
    """Whether a text matches a stranger's pattern, as grammars of schemas have it; `unread`, if none can.

    In time linear in the text, whatever the pattern, so that nobody waits for one. As in ECMA-262,
    `\\w` and `\\d` are those of ASCII.
    """
    matcher = _matcher(pattern)
    try:
        # llguidance has the last control character escaped too.
        spelled = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f").encode()
    except UnicodeEncodeError:
        return False
    if matcher is None:
        return unread
    matcher = matcher.deep_copy()
    return matcher.try_consume_tokens([*spelled]) == len(spelled) and matcher.is_accepting()


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> "LLMatcher | None":
    """A matcher of JSON strings over single bytes, to be copied."""
    from llguidance import LLMatcher

    if pattern_fault(pattern) is not None:
        return None
    schema = json.dumps({"type": "string", "pattern": pattern})
    made = LLMatcher(_bytes(), LLMatcher.grammar_from_json_schema(schema), log_level=0)
    return None if made.is_error() else made


@lru_cache(maxsize=1)
def _bytes() -> "LLTokenizer":
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
