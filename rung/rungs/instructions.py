"""The instructions that the prompt rungs choose from, and the Specs made of them."""

import json
from collections.abc import Sequence

from rung.calling import AS_JSON, tagged_text
from rung.engines.schema import check_schema
from rung.records import Json, OutputKind
from rung.rungs.base import Context
from rung.spec import AnswerSpec, Spec, Written
from rung.task.validator import validator_of
from rung.wording import label_texts

LONGEST_ANSWER = 1024
"""Tokens, whatever the training rows hold."""
SAMPLE_ROWS = 2000
"""Training rows by which the length of an answer is judged."""
DIGITS_MORE = 2
"""Tokens of a number over those of the longest target."""
LONGEST_LIST = 100
"""Labels that an instruction lists; with more, the trie alone holds the model to them."""
JOBS: dict[OutputKind, str] = {
    "label": "Classify the text.",
    "json": "Extract the requested fields from the text.",
    "number": "Read the text and work out the number that it asks for.",
    "text": "Write the reply to the text.",
    "tool_call": "Call the functions that the request needs.",
}
"""For a task that says nothing about the job."""
CALLS_ALLOWED = 4
"""In one answer, where no training row has as many."""
EXAMPLES_SHOW_IT = "Answer in the way of the examples."


def instructions(context: Context) -> dict[str, str]:
    """Named instructions for the task, the plainest first."""
    plain = plain_instruction(
        context.task.about, context.kind, context.labels, context.task.output.json_schema
    )
    strict = f"{plain} Reply with the answer alone, without any explanation."
    return {"plain": plain, "strict": strict}


def wordings(context: Context) -> dict[str, str]:
    """Named ways of giving the same instruction above worked examples, the barest first."""
    plain, strict = instructions(context).values()
    found = {
        "bare": few_shot_instruction(context),
        "plain": plain,
        "strict": strict,
        "by the examples": f"{plain} {EXAMPLES_SHOW_IT} Take their wording and their form over exactly.",
        "expert": f"You do this job every day and make no mistakes. {plain}",
        "careful": f"{plain} Read all of the text first, and look for what decides the answer.",
    }
    by_text: dict[str, str] = {}
    for name, text in found.items():
        by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items()}


def plain_instruction(about: str, kind: OutputKind, labels: Sequence[str], schema: Json) -> str:
    """The job as the task tells it, else in general words, and what an answer is."""
    listed = _what_to_answer(kind, labels, schema)
    return " ".join(part for part in (about.strip() or JOBS[kind], listed) if part)


def few_shot_instruction(context: Context) -> str:
    """For prompts with worked examples, which show the form of the answer better than words do."""
    return context.task.about.strip() or EXAMPLES_SHOW_IT


def answer_spec(context: Context, *, constrained: bool) -> AnswerSpec:
    """How an untrained model answers: within the trie or the schema, or freely with room to spare.

    Freely, too, where the schema is more than an engine can hold an answer to. Free calls come in the form
    that the model was taught, to which no engine can hold them. Labels and numbers, which could go on, end as
    the examples of a model without a chat template do.
    """
    plain = context.kind in ("label", "number") and context.pool.chat(context.model).plain
    ends = "blank_line" if plain and constrained else "token"
    if context.kind == "label" and constrained:
        return AnswerSpec(form="words", ends=ends)
    if context.kind == "tool_call":
        taught = context.pool.chat(context.model).tagged_calls and not constrained
        written = "tagged" if taught else "json"
        room = longest_answer(context, written)
        if not constrained:
            return AnswerSpec(form="free", max_tokens=room, written=written)
        return AnswerSpec(form="calls", max_tokens=room, most_calls=most_calls(context))
    schema = answer_schema(context)
    form = "schema" if constrained and schema is not None and not check_schema(schema) else "free"
    room = longest_answer(context)
    if form == "schema" and context.kind == "number":
        room = min(room, longest_target(context) + DIGITS_MORE)
    return AnswerSpec(form=form, max_tokens=room, ends=ends)


def answer_schema(context: Context) -> Json:
    """The JSON Schema of an answer: the task's own, or a plain number's; None for labels and text."""
    if context.kind == "number":
        return number_schema([float(e.output) for e in context.train if isinstance(e.output, (int, float))])
    return context.task.output.json_schema if context.kind == "json" else None


def number_schema(targets: Sequence[float]) -> Json:
    """Numbers like the training targets: whole if all are, negative if any is, one digit longer at most.

    Without the bounds a small model writes digits until it is stopped.
    """
    whole = all(target.is_integer() for target in targets)
    most = 10 ** (1 + len(str(int(max(map(abs, targets)))))) - 1
    return {
        "type": "integer" if whole else "number",
        "minimum": -most if min(targets) < 0 else 0,
        "maximum": most,
    }


def answer_notes(context: Context) -> tuple[str, ...]:
    """What of the schema no engine can enforce, so that answers are decoded freely, and answers too long."""
    notes = []
    if faults := check_schema(answer_schema(context) or {}):
        reasons = "; ".join(faults)[:300]
        notes.append(f"answers are decoded freely, since the schema can't be enforced: {reasons}")
    if context.kind != "label" and (longest := longest_target(context)) > (most := longest_answer(context)):
        notes.append(
            f"the longest training answer has {longest:,} tokens and an answer ends after {most:,}: rows "
            "with longer ones can't be answered right; shorten them or split the task"
        )
    if context.kind == "number" and (bounds := _beyond(context)) is not None:
        notes.append(bounds)
    return tuple(notes)


def _beyond(context: Context) -> str | None:
    """A sentence on the dev rows whose numbers no answer can be that is held to `number_schema`."""
    schema = answer_schema(context)
    assert isinstance(schema, dict), "numbers have one"
    held = validator_of(schema)
    beyond = [example for example in context.dev if not held.is_valid(example.output)]
    if not beyond:
        return None
    whole = "whole numbers" if schema["type"] == "integer" else "numbers"
    return (
        f"{len(beyond):,} of {len(context.dev):,} dev rows have other numbers than answers are held to, "
        f"which are {whole} from {schema['minimum']} to {schema['maximum']}, by the training rows: give rows "
        "with such numbers to learn from"
    )


def longest_answer(context: Context, written: Written = "json") -> int:
    """A token limit with room: 1.5 times the longest training answer, at least 8 tokens more."""
    longest = longest_target(context, written)
    return min(LONGEST_ANSWER, context.limit // 2, max(longest + 8, int(1.5 * longest)))


def most_calls(context: Context) -> int:
    """How many calls one answer may hold: as many as a training answer has, and CALLS_ALLOWED at least.

    Without an end to the list a small model repeats a call until it is stopped, in the middle of one.
    """
    seen = [len(e.output) for e in context.train if isinstance(e.output, list)]
    return max([CALLS_ALLOWED, *seen])


def longest_target(context: Context, written: Written = "json") -> int:
    """Tokens of the longest training answer as it is written, the token that ends it included."""
    chat, rows = context.pool.chat(context.model), context.train[:SAMPLE_ROWS]
    if written == "tagged":
        texts = [text for e in rows if (text := tagged_text(e.output)) is not None]
        return max((len(chat.call_ids(text)) for text in texts), default=1)
    return max(len(chat.answer_ids(context.target(e))) for e in rows)


def spec_for(context: Context, rung: str, *, instruction: str | None, answer: AnswerSpec) -> Spec:
    """A Spec on the climb's base model without examples; the engine is settled by a probe later."""
    return Spec(
        rung=rung,
        task=context.task.name,
        kind=context.kind,
        labels=context.labels,
        schema_=answer_schema(context),
        engine="llama",
        model=context.ref,
        instruction=instruction,
        answer=answer,
        context_tokens=context.task.context_tokens,
    )


def what_to_answer(context: Context) -> str:
    """What an answer may be, in words; nothing for text, and for labels that are too many to list."""
    return _what_to_answer(context.kind, context.labels, context.task.output.json_schema)


def _what_to_answer(kind: OutputKind, labels: Sequence[str], schema: Json) -> str:
    if kind == "label":
        if len(labels) > LONGEST_LIST:
            return ""
        names = ", ".join(label_texts(labels))
        return f"Answer with exactly one of these labels: {names}."
    if kind == "json":
        return f"Answer with one JSON object under this JSON Schema: {_compact(schema)}"
    if kind == "tool_call":
        return AS_JSON
    return "Answer with one number." if kind == "number" else ""


def _compact(schema: Json) -> str:
    """The schema as JSON, without what tells a model nothing."""
    if isinstance(schema, dict):
        schema = {key: part for key, part in schema.items() if key not in ("$comment", "$schema", "$id")}
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
