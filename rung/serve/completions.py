"""POST /v1/chat/completions and /v1/completions: from a request to questions, from answers to a response."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import groupby
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rung.data.conversations import Question, Turn, read_turns
from rung.data.conversations import asked as read_question
from rung.engines.schema import require_schema, require_small
from rung.errors import EngineError, ModelError, TaskError
from rung.models.chat import Message
from rung.records import Example, Json
from rung.serve.answer import Asked, Piece, Reply, asked, reply, stream, text_asked, turns_asked
from rung.serve.faults import bad
from rung.serve.gateway import Gateway, ended, merged
from rung.serve.shapes import chat_logprobs, head, new_id, sources, text_logprobs, usage
from rung.serve.systems import Served
from rung.serve.tools import HOW, call_schema, offered, read_calls
from rung.serve.wire import ChatRequest, CompletionRequest, Sampling
from rung.serve.wish import Wish
from rung.task.outputs import check_text
from rung.task.parts import holding, pointing
from rung.task.schemas import check_schema as check_sense

UNSAID = 16
"""Tokens of a base model's text where `max_tokens` says nothing, as OpenAI has it."""


async def chat(gateway: Gateway, request: Request, body: ChatRequest) -> Response:
    """Answer a chat: a System takes it as a row of its task, a base model by its chat template."""
    served = gateway.find(body.model)
    if body.stream:
        return await gateway.streamed(request, "chat", served.name, _chat_chunks(gateway, served, body))

    async def work() -> dict[str, Any]:
        pairs = await _chat_pairs(gateway, served, body)
        replies = await _all(gateway, served, pairs)
        return {
            **head(served, "chat.completion", new_id("chatcmpl")),
            "choices": [
                {**_chat_choice(place, served, found, body), **sources(served, question, found)}
                for place, ((question, _), found) in enumerate(zip(pairs, replies, strict=True))
            ],
            "usage": usage(replies, len(replies)),
        }

    return await gateway.whole(request, "chat", served.name, work())


async def complete(gateway: Gateway, request: Request, body: CompletionRequest) -> Response:
    """Answer texts: a System takes each as its input, a base model continues it."""
    served = gateway.find(body.model)
    limit = body.max_tokens or (UNSAID if served.bare else None)
    wishes = _choices(body, _wish(body, limit, body.logprobs, None))
    if body.stream:
        chunks = _text_chunks(gateway, served, body, wishes)
        return await gateway.streamed(request, "completions", served.name, chunks)

    async def work() -> dict[str, Any]:
        pairs = await _text_pairs(gateway, served, body, wishes)
        replies = await _all(gateway, served, pairs)
        choices = [
            {
                "index": place,
                "text": found.text,
                "finish_reason": found.finish,
                "logprobs": text_logprobs(found.chances) if body.logprobs is not None else None,
                **sources(served, question, found),
            }
            for place, ((question, _), found) in enumerate(zip(pairs, replies, strict=True))
        ]
        return {
            **head(served, "text_completion", new_id("cmpl")),
            "choices": choices,
            "usage": usage(replies, len(wishes)),
        }

    return await gateway.whole(request, "completions", served.name, work())


async def question_of(gateway: Gateway, served: Served, question: Question) -> Asked:
    """What a System is asked by a chat that was read. Raises Fault."""
    for text in (question.input, question.context or ""):
        try:
            check_text(text)
        except ValueError as error:
            raise bad(f"the messages can't be asked: the text {error}", "messages") from None
    example = Example(id="asked", input=question.input, output=None, context=question.context)
    return await asked(gateway.systems, served, example)


async def _chat_pairs(gateway: Gateway, served: Served, body: ChatRequest) -> list[tuple[Asked, Wish]]:
    """The chat with each wish. Raises Fault."""
    top = (body.top_logprobs or 0) if body.logprobs else None
    wish = _wish(body, body.limit, top, await _schema(served, body))
    question = await _chat_question(gateway, served, body)
    return [(question, one) for one in _choices(body, wish)]


async def _chat_question(gateway: Gateway, served: Served, body: ChatRequest) -> Asked:
    functions = offered(body.may_call)
    messages = [_written(turn) for turn in body.messages]
    try:
        question = read_question(messages, functions or None)
    except ValueError as error:
        raise bad(str(error), "messages") from None
    if not served.bare:
        return await question_of(gateway, served, question)
    turns = _alternating(turn for turn in read_turns(messages, "messages") if turn.role != "system")
    system = "\n\n".join(part for part in (question.context, HOW if functions else None) if part)
    try:
        return await turns_asked(
            served,
            [*([Message(role="system", content=system)] if system else []), *turns],
        )
    except ModelError as error:
        raise bad(str(error), "messages") from None


def _alternating(turns: Iterable[Turn]) -> list[Message]:
    """Turns of two sides, what functions gave on the user's; neighbours on one side are one turn.

    Many templates refuse two in a row, and several calls at once have several results.
    """
    said = [
        Message(role="assistant", content=turn.text)
        if turn.role == "assistant"
        else Message(role="user", content=turn.text if turn.role == "user" else f"Result: {turn.text}")
        for turn in turns
    ]
    sides = [list(of_one) for _, of_one in groupby(said, key=lambda turn: turn.role)]
    return [replace(side[0], content="\n\n".join(turn.content for turn in side)) for side in sides]


def _written(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn with what the assistant said, where OpenAI's clients give back its refusal or nothing at all."""
    calls = turn.get("tool_calls") is not None or turn.get("function_call") is not None
    if turn.get("role") != "assistant" or turn.get("content") is not None or calls:
        return turn
    return {**turn, "content": turn.get("refusal") or ""}


async def _text_pairs(
    gateway: Gateway, served: Served, body: CompletionRequest, wishes: Sequence[Wish]
) -> list[tuple[Asked, Wish]]:
    """Every text with every wish, those of one text in a row."""
    questions = [await _text_question(gateway, served, text) for text in body.prompts]
    return [(question, one) for question in questions for one in wishes]


async def _text_question(gateway: Gateway, served: Served, text: str) -> Asked:
    if served.bare:
        return await text_asked(served, text)
    if not text.strip():
        raise bad("`prompt` is empty: there is nothing to answer", "prompt")
    return await question_of(gateway, served, Question(input=text, context=None))


def _wish(body: Sampling, limit: int | None, top: int | None, schema: Json) -> Wish:
    return Wish(
        max_tokens=limit,
        stop=body.stops,
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        # Who names no seed wants draws that differ; without a temperature nothing is drawn.
        seed=secrets.randbits(31) if body.seed is None else body.seed,
        top=top,
        schema=schema,
    )


async def _schema(served: Served, body: ChatRequest) -> Json:
    """The schema that a request wants its answer held to. Raises Fault where the System has its own."""
    apart = served.spec.engine == "head" or served.spec.steps is not None
    own = apart or served.labelled or served.spec.answer.form != "free"
    if not served.bare and body.tool_choice not in (None, "none", "auto"):
        raise bad(f"{served.name!r} calls what it was made to call: leave `tool_choice` out", "tool_choice")
    several = served.spec.kind == "tool_call" and served.spec.answer.most_calls != 1
    if several and body.may_call and body.parallel_tool_calls is False:
        raise bad(
            f"{served.name!r} may make several calls at once, as it was made to: leave `parallel_tool_calls` "
            "out",
            "parallel_tool_calls",
        )
    if body.may_call and not own:
        return await _enforced(served, lambda: call_schema(body), "tools") if served.bare else None
    form = body.response_format
    if form is None or form.type == "text":
        return None
    wanted: Json = {"type": "object"} if form.json_schema is None else form.json_schema.schema_
    if own:
        held = served.spec.schema_
        if held is not None and (_same(wanted, held) if form.json_schema else _of_objects(held)):
            return None
        raise bad(
            f"{served.name!r} answers as it was made to: " + _form(served) + "; leave `response_format` out",
            "response_format",
        )
    return await _enforced(served, lambda: wanted, "response_format")


async def _enforced(served: Served, make: Callable[[], Json], param: str) -> Json:
    """The schema that `make` gives, where every answer can be held to it. Raises Fault."""
    try:
        # On a thread: a large schema takes a while, in which others are answered.
        return await asyncio.to_thread(_checked, served, make)
    except (TaskError, EngineError, RecursionError) as error:
        raise bad(str(error) or "the schema is nested too deeply", param) from None


def _checked(served: Served, make: Callable[[], Json]) -> Json:
    """The schema, compiled. Raises TaskError or EngineError for one that answers can't be held to."""
    schema = make()
    require_small(schema)
    schema = check_sense(schema, "the schema")
    (require_schema if served.host is None else served.host.calls.closings.least_tokens)(schema)
    return schema


def _form(served: Served) -> str:
    """What a System's answers are held to, in words."""
    if served.spec.schema_ is not None:
        return "under its own JSON Schema"
    if served.spec.answer.form == "calls":
        return "with calls of the functions that a request offers"
    if served.spec.kind == "label":
        return "with one of its labels"
    return "with a number" if served.spec.engine == "head" else "in several calls"


def _of_objects(schema: Json) -> bool:
    """Whether what a schema admits is JSON objects, as far as its types tell."""
    root = pointing(schema)
    if not isinstance(root, dict):
        return False
    types: list[Json] = []
    for part in holding(root, root):
        kind = part.get("type", "object" if "properties" in part else [])
        types += kind if isinstance(kind, list) else [kind]
    return bool(types) and all(kind == "object" for kind in types)


def _same(one: Json, other: Json) -> bool:
    """Whether two schemas admit the same, as far as words about them are all that differs."""
    return _bare_schema(pointing(one)) == _bare_schema(pointing(other))


def _bare_schema(part: Json) -> Json:
    if isinstance(part, list):
        return [_bare_schema(item) for item in part]
    if not isinstance(part, dict):
        return part
    words = ("title", "description", "$schema", "$id", "examples", "default")
    return {
        key: {name: _bare_schema(rule) for name, rule in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else _bare_schema(value)
        for key, value in part.items()
        if key not in words
    }


def _choices(body: Sampling, wish: Wish) -> list[Wish]:
    """One wish for each of `n` answers, which are drawn with seeds of their own."""
    return [replace(wish, seed=wish.seed + place) for place in range(body.n or 1)]


def _alike(served: Served, pairs: Sequence[tuple[Asked, Wish]]) -> list[list[int]]:
    """The places of the pairs, those together that get one answer: greedy ones of a text, and its labels."""
    places: dict[Hashable, list[int]] = {}
    for place, (question, wish) in enumerate(pairs):
        drawn = wish.temperature and not served.labelled and served.spec.engine != "head"
        key = (question.prompt, question.example.input, wish.seed if drawn else 0)
        places.setdefault(key, []).append(place)
    return [*places.values()]


async def _all(gateway: Gateway, served: Served, pairs: Sequence[tuple[Asked, Wish]]) -> list[Reply]:
    """One reply for each question and wish; those that are alike are asked for once."""
    alike, parts = _alike(served, pairs), gateway.parts()

    async def one(turn: int, place: int) -> Reply:
        async with parts.turn(turn):
            return await _counted(gateway, served, *pairs[place])

    tasks = [asyncio.ensure_future(one(turn, places[0])) for turn, places in enumerate(alike)]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        await ended(tasks)
    replies = {place: reply for places, reply in zip(alike, found, strict=True) for place in places}
    return [replies[place] for place in range(len(pairs))]


async def _each(
    gateway: Gateway, served: Served, pairs: Sequence[tuple[Asked, Wish]]
) -> AsyncGenerator[tuple[int, Piece | Reply]]:
    """The same as it comes, in pieces and at last whole, each with the place of its pair."""
    alike = _alike(served, pairs)
    streams = [stream(gateway.systems, served, *pairs[places[0]]) for places in alike]
    async with aclosing(merged(streams, gateway.parts())) as pieces:
        async for turn, piece in pieces:
            if isinstance(piece, Reply):
                gateway.metrics.tokens(served.name, piece.prompt_tokens, piece.completion_tokens)
            for place in alike[turn]:
                yield place, piece


async def _counted(gateway: Gateway, served: Served, question: Asked, wish: Wish) -> Reply:
    found = await reply(gateway.systems, served, question, wish)
    gateway.metrics.tokens(served.name, found.prompt_tokens, found.completion_tokens)
    return found


def _chat_choice(place: int, served: Served, found: Reply, body: ChatRequest) -> dict[str, Any]:
    content, calls, finish = _read(served, found, body)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {
        "index": place,
        "message": message,
        "logprobs": chat_logprobs(found.chances) if body.logprobs else None,
        "finish_reason": finish,
    }


def _of_calls(served: Served, body: ChatRequest) -> bool:
    """Whether an answer is read as calls, or as none at all: that is how Systems of calls say nothing."""
    return bool(body.may_call) or served.spec.kind == "tool_call"


def _read(served: Served, found: Reply, body: ChatRequest) -> tuple[str | None, list[dict[str, Any]], str]:
    """(words, calls, finish reason) of an answer; only calls of functions that the request offers are any."""
    if not _of_calls(served, body) or not found.may_hold_calls:
        return found.text, [], found.finish
    content, calls = read_calls(found.text, found.own_characters)
    names = {tool.function.name for tool in body.may_call}
    if not all(call["function"]["name"] in names for call in calls):
        return found.text, [], found.finish
    # An answer that was cut might have called more.
    return content, calls, "tool_calls" if calls and found.finish == "stop" else found.finish


async def _chat_chunks(gateway: Gateway, served: Served, body: ChatRequest) -> AsyncGenerator[object]:
    pairs = await _chat_pairs(gateway, served, body)
    start = {**head(served, "chat.completion.chunk", new_id("chatcmpl")), **_no_usage(body)}
    replies: list[Reply] = []
    begun: set[int] = set()
    of_calls = _of_calls(served, body)
    async with aclosing(_each(gateway, served, pairs)) as pieces:
        async for place, piece in pieces:
            role = {} if place in begun else {"role": "assistant"}
            begun.add(place)
            if isinstance(piece, Piece):
                # Calls are told apart from words when the answer is whole.
                if of_calls:
                    continue
                delta = {**role, "content": piece.text}
                logprobs = chat_logprobs(piece.chances) if body.logprobs else None
                yield {**start, "choices": [_delta(place, delta, None, logprobs)]}
                continue
            replies.append(piece)
            last: dict[str, Any] = dict(role)
            content, calls, finish = _read(served, piece, body)
            logprobs = chat_logprobs(piece.chances) if body.logprobs and of_calls else None
            if of_calls:
                last["role"] = "assistant"
                if calls:
                    last["tool_calls"] = [{"index": at, **call} for at, call in enumerate(calls)]
                else:
                    last["content"] = content
            cites = sources(served, pairs[place][0], piece)
            yield {**start, "choices": [{**_delta(place, last, finish, logprobs), **cites}]}
    if _no_usage(body):
        yield {**start, "choices": [], "usage": usage(replies, len(replies))}


def _no_usage(body: Sampling) -> dict[str, Any]:
    """What every chunk says of the usage where the last one is to tell it."""
    wanted = body.stream_options is not None and body.stream_options.include_usage
    return {"usage": None} if wanted else {}


def _delta(place: int, delta: dict[str, Any], finish: str | None, logprobs: Any) -> dict[str, Any]:
    return {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


async def _text_chunks(
    gateway: Gateway, served: Served, body: CompletionRequest, wishes: Sequence[Wish]
) -> AsyncGenerator[object]:
    pairs = await _text_pairs(gateway, served, body, wishes)
    start = {**head(served, "text_completion", new_id("cmpl")), **_no_usage(body)}
    replies: dict[int, Reply] = {}
    sent = [0] * len(pairs)
    async with aclosing(_each(gateway, served, pairs)) as pieces:
        async for place, piece in pieces:
            choice: dict[str, Any] = {"index": place, "text": "", "finish_reason": None, "logprobs": None}
            if isinstance(piece, Piece):
                choice["text"] = piece.text
                if body.logprobs is not None:
                    choice["logprobs"] = text_logprobs(piece.chances, sent[place])
                    sent[place] += sum(len(chance.text) for chance in piece.chances)
            else:
                replies[place] = piece
                choice |= {"finish_reason": piece.finish, **sources(served, pairs[place][0], piece)}
            yield {**start, "choices": [choice]}
    if _no_usage(body):
        ordered = [replies[place] for place in sorted(replies)]
        yield {**start, "choices": [], "usage": usage(ordered, len(wishes))}
