"""Conversations as rows: their turns, tool calls and images, and an answer preferred to another one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from rung.data.images import EMBEDDED, PLACE, image_at
from rung.data.rows import MAX_ROW_BYTES
from rung.records import Json
from rung.task.accepted import MORE_KEYS, bare_calls
from rung.task.calls import FUNCTIONS, functions_in, given_calls
from rung.task.nulls import offered
from rung.task.outputs import canonical, check_parts, read_json, shown

SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
}
IMAGE_PARTS = ("image_url", "input_image", "image")
IMAGE_KEYS = ("image_url", "image", "url", "path")
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Parts that are text, each with the key under which it stands."""
ASKING = ("user", "tool")
"""Whose turn comes before an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """A row's parts before they are checked."""

    input: Any
    output: Any
    context: Any = None
    rejected: Any = None
    images: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a conversation asks, as the input and the context of an Example."""

    input: str
    context: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side said once. A turn that calls functions, or none on purpose, has that in its text, too."""

    role: str
    text: str
    calls: Json = None
    images: tuple[str, ...] = ()

    @property
    def answer(self) -> Json:
        """The turn as an output."""
        return self.text if self.calls is None else {"calls": self.calls}


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a row holds beside its turns: the functions that may be called, and a context."""

    tools: Any = None
    context: Any = None


NOTHING = Beside()


def conversation(
    turns: Any, column: str, beside: Beside = NOTHING, *, role_key: str = "role", text_key: str = "content"
) -> Fields:
    """The last turn, the assistant's, is the output; system turns are the context; the rest is the input."""
    read = read_turns(turns, column, role_key, text_key)
    if read[-1].role != "assistant":
        raise ValueError(f"{column} must end with the assistant's answer, not with {read[-1].role!r}")
    return _fields(read[:-1], read[-1].answer, column, beside, read[-1].images)


def asked(messages: Any, tools: Any = None) -> Question:
    """What a request in OpenAI's chat form asks: the same as a row of these messages and their answer does.

    `tools` are the functions that may be called. Raises ValueError, which tells the sender what to change,
    where nothing is asked or it can't be.
    """
    try:
        check_parts([messages, tools])
    except ValueError as error:
        raise ValueError(f"messages or tools: {error}; correct them") from None
    if isinstance(messages, list) and any(map(_pictured, messages)):
        raise ValueError("messages holds an image: this System answers text alone; take the image out")
    turns = read_turns(messages, "messages")
    for number, turn in enumerate(turns, start=1):
        if turn.role == "user" and not turn.text.strip():
            raise ValueError(f"turn {number} of messages is the user's and empty; fill it in or leave it out")
    if not any(turn.role == "user" for turn in turns):
        raise ValueError("messages holds no turn of the user; add what is asked")
    if turns[-1].role not in ASKING:
        raise ValueError(
            f"messages must end with a turn of the user or of a tool, not of the {turns[-1].role}"
        )
    context = _context(turns, Beside(tools=tools)) or None
    question = Question(input=_said(turns, context), context=context)
    if question.context is not None and not question.context.strip():
        raise ValueError(f"the system's text in messages is empty ({shown(question.context)}); leave it out")
    if len(question.input) + len(question.context or "") > MAX_ROW_BYTES:
        raise ValueError("messages hold over 1 MB of text; shorten them")
    return question


def preference(
    prompt: Any, chosen: Any, rejected: Any, columns: Sequence[str], beside: Beside = NOTHING
) -> Fields:
    """The chosen answer is the output. Both answer the same conversation, each as in `completion`."""
    other, worse, images = _answered(rejected, columns[2])
    if _answered(chosen, columns[1])[0] != other:
        raise ValueError(
            f"{columns[1]} and {columns[2]} answer different conversations; write the same turns before both"
        )
    better = completion(prompt, chosen, columns, beside)
    return replace(better, rejected=worse, images=(*better.images, *images))


def completion(prompt: Any, answer: Any, columns: Sequence[str], beside: Beside = NOTHING) -> Fields:
    """The answer, a text or a list of turns that ends with it, is the output; `columns` name both.

    Turns before the answer are those of the prompt, or follow them.
    """
    before, output, images = _answered(answer, columns[1])
    if isinstance(prompt, list):
        asked = read_turns(prompt, columns[0])
    elif isinstance(prompt, str):
        asked = [Turn(role="user", text=prompt)]
    else:
        raise ValueError(f"{columns[0]} must be text or a list of turns, not {shown(prompt)}")
    asked = before if all(turn in before for turn in asked) else [*asked, *before]
    return _fields(asked, output, columns[0], beside, images)


def says_beside_calls(turns: Any) -> bool:
    """Whether an answer, the last turn as it is written, calls functions and says something too.

    That is left out: an answer is words or calls. What earlier turns say stands before their calls.
    """
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict) or not (last.get("tool_calls") or last.get("function_call")):
        return False
    return bool(_beside_calls(last.get("content") or last.get("value")))


def read_turns(turns: Any, column: str, role_key: str = "role", text_key: str = "content") -> Sequence[Turn]:
    """The turns, one at least. ValueError says which isn't one."""
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{column} must be a list of turns, not {shown(turns)}")
    return [_turn(turn, column, role_key, text_key) for turn in turns]


def _turn(turn: Any, column: str, role_key: str, text_key: str) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"a turn of {column} must be an object, not {shown(turn)}")
    if role_key not in turn and turn.get("type") not in (None, "message"):
        raise ValueError(
            f"{column} holds an item of type {shown(turn['type'])}, which is no message: write calls as "
            "`tool_calls` of the assistant's turn and what they gave as a turn of the tool"
        )
    role = ROLES.get(str(turn.get(role_key)))
    if role is None:
        raise ValueError(f"unknown {role_key} {shown(turn.get(role_key))}; known: {', '.join(ROLES)}")
    calls = _calls(turn, text_key) if role == "assistant" else None
    if calls is not None:
        words = _beside_calls(turn.get(text_key))
        return Turn(role=role, text=f"{words}\n{_spelled(calls)}".strip(), calls=calls)
    text, images = _content(turn.get(text_key), text_key)
    return Turn(role=role, text=text, images=images)


def _fields(
    asked: Sequence[Turn], output: Json, column: str, beside: Beside, images: tuple[str, ...]
) -> Fields:
    """What was asked and its answer, which holds these `images`."""
    if not any(turn.role == "user" for turn in asked):
        raise ValueError(f"{column} holds no user turn before the answer; add it or delete the row")
    context = _context(asked, beside)
    return Fields(
        input=_said(asked, context),
        output=output,
        context=context,
        images=(*(image for turn in asked for image in turn.images), *images),
        faults=_faults([*(turn.role for turn in asked), "assistant"]),
    )


def _said(turns: Sequence[Turn], context: str | None) -> str:
    """The input: the turns that aren't the system's, with their speakers where there are several."""
    spoken = [turn for turn in turns if turn.role != "system"]
    if len(spoken) == 1:
        return spoken[0].text
    functions = functions_in(context) if any(turn.calls for turn in spoken) else ()
    return "\n".join(f"{SPEAKERS[turn.role]}: {_text_under(functions, turn)}" for turn in spoken)


def _text_under(functions: Sequence[Mapping[str, Any]], turn: Turn) -> str:
    """A turn's text, its calls without nulls for arguments of these functions that weren't given."""
    if not functions or not isinstance(turn.calls, list):
        return turn.text
    return turn.text.removesuffix(_spelled(turn.calls)) + _spelled(given_calls(turn.calls, functions))


def _context(turns: Sequence[Turn], beside: Beside) -> str:
    """The context: the system's turns, the row's own unless they hold it, and the functions."""
    system = "\n\n".join(turn.text for turn in turns if turn.role == "system")
    given = beside.context or ""
    if not isinstance(given, str):
        raise ValueError(f"context must be text, not {shown(given)}; write it as a string")
    parts = (system, "" if given.strip() in system else given, _functions(beside.tools))
    return "\n\n".join(part for part in parts if part)


def _faults(roles: Sequence[str]) -> tuple[str, ...]:
    """What is odd about the order of the turns. One call may have several results, each a tool's turn."""
    found = []
    for number, (before, role) in enumerate(pairwise(roles), start=2):
        if role == before and role != "tool":
            found.append(f"turns {number - 1} and {number} are both the {role}'s")
        elif role == "system":
            found.append(f"turn {number} is the system's, which comes first")
    return tuple(found)


def _answered(value: Any, column: str) -> tuple[Sequence[Turn], Any, tuple[str, ...]]:
    """The turns before an answer, the answer, and the images in it."""
    if not isinstance(value, list):
        return [], value, ()
    turns = read_turns(value, column)
    if turns[-1].role != "assistant":
        raise ValueError(f"{column} must end with the assistant's answer, not with {turns[-1].role!r}")
    return turns[:-1], turns[-1].answer, turns[-1].images


def _content(content: Any, key: str) -> tuple[str, tuple[str, ...]]:
    """A turn's text, `<image>` where an image stood, and those images."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        raise ValueError(f"{key} must be text, not {shown(content)}; write it as a string")
    texts, images = [], []
    for part in content:
        kind = part.get("type")
        if kind in IMAGE_PARTS:
            texts.append(PLACE)
            images.append(next((image_at(part[key]) for key in IMAGE_KEYS if part.get(key)), EMBEDDED))
        elif (text := _text_of(part)) is not None:
            texts.append(text)
        else:
            raise ValueError(f"{key} holds a part that is no text and no image: {shown(part)}; take it out")
    return "".join(texts), tuple(images)


def _beside_calls(content: Any) -> str:
    """The words of a turn that calls functions, too; empty where it has none."""
    if isinstance(content, list):
        content = "".join(_text_of(part) or "" for part in content if isinstance(part, dict))
    return content.strip() if isinstance(content, str) else ""


def _text_of(part: Mapping[str, Any]) -> str | None:
    """The text of a part, JSON written out as it stands; None where it holds neither."""
    kind = str(part.get("type"))
    if kind == "input_json" and isinstance(part.get("data"), (dict, list)):
        try:
            return json.dumps(part["data"], ensure_ascii=False)
        except TypeError:
            return None
    text = part.get(TEXT_PARTS[kind]) if kind in TEXT_PARTS else None
    return text if isinstance(text, str) else None


def _pictured(turn: Any) -> bool:
    """Whether a turn, not read yet, holds an image."""
    content = turn.get("content") if isinstance(turn, dict) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") in IMAGE_PARTS for part in parts)


def _calls(turn: Mapping[str, Any], text_key: str) -> Json:
    """The functions that a turn calls, each with its arguments read; None where it is a text.

    An empty list of calls without a text says that none is to be called.
    """
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else None)
    if not calls:
        return [] if turn.get("tool_calls") == [] and not turn.get(text_key) else None
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls must be a list of calls, not {shown(calls)}")
    return [_call(call) for call in calls]


def _call(call: Any) -> Json:
    function = (call.get("function") or call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError(f"a call needs a function with a name, not {shown(call)}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError as error:
            raise ValueError(
                f"arguments of the call of {shown(name, 40)}: {error}: {shown(arguments)}; correct them"
            ) from None
    if not isinstance(arguments, dict):
        raise ValueError(
            f"arguments of the call of {shown(name, 40)} must be a JSON object, not {shown(arguments)}"
        )
    more = {key: found for key in MORE_KEYS if (found := call.get(key, function.get(key))) is not None}
    return {"name": name, "arguments": arguments, **more}


def _spelled(calls: Json) -> str:
    try:
        return canonical({"calls": bare_calls(calls)})
    except TypeError as error:
        raise ValueError(
            f"calls {shown(calls)} are no JSON value; write the arguments as JSON text"
        ) from error


def _functions(tools: Any) -> str:
    """The functions that may be called, as the end of the context."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = read_json(tools)
        except ValueError as error:
            raise ValueError(f"tools: {error}: {shown(tools)}; correct them") from None
    if tools is None or tools in ("", []):
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"tools must be a list of functions, not {shown(tools)}")
    try:
        functions = offered([tool.get("function") or tool for tool in tools])
        return FUNCTIONS + json.dumps(functions, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"tools {shown(tools)} are no JSON value; store them as text") from error
