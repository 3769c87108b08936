"""Patterns of JSON Schemas: whether Python can read one, and whether a text matches it, in linear time."""

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

LONGEST_PATTERN = 10_000
"""In characters: `re` takes time in the square of them."""


def pattern_fault(pattern: str) -> str | None:
    """Why Python's re can't read a pattern, or would take long to; None where it can."""
    if len(pattern) > LONGEST_PATTERN:
        return f"it has more than {LONGEST_PATTERN:,} characters"
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    except (OverflowError, ValueError):
        return "a number in it is too large"
    except RecursionError:
        return "it is nested too deeply"
    return None


def matches(pattern: str, text: str, *, unread: bool = False) -> bool:
    """Whether a text matches a pattern, as the grammar of a schema has it; `unread`, if that can't be read.

    In time linear in the text, whatever the pattern: re may go back over a text without end. As in ECMA-262,
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
