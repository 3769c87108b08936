"""Function calls as OpenAI's protocol has them: what a request offers, what an answer calls. Pure."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.engines.base import Completion
from rung.records import Json
from rung.runs import storable
from rung.task.outputs import check_parts
from rung.task.parts import over_parts
from rung.task.signature import parameters_of, signature_fault

LONGEST_NAME = 64
LONGEST_DESCRIPTION = 1024
"""Of a function, at OpenAI; that of its arguments may be longer."""
BESIDE_VALUE = ("anyOf", "oneOf", "allOf", "not", "enum")
"""Keywords that OpenAI and Anthropic refuse at the top of a function's arguments."""
WORDS = ("title", "description")
"""What tells a model about an argument."""
OPEN: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": True}
"""Any arguments: OpenAI wants the keys of an object there."""
NO_CALLS = "[]"
UNASKED = Completion(
    text=NO_CALLS, tokens=(), logprob=math.nan, prompt_tokens=0, completion_tokens=0, latency_s=0.0
)
"""The answer to a question that nothing can be called for: it's known, and costs nothing."""

_ALLOWED = re.compile(rf"[a-zA-Z0-9_-]{{1,{LONGEST_NAME}}}")
_STRANGE = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The functions of a question as a request's `tools`.

    `sent` are the names that stand there by the functions' own, `own` those by the ones that stand there:
    providers take no dots.
    """

    tools: tuple[Json, ...]
    sent: Mapping[str, str]
    own: Mapping[str, str]

    @property
    def body(self) -> dict[str, Json]:
        """What a request's body has for it; where there are none, servers refuse the empty list."""
        return {"tools": [*self.tools], "tool_choice": "auto"}

    def named(self, text: str) -> str:
        """An answer's calls as JSON text with the functions' own names."""
        try:
            calls = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if not isinstance(calls, list) or all(name == own for name, own in self.own.items()):
            return text
        return _compact([self._named(call) for call in calls])

    def _named(self, call: Json) -> Json:
        if not isinstance(call, dict):
            return call
        name = call.get("name")
        return {**call, "name": self.own.get(name, name) if isinstance(name, str) else name}


def offer(functions: Sequence[Mapping[str, Any]]) -> Offer:
    """These functions as `tools`, in order, with names and schemas that providers take."""
    own = [one["name"] for one in functions]
    sent = sent_names(own)
    return Offer(
        tools=tuple(_tool(name, one) for name, one in zip(sent, functions, strict=True)),
        sent=dict(reversed([*zip(own, sent, strict=True)])),
        own=dict(zip(sent, own, strict=True)),
    )


def sent_names(names: Sequence[str]) -> list[str]:
    """Names that providers take, each of them once: an allowed one stays, the first time that it comes."""
    kept = {name for name in names if _ALLOWED.fullmatch(name)}
    used, made = set(kept), list[str]()
    for name in names:
        if name in kept:
            kept.remove(name)
            made.append(name)
            continue
        bare = new = _STRANGE.sub("_", name)[:LONGEST_NAME] or "function"
        number = 1
        while new in used:
            number += 1
            new = f"{bare[: LONGEST_NAME - len(str(number)) - 1]}_{number}"
        used.add(new)
        made.append(new)
    return made


def _tool(name: str, function: Mapping[str, Any]) -> Json:
    told, parameters = function.get("description"), _parameters(function)
    described: dict[str, str] = {}
    if isinstance(told, str) and told.strip():
        told = storable(told)
        described = {"description": told[:LONGEST_DESCRIPTION]}
        if len(told) > LONGEST_DESCRIPTION:
            more = parameters.get("description")
            parameters["description"] = f"{told}\n\n{more}" if isinstance(more, str) else told
    return {"type": "function", "function": {"name": name, **described, "parameters": parameters}}


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function's arguments as a JSON Schema that providers take, with the words that describe them.

    One that nobody can follow, that they refuse, or that no request can carry, is told in words, and the
    arguments are open.
    """
    schema = parameters_of(function, words=WORDS)
    followed = signature_fault(function) is None and not any(key in schema for key in BESIDE_VALUE)
    if followed and _can_be_sent(schema):
        # The keys in one order, too: what is forwarded stays as it is.
        return OPEN | _whole(schema)
    told = storable(_compact(function.get("parameters")))
    return OPEN | {"description": f"The arguments' JSON Schema: {told}"}


def _can_be_sent(schema: Json) -> bool:
    """Whether it's a request's JSON, which has no NaN, in UTF-8, which has no half of a surrogate pair."""
    try:
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


def _whole(part: Any) -> Any:
    """A schema in which each list says what it holds, be it anything."""
    if not isinstance(part, dict):
        return part
    made, kinds = over_parts(part, _whole), part.get("type")
    if made.get("items", True) is True and "array" in (kinds if isinstance(kinds, list) else [kinds]):
        made = {"items": {}} | made | {"items": {}}
    return made


def called(text: str, of: Offer, first: int) -> list[tuple[Json, str]] | None:
    """Calls in a text of JSON as an assistant's `tool_calls`, with their ids; None where there are none.

    The ids are numbered from `first`, in nine letters and digits: Mistral takes no others.
    """
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(calls, list) or not calls or not all(isinstance(one, dict) for one in calls):
        return None
    made: list[tuple[Json, str]] = []
    for number, one in enumerate(calls, start=first):
        id_, name = f"call{number:05d}", str(one.get("name"))
        # One of other functions than the question's is spelled as that could be.
        spelled = of.sent.get(name) or sent_names([name])[0]
        call: Json = {"name": spelled, "arguments": _compact(one.get("arguments"))}
        made.append(({"id": id_, "type": "function", "function": call}, id_))
    return made


def calls_text(message: Mapping[str, Any]) -> str:
    """The calls of an answer as JSON text, in order, with the names that were sent; empty where it has none.

    Arguments that are no JSON stand there as text, and so are read as no call.
    """
    given = message.get("tool_calls")
    calls = [_call(one) for one in given] if isinstance(given, list) else []
    return _compact(calls) if calls else ""


def _call(one: Json) -> Json:
    function = one.get("function") if isinstance(one, dict) else None
    if not isinstance(function, dict):
        return None
    return {"name": function.get("name"), "arguments": _arguments(function.get("arguments"))}


def _arguments(given: Json) -> Json:
    """Arguments as JSON; some servers write nothing for none, or the object itself."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return {}
    try:
        value = json.loads(given) if isinstance(given, str) else given
        check_parts(value)
    except (ValueError, RecursionError):
        return given if isinstance(given, str) else None
    return value


def _compact(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
