"""A hosted model on this machine that knows function calls, in OpenAI's own types, and rows to ask it."""

import json
from collections.abc import Callable

import openai.types.chat as wire
from pydantic import TypeAdapter

from rung.records import Example
from rung.task.calls import FUNCTIONS
from tests.fixtures_climb import label_rows
from tests.fixtures_hosted import TOKENS_A_WORD, Hosted, topic
from tests.fixtures_http import Said

FIND = {
    "name": "desk.find",
    "description": "Look a topic up.",
    "parameters": {
        "type": "dict",
        "properties": {
            "topic": {"type": "str", "description": "What it is about."},
            "most": {"type": "integer", "default": 5},
        },
        "required": ["topic"],
    },
}
"""As public sets write a function: a name with a dot, and types of another language."""
SENT = "desk_find"
Calls = list[tuple[str, str]]
"""Names and arguments, as text."""


def find_rows(count: int) -> list[dict]:
    """Rows that look their topic up; each fifth is thanks, which call nothing."""
    rows = []
    for at, row in enumerate(label_rows(count)):
        offered = {"context": FUNCTIONS + json.dumps([FIND])}
        if at % 5 == 0:
            rows.append({"input": f"thank you {row['input']}", "output": [], **offered})
        else:
            call = {"name": "desk.find", "arguments": {"topic": row["output"]}}
            rows.append({"input": row["input"], "output": [call], **offered})
    return rows


def found(text: str, body: dict) -> Calls:
    """The right calls for such a row, by the names that the request offers."""
    if text.split("\n\n")[-1].startswith("thank you"):
        return []
    (tool,) = body["tools"]
    return [(tool["function"]["name"], json.dumps({"topic": topic(text)}))]


def nothing(text: str, body: dict) -> Calls:
    """What a server has that passes `tools` over."""
    return []


class Caller(Hosted):
    """Answers what offers `tools` with `calls`, and all else with what it `says`, by the protocol's types.

    `refusal` comes in place of an answer to `tools`, where it's given.
    """

    def __init__(self, calls: Callable[[str, dict], Calls] = found, says: str = "[]") -> None:
        self.calls = calls
        self.refusal: Said | None = None
        super().__init__(lambda text, body: says)

    def answer(self, body: dict, path: str) -> Said:
        checked(body)
        if self.refusal is not None and "tools" in body:
            return self.refusal
        return super().answer(body, path)

    def completion(self, body: dict) -> dict:
        words = " ".join(str(turn.get("content") or "") for turn in body["messages"])
        last = body["messages"][-1]["content"]
        calls = self.calls(last, body) if "tools" in body else []
        said = "I'd rather say it in words." if "tools" in body else self.says(last, body)
        message = {"role": "assistant", "content": None if calls else said, "refusal": None}
        if calls:
            message["tool_calls"] = [
                {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": text}}
                for at, (name, text) in enumerate(calls)
            ]
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": self.reports,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if calls else "stop",
                    "logprobs": None,
                }
            ],
            "usage": {
                "prompt_tokens": TOKENS_A_WORD * len(words.split()),
                "completion_tokens": 8,
                "total_tokens": TOKENS_A_WORD * len(words.split()) + 8,
            },
        }
        return wire.ChatCompletion.model_validate(answer, strict=True).model_dump(mode="json")

    def native(self) -> list[dict]:
        """The requests so far that offered functions."""
        return [body for body in self.seen if "tools" in body]

    def plain(self) -> list[dict]:
        """The others."""
        return [body for body in self.seen if "tools" not in body]


def checked(body: dict) -> None:
    """Raises ValidationError where a body's tools or turns aren't those of the protocol."""
    TypeAdapter(list[wire.ChatCompletionFunctionToolParam]).validate_python(body.get("tools", []))
    asked: list[str] = []
    for turn in body["messages"]:
        calls = turn.get("tool_calls", [])
        TypeAdapter(list[wire.ChatCompletionMessageFunctionToolCallParam]).validate_python(calls)
        shape = wire.ChatCompletionToolMessageParam if turn["role"] == "tool" else dict
        TypeAdapter(shape).validate_python(turn)
        if turn["role"] == "tool":
            asked.remove(turn["tool_call_id"])
        else:
            assert not asked, "a call without its result is refused"
            assert calls or turn["content"], "an empty turn is refused"
        asked += [call["id"] for call in calls]
    assert len({tool["function"]["name"] for tool in body.get("tools", [])}) == len(body.get("tools", []))


def finding(text: str, number: int = 0) -> Example:
    """A question beside that function."""
    return Example(id=f"q{number}", input=text, output=None, context=FUNCTIONS + json.dumps([FIND]))
