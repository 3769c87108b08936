"""From a request's question to a System's answer, whole or piece by piece.

What is asked of an engine, and how its answer is read, is `rung.system`'s business: here is who waits for it.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from rung.asking import answer_of_choice, answer_of_completion, context_of, request_for
from rung.engines.base import Completion, Request
from rung.engines.llama_stream import Reading
from rung.engines.work import Refused
from rung.errors import RungError
from rung.models.chat import Message
from rung.models.tokens import LONG_TEXT
from rung.records import Answer, Example, Json
from rung.search import Passages
from rung.serve.faults import bad, broken, final, overloaded
from rung.serve.host import Broken
from rung.serve.lanes import Full
from rung.serve.systems import Served, Systems
from rung.serve.wish import Wish, as_scored
from rung.spec import Spec
from rung.wording import answer_text

R = TypeVar("R")
Tokens = tuple[int, ...]

TURN = 64
"""As many characters of a prompt take about as long as a turn's own words in a template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance:
    """A token, or a label, of an answer: its log-probability and those of others in its place."""

    text: str
    logprob: float
    spelled: tuple[int, ...]
    top: tuple[tuple[str, float, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of an answer as it comes."""

    text: str
    chances: tuple[Chance, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole answer, and the value that was read in it.

    `own_characters`: so many at its beginning are the model's, and what follows closes an answer that was
    cut; all are where it's None. `may_hold_calls`: what reads as calls in it is calls.
    """

    text: str
    value: Json
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    chances: tuple[Chance, ...] = ()
    own_characters: int | None = None
    may_hold_calls: bool = True


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with the prompt that it makes, which heads have none of, and the passages that it holds.

    `continued`: the prompt is a text to go on with, and no question in a template.
    """

    example: Example
    prompt: Tokens = ()
    passages: Passages = ()
    continued: bool = False


@contextmanager
def engine_faults() -> Iterator[None]:
    """What engines raise, as Faults that tell the client."""
    try:
        yield
    except Full as full:
        raise overloaded(full.retry_after_s, full.waiting) from None
    except Refused as refusal:
        # What the engine doesn't take is the client's to mend where it says so, else the server's.
        raise (bad if refusal.status in (None, 400) else broken)(str(refusal)) from None
    except (Broken, RungError) as error:
        raise broken(str(error)) from None


async def asked(systems: Systems, served: Served, example: Example) -> Asked:
    """The prompt of a task's System for an input. Raises Fault where it's longer than the model holds."""
    if served.chat is None:
        if served.spec.retrieval is None:
            return Asked(example=example)
        with engine_faults():
            (found,) = await systems.bench.run(lambda: served.system.find([example], systems.pool))
        return Asked(example=example, passages=found)

    def make() -> list[tuple[Tokens, Passages]]:
        return served.system.prompted([example], systems.pool)

    with engine_faults():
        if served.spec.looks_up:
            (made,) = await systems.bench.run(make)
        else:
            (made,) = await _unheld(len(example.input) + len(example.context or ""), make)
    prompt, passages = made
    return fitting(served, Asked(example=example, prompt=prompt, passages=passages))


async def turns_asked(served: Served, turns: Sequence[Message]) -> Asked:
    """The prompt that a base model's template makes of a chat."""
    chat = served.chat
    assert chat is not None, "a base model has a chat"
    prompt = await _unheld(sum(len(turn.content) + TURN for turn in turns), lambda: chat.render(turns))
    return fitting(served, Asked(example=_nothing(), prompt=prompt))


async def text_asked(served: Served, text: str) -> Asked:
    """A text that a base model continues as it stands; nothing in it becomes a control token."""
    chat = served.chat
    assert chat is not None, "a base model has a chat"
    prompt = await _unheld(len(text), lambda: chat.continued(text))
    return fitting(served, Asked(example=_nothing(), prompt=prompt, continued=True))


async def _unheld(characters: int, make: Callable[[], R]) -> R:
    """The prompt that `make` gives of so many characters; of many on a thread, where others don't wait."""
    return await asyncio.to_thread(make) if characters > LONG_TEXT else make()


def fitting(served: Served, asked: Asked) -> Asked:
    """The same, where the prompt leaves room for an answer. Raises Fault, a 400, where it doesn't."""
    assert served.model is not None, "whatever has prompts has a model"
    holds = served.host.spec.context if served.host is not None else context_of(served.model)
    if not asked.prompt:
        raise bad("the prompt is empty: there is nothing to continue", "prompt")
    if len(asked.prompt) + _read_after(served) >= holds:
        raise bad(
            f"the prompt has {len(asked.prompt):,} tokens and the context holds {holds:,}, the answer "
            "included; shorten it",
            code="context_length_exceeded",
        )
    return asked


def _read_after(served: Served) -> int:
    """How many tokens of a label an engine reads after the prompt, at most; the last one is never read."""
    if served.options is None:
        return 0
    return max(served.options.lengths) - 1 if served.spec.engine == "torch" else served.options.deepest


async def reply(systems: Systems, served: Served, question: Asked, wish: Wish) -> Reply:
    """One whole answer. Raises Fault.

    What is written is read from the engine as a stream here too: llama.cpp sees that nobody waits any more
    when it next sends something, but may not before the end of an answer that it sends as a whole.
    """
    with engine_faults():
        async with systems.using(served):
            if served.labelled:
                found = await _label(systems, served, question, every=bool(wish.top))
                return _of_answer(found, served.spec, wish)
            if served.system.is_hosted:
                return await _forwarded(systems, served, question, wish)
            if served.spec.steps is not None:
                return await _in_steps(systems, served, question, wish)
            if served.spec.engine == "head":
                return await _number(systems, served, question, wish)
            if served.host is None:
                return await _from_bench(systems, served, question, wish)
            try:
                return await _whole(served, question, wish)
            except Broken as off:
                await served.host.renew(off.running)
            return await _whole(served, question, wish)


async def _whole(served: Served, question: Asked, wish: Wish) -> Reply:
    async with aclosing(_pieces(served, question, wish)) as pieces:
        found = [piece async for piece in pieces]
    (*_, whole) = found
    assert isinstance(whole, Reply), "pieces end with the whole"
    return whole


async def stream(
    systems: Systems, served: Served, question: Asked, wish: Wish
) -> AsyncGenerator[Piece | Reply]:
    """An answer piece by piece, and at last the whole. Raises Fault; close it (`aclosing`) to break off.

    A stream that breaks in the engine is made again from the start, and goes on where it was.
    """
    if served.host is None or served.labelled:
        whole = await reply(systems, served, question, wish)
        yield Piece(text=whole.text, chances=whole.chances)
        yield whole
        return
    sent, told = "", 0
    with engine_faults():
        try:
            async with systems.using(served), aclosing(_pieces(served, question, wish)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Piece):
                        sent, told = sent + piece.text, told + len(piece.chances)
                    yield piece
            return
        except Broken as off:
            await served.host.renew(off.running)
    again = await reply(systems, served, question, wish)
    if not again.text.startswith(sent):
        raise broken("the engine broke, and the answer that it gave then doesn't begin like what was sent")
    if len(again.text) > len(sent) or len(again.chances) > told:
        yield Piece(text=again.text[len(sent) :], chances=again.chances[told:])
    yield again


async def _pieces(served: Served, question: Asked, wish: Wish) -> AsyncGenerator[Piece | Reply]:
    """The pieces of a streamed answer and the whole; ends at a stop token that the model goes on after."""
    host = served.host
    assert host is not None, "streams come from llama.cpp"
    reading = await _aside(
        served, wish, lambda: Reading(calls=host.calls, request=_request(served, question, wish))
    )
    made = host.stream(question.prompt, served.adapter, lambda slot: reading.call(slot, _beside(wish.top)))
    apart, sent, told = _read_apart(served.spec, wish), 0, 0
    async with aclosing(made) as events:
        async for event in events:
            if (shown := reading.take(event)) and not apart:
                sent += len(shown.text)
                told += len(shown.probabilities)
                yield Piece(text=shown.text, chances=_chances(shown.probabilities, wish.top))
            if reading.over:
                break
    # The vocabulary takes a while to read, in which others are answered.
    unread = reading.is_cut and not host.calls.closings.knows_words
    found = await asyncio.to_thread(reading.whole) if unread else reading.whole()
    # Of an answer that was closed, those beside the tokens that stayed: what is put there has none.
    counted = len(found.tokens) if found.own_characters is None else told
    chances = _chances(reading.probabilities[:counted], wish.top)
    whole = await _aside(served, wish, lambda: _reply(served, question, wish, found, chances))
    # What the schema made uncertain, or is read from the whole, was held back, and a cut answer is closed.
    rest, untold = whole.text[sent:], chances[told:]
    if rest or untold:
        yield Piece(text=rest, chances=untold)
    yield whole


async def label(systems: Systems, served: Served, question: Asked, *, every: bool = False) -> Answer:
    """A label System's answer, with calibrated probabilities; of every label where that's asked for.

    Raises Fault.
    """
    with engine_faults():
        async with systems.using(served):
            return await _label(systems, served, question, every)


async def _label(systems: Systems, served: Served, question: Asked, every: bool = False) -> Answer:
    system, host, trie, pool = served.system, served.host, served.options, systems.pool
    if host is not None and trie is not None:
        choice = await host.ask(
            question.prompt,
            served.adapter,
            lambda slot: host.calls.choose(question.prompt, trie, slot, every),
        )
        made = answer_of_choice(served.spec, choice, trie, every)
        (answer,) = system.calibrated([made])
    else:
        answer = await systems.bench.ask(
            (served.name, system.digest, every),
            question.example,
            lambda rows: system.calibrated(system.answer(rows, pool, every_label=every)),
        )
    if answer.failure is not None:
        raise broken(answer.failure)
    return answer


async def _forwarded(systems: Systems, served: Served, question: Asked, wish: Wish) -> Reply:
    """What a hosted model answers to the System's prompt; a request can't change how it is asked."""
    if wish.schema is not None:
        raise bad("this System forwards to a hosted model: schemas aren't passed on", "response_format")
    as_scored(wish, "this System forwards to a hosted model")
    system, pool = served.system, systems.pool
    completion = await systems.bench.ask(
        (served.name, system.digest),
        question,
        lambda some: system.hosted_completions([o.example for o in some], [o.passages for o in some], pool),
    )
    _require(completion)
    return await _aside(served, wish, lambda: _reply(served, question, wish, completion))


async def _from_bench(systems: Systems, served: Served, question: Asked, wish: Wish) -> Reply:
    """What a torch engine writes."""
    if wish.top is not None:
        engine = served.spec.engine
        raise bad(f"this System runs under {engine}, which tells no log-probabilities here", "logprobs")
    request = await _aside(served, wish, lambda: _request(served, question, wish))
    completion = await systems.bench.ask(
        # Of one schema: an engine refuses requests together where it can't hold one of them to its own.
        (served.name, served.system.digest, json.dumps(request.schema)),
        request,
        lambda requests: served.system.open(systems.pool).generate(requests),
    )
    _require(completion)
    return await _aside(served, wish, lambda: _reply(served, question, wish, completion))


def _require(completion: Completion) -> None:
    """Raise Fault for one that failed."""
    if completion.failure is not None:
        raise (final if completion.final else broken)(completion.failure)


async def _in_steps(systems: Systems, served: Served, question: Asked, wish: Wish) -> Reply:
    """What a System of several calls says, which a client can't change: it answers as it was scored."""
    as_scored(wish, "this System makes an answer of several calls")
    return _of_answer(await _answered(systems, served, question), served.spec, wish)


async def _number(systems: Systems, served: Served, question: Asked, wish: Wish) -> Reply:
    """What a head says that gives numbers: nothing is drawn or written, and there are no probabilities."""
    if wish.top is not None:
        raise bad("this System gives a number and no probabilities: leave `logprobs` out", "logprobs")
    return _of_answer(await _answered(systems, served, question), served.spec, wish)


async def _answered(systems: Systems, served: Served, question: Asked) -> Answer:
    """The answer by the very code that scored the System. Raises Fault where a call broke."""
    answer = await systems.bench.ask(
        (served.name, served.system.digest),
        question.example,
        lambda rows: served.system.answer(rows, systems.pool),
    )
    if answer.failure is not None:
        raise broken(answer.failure)
    return answer


def _request(served: Served, question: Asked, wish: Wish) -> Request:
    """What the engine is asked to write: as the System says, but for what the client wishes."""
    assert served.chat is not None, "whatever writes has a chat"
    made = request_for(served.spec, served.chat, question.prompt, question.example.context)
    schema = made.schema if made.schema is not None else wish.schema
    if schema is not None and wish.stop:
        raise bad("`stop` would cut JSON that has to be whole: leave it out", "stop")
    return replace(
        made,
        max_tokens=wish.max_tokens or made.max_tokens,
        # Where a template's answers end, a text that is gone on with may not.
        stop=wish.stop if question.continued else (*made.stop, *wish.stop),
        schema=schema,
        temperature=wish.temperature,
        top_p=wish.top_p,
        seed=wish.seed,
    )


async def _aside(served: Served, wish: Wish, make: Callable[[], R]) -> R:
    """What `make` gives; on a thread where it may meet a schema for the first time, which takes a while."""
    new = wish.schema is not None or served.spec.kind == "tool_call"
    return await asyncio.to_thread(make) if new else make()


def _reply(
    served: Served, question: Asked, wish: Wish, completion: Completion, chances: tuple[Chance, ...] = ()
) -> Reply:
    """What was written to a question, read as the System's own answer is."""
    answer = answer_of_completion(served.spec, completion, question.example.context)
    # A hosted model names its label in JSON.
    named = served.system.is_hosted and served.spec.labels and answer.value is not None
    text = str(answer.value) if named else _said(answer, served.spec, wish)
    return Reply(
        text=text,
        value=answer.value,
        finish="length" if completion.truncated else "stop",
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        chances=chances,
        own_characters=completion.own_characters,
        may_hold_calls=_may_hold_calls(served.spec, answer, text),
    )


def _read_apart(spec: Spec, wish: Wish) -> bool:
    """Whether a value is read from what the model writes in its own words, which then aren't the answer.

    Whatever form the Spec names, a draft is written so, and what a hosted model writes may be: its server can
    pass the form over.
    """
    if spec.answer.written == "tagged":
        return True
    freely = spec.answer.form == "free" or spec.engine == "endpoint" or spec.steps is not None
    return freely and spec.kind in ("json", "tool_call", "number") and wish.schema is None


def _said(answer: Answer, spec: Spec, wish: Wish) -> str:
    """The text of an answer, or the value that was read from it where the text is more than that."""
    if answer.value is None or not _read_apart(spec, wish) or _is_value(answer.text, spec, answer.value):
        return answer.text
    return answer_text(answer.value, spec.kind, schema=spec.schema_)


def _is_value(text: str, spec: Spec, value: Json) -> bool:
    """Whether a text is its value as it stands; JSON that is read as a whole is."""
    try:
        return float(text) == value if spec.kind == "number" else json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def _may_hold_calls(spec: Spec, answer: Answer, text: str) -> bool:
    """Whether calls are to be read in an answer: not where the System itself reads none."""
    return spec.kind != "tool_call" or bool(answer.value) or text == "[]"


def _of_answer(answer: Answer, spec: Spec, wish: Wish) -> Reply:
    """A whole answer as a reply: a label or another value alone, whatever it was found in.

    As far as log-probabilities go it is one token.
    """
    chances: tuple[Chance, ...] = ()
    labelled = spec.labels and answer.value is not None
    text = str(answer.value) if labelled else _said(answer, spec, wish)
    if wish.top is not None:
        options = answer.options
        if answer.distribution:
            options = sorted(
                zip(spec.labels, answer.distribution, strict=True), key=lambda option: -option[1]
            )
        ranked = tuple((name, math.log(max(p, 1e-300)), _bytes(name)) for name, p in options)
        chances = (
            Chance(
                text=text,
                logprob=math.log(max(answer.probability or 0.0, 1e-300)),
                spelled=_bytes(text),
                top=ranked[: wish.top],
            ),
        )
    return Reply(
        text=text,
        value=answer.value,
        finish="length" if answer.cut else "stop",
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        chances=chances,
        may_hold_calls=_may_hold_calls(spec, answer, text),
    )


def _chances(steps: Sequence[Mapping], top: int | None) -> tuple[Chance, ...]:
    """What llama.cpp says beside each token."""
    if top is None:
        return ()
    return tuple(
        Chance(
            text=step["token"],
            logprob=step["logprob"],
            spelled=tuple(step["bytes"]),
            top=tuple(
                (other["token"], other["logprob"], tuple(other["bytes"]))
                for other in step["top_logprobs"][:top]
            ),
        )
        for step in steps
    )


def _beside(top: int | None) -> int:
    """How many probabilities llama.cpp is asked for: even one costs a tenth of its speed, a sort of all."""
    return 0 if top is None else max(1, top)


def _bytes(text: str) -> tuple[int, ...]:
    return tuple(text.encode("utf-8", "replace"))


def _nothing() -> Example:
    return Example(id="asked", input="", output=None)
