"""Rows as a tune sees them: prompt ids as they will be served, and the answer ids that are supervised."""

from collections.abc import Sequence

from rung.asking import candidates, prompts_for, room_for_answer
from rung.calling import schema_of, tagged_text
from rung.models.chat import Chat
from rung.records import Example, Json
from rung.rungs.base import Context
from rung.scoring.extract import read_answer
from rung.spec import HELD, Spec
from rung.task.calls import rejected_calls
from rung.task.outputs import as_kind
from rung.training.batches import Row
from rung.wording import answer_text


def rendered(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row]:
    """One Row for each example, however long. Raises ModelError where the template doesn't take its turns."""
    chat = context.pool.chat(context.model)
    prompts = prompts_of(context, spec, examples)
    if spec.answer.form == "codes":
        by_label = dict(zip(spec.labels, candidates(spec, chat), strict=True))
        answers = [by_label[str(e.output)] for e in examples]
    else:
        answers = [target_ids(context, spec, e) for e in examples]
    return [Row(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]


def prompts_of(context: Context, spec: Spec, examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Prompt ids as the System to be made of the Spec will have them, with what it looks up, be it wrong."""
    chat, limit = context.pool.chat(context.model), context.limit
    found = None
    if spec.retrieval is not None:
        assert context.retrieval is not None, "the Spec has its search from there"
        found = context.retrieval.find(examples, context.pool)
        limit -= room_for_answer(spec, chat)
    return prompts_for(spec, chat, examples, [[] for _ in examples], limit, found)


def target_text(context: Context, spec: Spec, example: Example) -> str:
    """The row's output as the System to be made of the Spec should write it."""
    if spec.answer.written == "json":
        return context.target(example)
    text = tagged_text(example.output)
    assert text is not None, "calls that can't be spelled are learned as JSON alone"
    return text


def target_ids(context: Context, spec: Spec, example: Example) -> tuple[int, ...]:
    """The same in ids, the token that ends it included."""
    return _written_ids(context.pool.chat(context.model), spec, target_text(context, spec, example))


def _written_ids(chat: Chat, spec: Spec, text: str) -> tuple[int, ...]:
    if spec.answer.written == "tagged":
        return chat.call_ids(text)
    return chat.answer_ids(text, spec.style, held=spec.answer.form in HELD)


def rendered_rejected(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row | None]:
    """The examples with their rejected answers; None where the System could never give that answer.

    A label that is none of the task's is such a one, text where JSON is written, JSON that its schema doesn't
    let through, calls that the functions of the question don't take, and such as its form can't spell.
    """
    chat = context.pool.chat(context.model)
    prompts = prompts_of(context, spec, examples)
    texts = [None if e.rejected is None else _possible(spec, e.rejected, e.context) for e in examples]
    if spec.kind == "label":
        by_label = dict(zip(spec.labels, candidates(spec, chat), strict=True))
        answers = [None if text is None else by_label.get(text) for text in texts]
    else:
        answers = [None if text is None else _written_ids(chat, spec, text) for text in texts]
    return [None if a is None else Row(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]


def _possible(spec: Spec, rejected: str, context: str | None) -> str | None:
    """A rejected answer to a question with this context as the System would write it. None where it can't."""
    # Settled as the chosen one: what sets them apart has to be what is wrong with it, and not the spelling.
    calls: Json = rejected_calls(rejected, context) if spec.kind == "tool_call" else None
    value = as_kind(rejected, spec.kind) if calls is None else calls
    if spec.kind == "label":
        return None if value is None else str(value)
    if value is None:
        return rejected if spec.answer.form == "free" else None
    if spec.answer.written == "tagged":
        return tagged_text(value)
    text = answer_text(value, spec.kind, schema=spec.schema_)
    schema = spec.schema_ if spec.answer.form == "schema" else None
    if isinstance(calls, list) and spec.answer.form == "calls":
        schema = schema_of(context, spec.answer.most_calls)
    return None if schema is not None and read_answer(text, kind="json", schema=schema) is None else text
