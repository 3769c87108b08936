"""Calls as an answer: the schema of its own question's functions, and the form in which calls are written."""

import json
from collections.abc import Sequence
from dataclasses import replace

from rung.engines.endpoint_calls import Offer, called
from rung.engines.endpoint_wire import spoken
from rung.engines.schema import check_schema
from rung.models.chat import Message
from rung.models.tagged_calls import ASKED, read_tagged, spelled
from rung.records import Example, Json
from rung.scoring.extract import read_answer
from rung.task.accepted import bare_calls
from rung.task.calls import FUNCTIONS, call_schema, functions_in, without_functions
from rung.task.kept import kept_if_short
from rung.task.outputs import as_calls
from rung.task.signature import signature_fault
from rung.wording import Shot, question

AS_JSON = (
    'Answer with a JSON list of calls, [{"name": …, "arguments": {…}}], of the functions that are given; '
    "with [] where none of them fits."
)
"""How calls are asked for, of a model that was taught no form of its own."""
RESULT, DONE = "ok", "Done."
"""What stands behind the calls of a worked example: providers want their results, then a word on these."""
NOTHING_FITS = "None of the functions fits."
"""What a worked example answers that calls nothing."""


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


def in_tools(instruction: str | None, example: Example, shots: Sequence[Shot], offered: Offer) -> list[Json]:
    """A conversation that asks for calls of `tools`, in messages of OpenAI's protocol.

    It says nothing of JSON, and the functions of its question stand beside it. Worked examples call as the
    server's model does; those of the same functions don't tell them again.
    """
    told = (instruction or "").replace(AS_JSON, "").strip()
    functions: list[Json] = [*functions_in(example.context)]
    turns, number = spoken([("system", told)] if told else []), 1
    for shot in shots:
        turns += spoken([("user", _without(shot.input, functions))])
        calls = called(shot.output, offered, number)
        if calls is None:
            said = NOTHING_FITS if as_calls(shot.output) == [] else shot.output
            turns += spoken([("assistant", said)])
            continue
        number += len(calls)
        turns.append({"role": "assistant", "content": None, "tool_calls": [call for call, _ in calls]})
        results: list[Json] = [{"role": "tool", "tool_call_id": at, "content": RESULT} for _, at in calls]
        turns += results
        turns += spoken([("assistant", DONE)])
    asked = replace(example, context=without_functions(example.context))
    return [*turns, *spoken([("user", question(asked))])]


def _without(text: str, functions: Sequence[Json]) -> str:
    """A question's text without its functions, where they are these."""
    before, mark, after = text.rpartition(FUNCTIONS)
    try:
        found, end = json.JSONDecoder().raw_decode(after) if mark else (None, 0)
    except (ValueError, RecursionError):
        return text
    if not mark or found != functions:
        return text
    return "\n\n".join(part for part in (before.strip(), after[end:].strip()) if part)


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
