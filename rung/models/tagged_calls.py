"""Function calls as FunctionGemma writes: `<start_function_call>call:NAME{key:value}<end_function_call>`.

Text stands between two `<escape>`; numbers, true, false and null stand bare. Lists and objects are those of
JSON, but for names without quotes. Source: "FunctionGemma formatting and best practices",
https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from rung.records import Json

BEGIN: Final = "<start_function_call>call:"
END: Final = "<end_function_call>"
ESCAPE: Final = "<escape>"
STOPS: Final = ("<start_function_response>",)
"""What the model writes after its calls, where their results are to come: that ends an answer of calls."""
MARKERS: Final = (
    "<start_function_call>",
    END,
    ESCAPE,
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_response>",
    "<end_function_response>",
)
ASKED: Final = "You are a model that can do function calling with the following functions"
"""What the model was taught to be told before the functions."""
MOST_DEPTH: Final = 64

_PLAIN_KEY = re.compile(r"[^\s{}\[\],:<>]+")
_BARE = re.compile(r"[^{}\[\],<]*")
_SPACE = re.compile(r"\s*")
_WORDS: Final[Mapping[str, Json]] = {"true": True, "false": False, "null": None, "none": None}


def spelled(calls: Sequence[Json]) -> str:
    """Calls, each with `name` and `arguments`, as the model writes them; arguments by name. Of none, nothing.

    ValueError for what nothing can spell: text that holds `<escape>` or what ends an answer, and a name that
    holds a mark or a brace.
    """
    return "".join(_spelled_call(call) for call in calls)


def _spelled_call(call: Json) -> str:
    assert isinstance(call, dict) and isinstance(call["arguments"], dict), "calls as `read_calls` makes them"
    name = str(call["name"])
    if not name or name != name.strip() or any(sign in name for sign in ("{", *MARKERS)):
        raise ValueError(f"the name {name[:80]!r} can't stand in this form of call")
    return f"{BEGIN}{name}{_spelled(call['arguments'])}{END}"


def _spelled(value: Json) -> str:
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        parts = sorted(value.items(), key=lambda item: item[0].lower())
        return "{" + ",".join(f"{_key(key)}:{_spelled(part)}" for key, part in parts) + "}"
    return json.dumps(value)


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _escaped(key)


def _escaped(text: str) -> str:
    for mark in (ESCAPE, *STOPS):
        if mark in text:
            what = "a text" if mark == ESCAPE else "an answer"
            raise ValueError(f"{text[:80]!r} holds {mark!r}, which ends {what} in this form of call")
    return f"{ESCAPE}{text}{ESCAPE}"


def read_tagged(text: str) -> list[Json] | None:
    """The calls in a text: none in words alone; None where one is broken or was cut off.

    Words around calls are passed over. A word without `<escape>` around it is text.
    """
    calls: list[Json] = []
    at = text.find(BEGIN)
    while at >= 0:
        reader = _Reader(text, at + len(BEGIN))
        try:
            calls.append(reader.call())
        except ValueError:
            return None
        at = text.find(BEGIN, reader.at)
    # Half a call at the end is none that was left out on purpose.
    return None if not calls and any(marker in text for marker in MARKERS[:3]) else calls


class _Reader:
    """A place in a text, and what is read from there. ValueError where that isn't there."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at

    def call(self) -> dict[str, Json]:
        brace = self.text.find("{", self.at)
        name = self.text[self.at : max(brace, self.at)].strip()
        if not name:
            raise ValueError("a call without a name")
        self.at = brace
        arguments = self._object(0)
        self._skip()
        if self.at < len(self.text) and not self._take(END):
            raise ValueError("a call that doesn't end")
        return {"name": name, "arguments": arguments}

    def _value(self, depth: int) -> Json:
        if depth > MOST_DEPTH:
            raise ValueError("nested too deeply")
        self._skip()
        if self.text.startswith(ESCAPE, self.at):
            return self._between()
        if self.text.startswith("{", self.at):
            return self._object(depth)
        if self.text.startswith("[", self.at):
            return self._list(depth)
        return self._word()

    def _object(self, depth: int) -> dict[str, Json]:
        found: dict[str, Json] = {}
        self._need("{")
        while not self._take("}"):
            if found:
                self._need(",")
            self._skip()
            if self.text.startswith(ESCAPE, self.at):
                key = self._between()
            else:
                match = _PLAIN_KEY.match(self.text, self.at)
                if match is None:
                    raise ValueError("an argument without a name")
                key, self.at = match.group(), match.end()
            self._need(":")
            if key in found:
                raise ValueError("an argument twice")
            found[key] = self._value(depth + 1)
        return found

    def _list(self, depth: int) -> list[Json]:
        found: list[Json] = []
        self._need("[")
        while not self._take("]"):
            if found:
                self._need(",")
            found.append(self._value(depth + 1))
        return found

    def _between(self) -> str:
        first = self.at + len(ESCAPE)
        last = self.text.find(ESCAPE, first)
        if last < 0:
            raise ValueError("text that doesn't end")
        self.at = last + len(ESCAPE)
        return self.text[first:last]

    def _word(self) -> Json:
        match = _BARE.match(self.text, self.at)
        word = match.group().strip() if match is not None else ""
        if match is None or not word:
            raise ValueError("nothing where a value should be")
        self.at = match.end()
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        try:
            value = json.loads(word, parse_constant=str)
        except ValueError:
            return word
        return value if isinstance(value, int | float) else word

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match is not None else self.at

    def _take(self, sign: str) -> bool:
        self._skip()
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) if found else 0
        return found

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise ValueError(f"no {sign!r}")
