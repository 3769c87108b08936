"""The instructions that the prompt rungs choose from, and the Specs made of them."""

import json

from rung.records import Json
from rung.rungs.base import Context
from rung.system import AnswerSpec, Spec, label_text

LONGEST_LIST = 100
"""Labels that an instruction lists; with more, the trie alone holds the model to them."""


def instructions(context: Context) -> dict[str, str]:
    """Named instructions for the task, the plainest first."""
    about = context.task.about.strip() if context.task.about else ""
    listed = _what_to_answer(context)
    plain = " ".join(part for part in (about or _default_about(context), listed) if part)
    strict = f"{plain} Reply with the answer alone, without any explanation."
    return {"plain": plain, "strict": strict}


def short_instruction(context: Context) -> str:
    """For prompts with worked examples, which show the form of the answer better than words do."""
    about = context.task.about.strip() if context.task.about else ""
    return about or _default_about(context)


def answer_spec(context: Context, *, constrained: bool) -> AnswerSpec:
    """How an untrained model answers: within the trie or the schema, or freely with room to spare."""
    longest = longest_answer(context)
    if context.kind == "label" and constrained:
        return AnswerSpec(form="words")
    if context.kind == "json" and constrained:
        return AnswerSpec(form="schema", max_tokens=longest)
    return AnswerSpec(form="free", max_tokens=longest)


def longest_answer(context: Context) -> int:
    """A token limit with room: 1.5 times the longest training answer, at least 8 tokens more."""
    chat = context.pool.chat(context.model)
    sample = context.train[:2000]
    longest = max(len(chat.answer_ids(context.target(e))) for e in sample)
    return min(1024, max(longest + 8, int(1.5 * longest)))


def spec_for(context: Context, rung: str, *, instruction: str | None, answer: AnswerSpec) -> Spec:
    """A Spec on the climb's base model without examples; the engine is settled by a probe later."""
    return Spec(
        rung=rung,
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=context.task.output.json_schema,
        engine="llama",
        model=context.ref,
        instruction=instruction,
        answer=answer,
    )


def _default_about(context: Context) -> str:
    return {
        "label": "Classify the text.",
        "json": "Extract the requested fields from the text.",
        "number": "Answer with a number.",
        "text": "Answer in the way of the examples.",
    }[context.kind]


def _what_to_answer(context: Context) -> str:
    if context.kind == "label":
        if len(context.labels) > LONGEST_LIST:
            return ""
        names = ", ".join(label_text(label) for label in context.labels)
        return f"Answer with exactly one of these labels: {names}."
    if context.kind == "json":
        return (
            f"Answer with one JSON object under this JSON Schema: {_compact(context.task.output.json_schema)}"
        )
    if context.kind == "number":
        return "Answer with one number."
    return ""


def _compact(schema: Json) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
