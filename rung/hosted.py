"""Asking a hosted model as a System's Spec says: conversations out, completions in.

Its weights have no digest: what stands in its place is the host with the model's name as the server
reports it. An answer of another one isn't the System's, and counts as a broken call.
"""

from collections.abc import Sequence
from dataclasses import replace

from rung.engines.base import Completion, Engine, EngineSpec, Progress, no_progress
from rung.engines.endpoint import GREEDY, Draw, EndpointEngine
from rung.errors import SystemFolderError
from rung.models.hosted import Hosted, hosted
from rung.records import Example
from rung.spec import ModelRef, Spec
from rung.wording import Shot, label_texts, messages

UNKNOWN_LICENCE = "the provider's terms"
HOSTED_PARALLEL = 8
"""Calls in flight."""


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
    asked = [messages(spec.instruction, e, some) for e, some in zip(examples, shots, strict=True)]
    turns = [[(turn.role, turn.content) for turn in one] for one in asked]
    most = spec.answer.max_tokens
    if spec.kind == "label" and spec.answer.form == "schema":
        labels = label_texts(spec.labels)
        found = engine.label_many(turns, labels, max_tokens=most, draw=draw, progress=progress)
    else:
        schema = spec.schema_ if spec.answer.form == "schema" else None
        found = engine.chat_many(turns, max_tokens=most, schema=schema, draw=draw, progress=progress)
    return [_of_the_same(spec, one) for one in found]


def _of_the_same(spec: Spec, found: Completion) -> Completion:
    """The completion; a failure where another model answered than the one that the System was made with."""
    ref = spec.model
    if ref is None or found.failure or not found.reported or ref.digest.endswith(f":{found.reported}"):
        return found
    made_with = ref.digest.removeprefix(f"endpoint:{hosted_of(ref).host}:")
    return replace(
        found,
        failure=f"{ref.name!r} is answered by {found.reported!r} now and the System was made with "
        f"{made_with!r}; climb again, or name a dated model",
        final=True,
    )
