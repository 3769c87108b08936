"""Answers of several calls: a vote over samples, reasoning first, or a draft that is checked and repaired.

Scoring and serving both come here through `System.answer`. How a call reaches an engine is the System's.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from rung.calling import schema_of
from rung.engines.base import Progress, no_progress
from rung.errors import TaskError
from rung.models.chat import Message
from rung.records import Answer, Example, Json, Step
from rung.scoring.extract import read_answer
from rung.scoring.votes import vote
from rung.spec import AnswerSpec, Spec, StepsSpec
from rung.task.outputs import canonical, read_json, shown
from rung.task.validator import validator_of
from rung.wording import answer_text, label_texts, question

FAULT = "{fault}"
LISTED = 20
"""Labels that a fault lists; of more it says only that the draft is none of them."""
FAULT_CHARS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call for the example at place `row`: the turns since its question; a seed unless it's greedy."""

    row: int
    after: tuple[Message, ...] = ()
    seed: int | None = None


Put: TypeAlias = Callable[[Spec, Sequence[Call], Progress], list[Answer]]
"""Puts calls to the engine, which answers each in the way of the Spec that stands beside them."""


def answered(
    spec: Spec, examples: Sequence[Example], put: Put, progress: Progress = no_progress
) -> list[Answer]:
    """One answer per example, in order, from as many calls as the Spec's steps take.

    An answer of which any call broke is a broken one. Probabilities are those of a label after one line of
    reasoning; other steps have none.
    """
    steps = steps_of(spec)
    if steps.kind == "vote":
        drawn = put(spec, _draws(steps, examples), _part(progress, 0, 1, len(examples)))
        groups = _grouped(drawn, steps.samples)
        return [_elected(spec, group, _told("sample", group)) for group in groups]
    if steps.kind == "think":
        return _thought(spec, examples, put, progress)
    return _repaired(spec, examples, put, progress)


def steps_of(spec: Spec) -> StepsSpec:
    """The steps of a Spec that has some."""
    assert spec.steps is not None, "only Systems of several calls come here"
    return spec.steps


def seed_of(example: Example, sample: int) -> int:
    """The seed of a row's sample, of 31 bits: the same for the same question, wherever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{sample}\0{question(example)}".encode()).digest()[:4]) >> 1


def calls_of(answer: Answer) -> int:
    """How many calls an answer took."""
    return sum(step.what != "fault" for step in answer.steps) or 1


def fault_of(spec: Spec, draft: Answer, context: str | None = None) -> str | None:
    """What is wrong with a draft, said to the model that wrote it; None where it can be read.

    `context` is the question's, in which the functions stand that it may call. Text can't be checked so: its
    fault is always the empty one.
    """
    if spec.kind == "text":
        return ""
    if draft.value is not None:
        return None
    if spec.kind == "number":
        number = read_answer(draft.text, kind="number")
        return "it holds no number" if number is None else "it was cut off before it ended"
    if spec.kind == "label":
        labels = label_texts(spec.labels)
        among = f": {', '.join(labels)}" if len(labels) <= LISTED else ""
        return f"{shown(draft.text.strip())} names none of the labels{among}, or several"
    schema = schema_of(context, spec.answer.most_calls) if spec.kind == "tool_call" else spec.schema_
    return _json_fault(draft.text, schema, linear=spec.kind == "tool_call")[:FAULT_CHARS]


def _json_fault(text: str, schema: Json, *, linear: bool) -> str:
    try:
        value = read_json(text)
    except ValueError as error:
        return f"it isn't JSON: {error}"
    if isinstance(schema, dict):
        try:
            fault = next(iter(validator_of(schema, linear=linear).iter_errors(value)), None)
        except TaskError as error:
            return str(error)
        if fault is not None:
            place = "/".join(map(str, fault.absolute_path)) or "the top"
            return f"at {place}: {fault.message}"
    return "it isn't JSON that fits the JSON Schema"


def _thought(spec: Spec, examples: Sequence[Example], put: Put, progress: Progress) -> list[Answer]:
    """Free reasoning, then the answer in the conversation that holds it; a vote where there are samples."""
    steps = steps_of(spec)
    free = spec.model_copy(update={"kind": "text", "answer": _free(steps)})
    asked = _draws(steps, examples)
    thoughts = put(free, asked, _part(progress, 0, 2, len(examples)))
    close = Message(role="user", content=steps.close)
    told = [
        Call(row=call.row, after=(Message(role="assistant", content=thought.text), close))
        for call, thought in zip(asked, thoughts, strict=True)
    ]
    finals = put(spec, told, _part(progress, 1, 2, len(examples)))
    ended = [
        _ended(final, (thought, final), (_step("thought", thought), _step("answer", final)))
        for thought, final in zip(thoughts, finals, strict=True)
    ]
    if steps.samples == 1:
        return ended
    groups = _grouped(ended, steps.samples)
    return [_elected(spec, group, tuple(step for one in group for step in one.steps)) for group in groups]


def _repaired(spec: Spec, examples: Sequence[Example], put: Put, progress: Progress) -> list[Answer]:
    """A free draft, and where it has a fault, the answer once more as the Spec has it."""
    steps = steps_of(spec)
    free = spec.model_copy(update={"answer": _free(steps)})
    drafts = put(free, [Call(row=row) for row in range(len(examples))], _part(progress, 0, 2, len(examples)))
    faults = [
        None if draft.failure is not None else fault_of(spec, draft, example.context)
        for draft, example in zip(drafts, examples, strict=True)
    ]
    again = [
        Call(
            row=row,
            after=(
                Message(role="assistant", content=drafts[row].text),
                Message(role="user", content=steps.close.replace(FAULT, fault)),
            ),
        )
        for row, fault in enumerate(faults)
        if fault is not None
    ]
    finals = put(spec, again, _part(progress, 1, 2, len(examples))) if again else []
    by_row = {call.row: final for call, final in zip(again, finals, strict=True)}
    found = []
    for row, (draft, fault) in enumerate(zip(drafts, faults, strict=True)):
        final = by_row.get(row)
        if final is None:
            found.append(_bare(_ended(draft, (draft,), (_step("draft", draft),))))
            continue
        faults_told = (Step("fault", fault),) if fault else ()
        told = (_step("draft", draft), *faults_told, _step("answer", final))
        # A draft that was to be gone over, and came back as nothing, is still an answer.
        best = draft if final.value is None and draft.value is not None else final
        found.append(_bare(_ended(best, (draft, final), told)))
    return found


def _free(steps: StepsSpec) -> AnswerSpec:
    return AnswerSpec(form="free", max_tokens=steps.max_tokens)


def _draws(steps: StepsSpec, examples: Sequence[Example]) -> list[Call]:
    """A call for each sample of each example, those of one example in a row; one alone is greedy."""
    if steps.samples == 1:
        return [Call(row=row) for row in range(len(examples))]
    return [
        Call(row=row, seed=seed_of(example, sample))
        for row, example in enumerate(examples)
        for sample in range(steps.samples)
    ]


def _grouped(answers: Sequence[Answer], size: int) -> list[Sequence[Answer]]:
    return [answers[first : first + size] for first in range(0, len(answers), size)]


def _told(what: str, answers: Sequence[Answer]) -> tuple[Step, ...]:
    return tuple(_step(what, answer) for answer in answers)


def _step(what: str, call: Answer) -> Step:
    return Step(what, call.text, call.prompt_tokens, call.completion_tokens, call.latency_s)


def _elected(spec: Spec, samples: Sequence[Answer], told: tuple[Step, ...]) -> Answer:
    """What the samples of one example say together; its seconds are those of the slowest."""
    value = vote([answer.value for answer in samples], spec.kind, lambda whole: _fits(spec, whole))
    same = [a for a in samples if value is not None and a.value is not None and _equal(a.value, value)]
    text = same[0].text if same else samples[0].text
    if value is not None and not same:
        text = answer_text(value, spec.kind, schema=spec.schema_)
    cut = (same or samples)[0].cut
    made = _bare(_ended(replace(samples[0], text=text, value=value, cut=cut), samples, told))
    return replace(made, latency_s=max(answer.latency_s for answer in samples))


def _fits(spec: Spec, value: Json) -> bool:
    return read_answer(canonical(value), kind="json", schema=spec.schema_) is not None


def _equal(one: Json, other: Json) -> bool:
    return canonical(one) == canonical(other)


def _ended(final: Answer, calls: Sequence[Answer], told: tuple[Step, ...]) -> Answer:
    """The final answer with what all calls took; a broken one where any of them broke."""
    failure = next((call.failure for call in calls if call.failure is not None), None)
    whole = final if failure is None else Answer(text="", failure=failure)
    return replace(
        whole,
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        latency_s=math.fsum(call.latency_s for call in calls),
        steps=told,
    )


def _bare(answer: Answer) -> Answer:
    """The answer without the probabilities that one of its calls may have had."""
    return replace(answer, probability=None, options=(), distribution=())


def _part(progress: Progress, step: int, steps: int, total: int) -> Progress:
    """Progress of one step of several, as that of the whole."""
    return lambda done, of: progress(int((step + done / of) / steps * total), total)
