"""A System whose kind of answer is function calls, served: held to the functions of each request."""

import json

from jsonschema import Draft202012Validator

from rung.models.resolve import resolve
from rung.spec import AnswerSpec, Spec
from rung.system import ref_to, save
from rung.task.calls import call_schema
from tests.fixtures_serve import also, said

FIND = {
    "name": "find",
    "parameters": {
        "type": "object",
        "properties": {"topic": {"type": "string", "enum": ["billing", "login"]}},
        "required": ["topic"],
    },
}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}}}


def test_every_request_is_answered_with_calls_of_its_own_functions(tiny, tiny_gguf, tmp_path):
    model = resolve(str(tiny_gguf))
    spec = Spec(
        rung="prompt",
        task="calls",
        kind="tool_call",
        engine="llama",
        model=ref_to(model, str(tiny_gguf)),
        instruction="Call.",
        answer=AnswerSpec(form="calls", max_tokens=120, most_calls=2),
    )
    folder = save(tmp_path / "calls", spec, {}).folder
    found = {"find": 0, "now": 0}
    with also(tiny, {"calls": folder}) as server:
        for at in range(6):
            for function in (FIND, NOW):
                tools = [{"type": "function", "function": function}]
                (choice,) = server.user.chat.completions.create(
                    model="calls", messages=said(f"question {at}"), tools=tools
                ).choices
                calls = [
                    {"name": c.function.name, "arguments": json.loads(c.function.arguments)}
                    for c in choice.message.tool_calls or ()
                ]
                assert Draft202012Validator(call_schema([function])).is_valid(calls)
                assert choice.finish_reason == ("tool_calls" if calls else "stop")
                found[function["name"]] += len(calls)
        (choice,) = server.user.chat.completions.create(model="calls", messages=said("none")).choices
        assert choice.message.content == "" and not choice.message.tool_calls
    assert all(found.values())
