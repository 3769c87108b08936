"""Rows as a tune sees them: prompt ids as they will be served, and the answer ids that are supervised."""

from collections.abc import Sequence

from rung.asking import candidates, prompts_for, room_for_answer
from rung.records import Example
from rung.rungs.base import Context
from rung.spec import Spec
from rung.training.batches import Row


def rendered(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row]:
    """One Row for each example, however long. Raises ModelError where the template doesn't take its turns."""
    chat = context.pool.chat(context.model)
    prompts = prompts_of(context, spec, examples)
    if spec.answer.form == "codes":
        by_label = dict(zip(spec.labels, candidates(spec, chat), strict=True))
        answers = [by_label[str(e.output)] for e in examples]
    else:
        answers = [chat.answer_ids(context.target(e), spec.style) for e in examples]
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
