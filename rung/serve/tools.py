"""Function calls: what a request offers, as a schema of the answer; what was answered, as calls."""

import contextlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from rung.engines.schema import require_small
from rung.records import Json
from rung.runs import storable
from rung.serve.wire import ChatRequest, NamedTool, Tool
from rung.task.parts import by_pointers
from rung.task.signature import at_place

CALLS = "calls"
REPLY = "reply"
_CALLS_BEGIN, _REPLY_BEGINS = f'{{"{CALLS}":[', f'{{"{REPLY}":"'
_DECODER = json.JSONDecoder()
HOW = (
    'Answer with JSON: {"calls": [{"name": …, "arguments": {…}}]} to call functions, or {"reply": …} to '
    "answer in words."
)


def call_schema(request: ChatRequest) -> Json:
    """The JSON Schema of an answer that may call the request's functions, or has to.

    Raises TaskError where parameters refer to what they don't hold, EngineError for large ones.
    """
    offered = request.may_call
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        offered = [tool for tool in offered if tool.function.name == choice.function.name]
    required = choice == "required" or isinstance(choice, NamedTool)
    place = f"#{'' if required else '/anyOf/0'}/properties/{CALLS}/items/anyOf"
    items = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [_one_call(tool, f"{place}/{at}") for at, tool in enumerate(offered)]},
    }
    if request.parallel_tool_calls is False:
        items["maxItems"] = 1
    calls = _closed({CALLS: items})
    if required:
        return calls
    return {"anyOf": [calls, _closed({REPLY: {"type": "string"}})]}


def offered(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The functions as the request wrote them, for the prompt."""
    return [tool.written for tool in tools]


def read_calls(text: str, own_characters: int | None = None) -> tuple[str | None, list[dict[str, Any]]]:
    """(words, calls in OpenAI's form) of an answer; the words alone where it calls nothing.

    Of an answer that was cut off these are the words so far, or the calls that are whole. Where it was closed
    again its first `own_characters` are the model's: what was put behind them is part of no call.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _of_cut(text)
    if isinstance(value, list) and all(map(_is_call, value)):
        value = {CALLS: value}
    if not isinstance(value, dict):
        return text, []
    calls = value.get(CALLS)
    if isinstance(calls, list) and calls and all(map(_is_call, calls)):
        if own_characters is not None:
            ends = [end for _, end in _listed(text, text.index("[") + 1)]
            calls = [call for call, end in zip(calls, ends, strict=True) if end <= own_characters]
        return None if calls else "", [_call(call) for call in calls if isinstance(call, dict)]
    if isinstance(value.get(REPLY), str) and len(value) == 1:
        return storable(str(value[REPLY])), []
    return ("" if calls == [] and len(value) == 1 else text), []


def _of_cut(text: str) -> Json:
    """What an answer under `call_schema` that was cut off holds; None where it isn't one."""
    if text.startswith(_REPLY_BEGINS):
        # The end may be half of an escaped character.
        for end in range(len(text), max(len(text) - 12, len(_REPLY_BEGINS) - 1), -1):
            with contextlib.suppress(ValueError):
                return json.loads(text[:end] + '"}')
    if not text.startswith(_CALLS_BEGIN):
        return None
    return {CALLS: [call for call, _ in _listed(text, len(_CALLS_BEGIN))]}


def _listed(text: str, at: int) -> Iterator[tuple[Json, int]]:
    """The whole values of a list of compact JSON whose first stands at a place, each with where it ends."""
    with contextlib.suppress(ValueError):
        while True:
            value, end = _DECODER.raw_decode(text, at)
            yield value, end
            at = end + 1  # the comma


def _is_call(call: Json) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def _call(call: dict[str, Json]) -> dict[str, Any]:
    arguments = storable(json.dumps(call["arguments"], ensure_ascii=False, separators=(",", ":")))
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": storable(str(call["name"])), "arguments": arguments},
    }


def _one_call(tool: Tool, place: str) -> Json:
    """The schema of a call, which stands at the JSON pointer `place` in that of the answer."""
    parameters = tool.function.parameters or {"type": "object", "properties": {}}
    require_small(parameters)
    own = by_pointers(parameters, f"the parameters of {tool.function.name!r}")
    # By an id of its own its pointers would begin there.
    own = {key: value for key, value in own.items() if key != "$id"}
    arguments = at_place(own, f"{place}/properties/arguments")
    return _closed({"name": {"const": tool.function.name}, "arguments": arguments})


def _closed(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
