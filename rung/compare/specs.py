"""What differs between two Specs, in a few words each."""

from collections.abc import Callable
from dataclasses import dataclass

from rung.rungs.learned_files import is_learned
from rung.spec import USUAL_TOKENS, ModelRef, Spec, StepsSpec
from rung.system import WEIGHTS_FOLDER

NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One part of the Specs that isn't the same: its name, and what it is on either side."""

    part: str
    first: str
    second: str


def differences(first: Spec, second: Spec) -> tuple[Difference, ...]:
    """The parts in which two Specs differ, the largest first."""
    found = [(part, read(first), read(second)) for part, read in PARTS]
    return tuple(Difference(part=part, first=a, second=b) for part, a, b in found if a != b)


def _model(ref: ModelRef | None) -> str:
    return NONE if ref is None else f"{ref.name} ({ref.digest[:12]})"


def _shots(spec: Spec) -> str:
    if spec.shots.choice == "none":
        return NONE
    return f"{spec.shots.k} {'nearest' if spec.shots.choice == 'nearest' else 'always the same'}"


def _adapter(spec: Spec) -> str:
    """What was learned by the digest of its weights; no two trainings give the same ones."""
    weights = [name for name in filter(is_learned, spec.files) if name.endswith((".safetensors", ".gguf"))]
    if not weights:
        return NONE
    kind = "all weights" if min(weights).startswith(WEIGHTS_FOLDER) else "tuned"
    return f"{kind} ({spec.files[min(weights)][:12]})"


def _other_files(spec: Spec) -> str:
    """The files that no other part tells of, by name and digest."""
    return ", ".join(f"{n} ({d[:12]})" for n, d in sorted(spec.files.items()) if not is_learned(n)) or NONE


def _steps(steps: StepsSpec) -> str:
    drawn = f" of {steps.samples} at {steps.temperature:g}" if steps.samples > 1 else ""
    return f"{steps.kind}{drawn}, up to {steps.max_tokens} tokens first, {steps.close!r}"


def _labels(spec: Spec) -> str:
    return ", ".join(spec.labels) or NONE


def _form(spec: Spec) -> str:
    if spec.engine == "head":
        return "chosen by a head" if spec.kind == "label" else "worked out by a head"
    form = spec.answer.form + (", ended by a blank line" if spec.answer.ends == "blank_line" else "")
    return form if spec.answer.written == "json" else f"{form}, {spec.answer.written}"


PARTS: tuple[tuple[str, Callable[[Spec], str]], ...] = (
    ("rung", lambda spec: spec.rung),
    ("model", lambda spec: _model(spec.model)),
    ("adapter", _adapter),
    ("instruction", lambda spec: spec.instruction or NONE),
    ("examples", _shots),
    ("passages", lambda s: NONE if s.retrieval is None else f"{s.retrieval.k} by {s.retrieval.search}"),
    ("calls for an answer", lambda spec: "one" if spec.steps is None else _steps(spec.steps)),
    ("answer", _form),
    ("longest answer", lambda spec: NONE if spec.engine == "head" else f"{spec.answer.max_tokens} tokens"),
    ("prompt and answer", lambda spec: f"{spec.context_tokens or USUAL_TOKENS} tokens"),
    ("most calls", lambda spec: NONE if spec.answer.most_calls is None else str(spec.answer.most_calls)),
    ("label codes", lambda spec: f"{len(spec.answer.codes)} tokens" if spec.answer.codes else NONE),
    ("features", lambda spec: spec.features or NONE),
    ("sentence vectors", lambda spec: _model(spec.vectors)),
    ("engine", lambda spec: spec.engine_said),
    ("style", lambda spec: NONE if spec.engine == "head" else spec.style),
    ("labels", _labels),
    ("schema", lambda spec: NONE if spec.schema_ is None else str(spec.schema_)),
    ("files", _other_files),
)
