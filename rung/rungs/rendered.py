"""Rows as a tune sees them: prompt ids as they will be served, and the answer ids that are supervised."""

from collections.abc import Sequence

from rung.records import Example
from rung.rungs.base import Context
from rung.spec import Spec
from rung.system import candidates, prompts_for
from rung.training.batches import Row


def rendered(context: Context, spec: Spec, examples: Sequence[Example]) -> list[Row]:
    """One Row for each example, however long. Raises ModelError where the template doesn't take its turns."""
    chat = context.pool.chat(context.model)
    prompts = prompts_for(spec, chat, examples, [[] for _ in examples])
    if spec.answer.form == "codes":
        by_label = dict(zip(spec.labels, candidates(spec, chat), strict=True))
        answers = [by_label[str(e.output)] for e in examples]
    else:
        answers = [chat.answer_ids(context.target(e), spec.style) for e in examples]
    return [Row(prompt=p, answer=a) for p, a in zip(prompts, answers, strict=True)]
