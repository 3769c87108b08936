"""Calls as an answer: the schema of its own question's functions, and the form in which calls are written."""

import json
from collections.abc import Sequence

from rung.engines.schema import check_schema
from rung.models.chat import Message
from rung.models.tagged_calls import ASKED, read_tagged, spelled
from rung.records import Json
from rung.scoring.extract import read_answer
from rung.task.accepted import bare_calls
from rung.task.calls import call_schema, functions_in
from rung.task.kept import kept_if_short
from rung.task.outputs import as_calls
from rung.task.signature import signature_fault

AS_JSON = (
    'Answer with a JSON list of calls, [{"name": …, "arguments": {…}}], of the functions that are given; '
    "with [] where none of them fits."
)
"""How calls are asked for, of a model that was taught no form of its own."""


@kept_if_short(512)
def schema_of(context: str | None, most: int | None = None) -> Json:
    """The JSON Schema of the calls that a question with this context can be answered with, `most` at most.

    A function's arguments are left open where its own schema can't be followed, or is more than an engine can
    hold an answer to.
    """
    functions = functions_in(context)
    loose = {place for place, one in enumerate(functions) if signature_fault(one)}
    schema = call_schema(functions, loose=loose, most=most)
    if not check_schema(schema):
        return schema
    loose |= {place for place, one in enumerate(functions) if check_schema(call_schema([one]))}
    schema = call_schema(functions, loose=loose, most=most)
    if not check_schema(schema):
        return schema
    return call_schema(functions, loose=range(len(functions)), most=most)


def in_tags(turns: Sequence[Message]) -> list[Message]:
    """A conversation that asks for calls as JSON, answers in it too, as FunctionGemma knows it."""
    told = [_in_tags(turn) for turn in turns]
    return told if told[0].role == "system" else [Message(role="system", content=ASKED), *told]


def _in_tags(turn: Message) -> Message:
    if turn.role == "system":
        said = turn.content.replace(AS_JSON, "").strip()
        return Message(role="system", content=f"{said}\n{ASKED}".strip())
    calls = as_calls(turn.content) if turn.role == "assistant" else None
    if calls is None:
        return turn
    try:
        return Message(role="assistant", content=spelled(calls))
    except ValueError:
        return turn


def tagged_text(output: Json) -> str | None:
    """A row's calls as FunctionGemma writes them; None where that form can't spell them, or they are none."""
    calls = bare_calls(as_calls(output))
    if not isinstance(calls, list):
        return None
    try:
        return spelled(calls)
    except ValueError:
        return None


def from_tags(text: str, schema: Json) -> tuple[str, Json]:
    """An answer in that form as JSON text, and its calls: None where they are broken or not of the schema.

    Words alone call nothing, and stay as they are.
    """
    calls = read_tagged(text)
    if calls is None:
        return text, None
    told = json.dumps(calls, ensure_ascii=False, separators=(",", ":"))
    return told if calls else text, read_answer(told, kind="tool_call", schema=schema)
