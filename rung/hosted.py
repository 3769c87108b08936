"""Asking a hosted model as a System's Spec says: conversations out, completions in.

Its weights have no digest: what stands in its place is the host with the model's name as the server
reports it. An answer of another one isn't the System's, and counts as a broken call.
"""

from collections.abc import Sequence
from dataclasses import replace

from rung.calling import in_tools
from rung.engines.base import Completion, Engine, EngineSpec, Progress, no_progress
from rung.engines.endpoint import GREEDY, Draw, EndpointEngine
from rung.engines.endpoint_calls import offer
from rung.engines.endpoint_wire import without_thoughts
from rung.errors import EngineError, SystemFolderError
from rung.models.hosted import Hosted, hosted
from rung.records import Answer, Example
from rung.spec import ModelRef, Spec
from rung.task.calls import functions_in
from rung.wording import Shot, label_texts, messages

UNKNOWN_LICENCE = "the provider's terms"
HOSTED_PARALLEL = 8
"""Calls in flight."""
ANOTHER = "and the System was made with"
"""In the failure of a call that another model answered."""
FEWEST_TOLD = 4
"""Answers that say which model there is now: a remainder of fewer may be of one that answers now and then."""


def hosted_ref(model: Hosted, reported: str) -> ModelRef:
    """How a System names a hosted model; `reported` is its name by the server's own answer."""
    return ModelRef(
        name=model.model,
        source=model.given,
        digest=f"endpoint:{model.host}:{reported or model.model}",
        licence=UNKNOWN_LICENCE,
    )


def hosted_of(ref: ModelRef) -> Hosted:
    """The hosted model that a System names. Raises SystemFolderError where that is none."""
    found = hosted(ref.source)
    if found is None:
        raise SystemFolderError(f"{ref.source!r} is no hosted model, but the System answers through one")
    return found


def hosted_engine_spec(model: Hosted) -> EngineSpec:
    """The engine that asks it."""
    return EngineSpec(
        engine="endpoint",
        url=model.url,
        model=model.model,
        key_variable=model.key_variable,
        parallel=HOSTED_PARALLEL,
    )


def complete(
    spec: Spec,
    engine: Engine,
    examples: Sequence[Example],
    shots: Sequence[Sequence[Shot]],
    *,
    draw: Draw = GREEDY,
    progress: Progress = no_progress,
) -> list[Completion]:
    """One completion per example, after its worked examples. Raises EngineError as the engine does."""
    assert isinstance(engine, EndpointEngine), "hosted models are asked through endpoints"
    most, of, pairs = spec.answer.max_tokens, _made_with(spec), [*zip(examples, shots, strict=True)]
    if spec.answer.written == "tools":
        offers = [offer(functions_in(e.context)) for e in examples]
        told = [in_tools(spec.instruction, e, some, o) for (e, some), o in zip(pairs, offers, strict=True)]
        found = engine.call_many(told, offers, max_tokens=most, draw=draw, progress=progress, of=of)
        return [_of_the_same(spec, one) for one in found]
    asked = [messages(spec.instruction, e, some) for e, some in pairs]
    turns = [[(turn.role, turn.content) for turn in one] for one in asked]
    if spec.kind == "label" and spec.answer.form == "schema":
        labels = label_texts(spec.labels)
        found = engine.label_many(turns, labels, max_tokens=most, draw=draw, progress=progress, of=of)
    else:
        schema = spec.schema_ if spec.answer.form == "schema" else None
        found = engine.chat_many(turns, max_tokens=most, schema=schema, draw=draw, progress=progress, of=of)
    if spec.kind != "text":
        # A text may be meant to hold thoughts; what is read in a form isn't.
        found = [replace(one, text=without_thoughts(one.text)) for one in found]
    return [_of_the_same(spec, one) for one in found]


def by_another(answers: Sequence[Answer]) -> list[str]:
    """The failures of those that another model gave than the System's."""
    return [why for one in answers if (why := one.failure) is not None and ANOTHER in why]


def need_same_model(answers: Sequence[Answer], share: float) -> None:
    """Raises EngineError where another model than the System's gave more than that share of its answers.

    Not for fewer than FEWEST_TOLD answers.
    """
    others = by_another(answers)
    if len(answers) >= FEWEST_TOLD and len(others) > share * len(answers):
        raise EngineError(others[-1])


def _made_with(spec: Spec) -> str:
    """What the model called itself that a System was made with; empty before any was asked."""
    ref = spec.model
    return "" if ref is None else ref.digest.removeprefix(f"endpoint:{hosted_of(ref).host}:")


def _of_the_same(spec: Spec, found: Completion) -> Completion:
    """The completion; a failure where another model answered than the one that the System was made with."""
    ref = spec.model
    if ref is None or found.failure or found.reported in ("", _made_with(spec)):
        return found
    # What a judge said by another name stays, and is no match for what it would say now.
    again = "begin another run with --out" if spec.rung == "judge" else "climb again"
    return replace(
        found,
        failure=f"{ref.name!r} at {hosted_of(ref).host} is answered by {found.reported!r} now {ANOTHER} "
        f"{_made_with(spec)!r}; {again}, or name a dated model",
        final=True,
    )
