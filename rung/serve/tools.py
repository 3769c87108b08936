"""Function calls: what a request offers, as a schema of the answer; what was answered, as calls."""

import json
import uuid
from collections.abc import Sequence

from rung.records import Json
from rung.serve.wire import ChatRequest, NamedTool, Tool

CALLS = "calls"
REPLY = "reply"
HOW = (
    'Answer with JSON: {"calls": [{"name": …, "arguments": {…}}]} to call functions, or {"reply": …} to '
    "answer in words."
)


def call_schema(request: ChatRequest) -> Json:
    """The JSON Schema of an answer that may call the request's functions, or has to."""
    offered = request.may_call
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        offered = [tool for tool in offered if tool.function.name == choice.function.name]
    items = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [_one_call(tool) for tool in offered]},
    }
    if request.parallel_tool_calls is False:
        items["maxItems"] = 1
    calls = _closed({CALLS: items})
    if choice == "required" or isinstance(choice, NamedTool):
        return calls
    return {"anyOf": [calls, _closed({REPLY: {"type": "string"}})]}


def offered(tools: Sequence[Tool]) -> list[Json]:
    """The functions as the request wrote them, for the prompt."""
    return [tool.model_dump(exclude_none=True) for tool in tools]


def read_calls(text: str) -> tuple[str | None, list[dict[str, Json]]]:
    """(words, calls in OpenAI's form) of an answer; the words alone where it calls nothing."""
    try:
        value = json.loads(text)
    except ValueError:
        return text, []
    if not isinstance(value, dict):
        return text, []
    calls = value.get(CALLS)
    if isinstance(calls, list) and calls and all(map(_is_call, calls)):
        return None, [_call(call) for call in calls]
    if isinstance(value.get(REPLY), str) and len(value) == 1:
        return str(value[REPLY]), []
    return ("" if calls == [] and len(value) == 1 else text), []


def _is_call(call: Json) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def _call(call: dict[str, Json]) -> dict[str, Json]:
    arguments = json.dumps(call["arguments"], ensure_ascii=False, separators=(",", ":"))
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call["name"], "arguments": arguments},
    }


def _one_call(tool: Tool) -> Json:
    parameters = tool.function.parameters or {"type": "object", "properties": {}}
    return _closed({"name": {"const": tool.function.name}, "arguments": parameters})


def _closed(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
