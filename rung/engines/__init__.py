"""Engines: what runs a model. `start` makes the one that a spec names."""

from rung.engines.base import Engine, EngineSpec
from rung.engines.till import Till
from rung.engines.unchanged import require_unchanged
from rung.errors import EngineError


def start(spec: EngineSpec, till: Till | None = None) -> Engine:
    """Start the engine that `spec` names; the caller closes it. An endpoint is paid out of the `till`.

    An endpoint takes messages: build `endpoint.EndpointEngine` to use its `chat` methods.
    Raises EngineError for an unknown name, when the engine can't start, and for a file that was replaced.
    """
    if spec.engine == "llama":
        from rung.engines.llama import LlamaEngine

        return LlamaEngine(spec)
    if spec.engine == "torch":
        from rung.engines.torch import TorchEngine

        require_unchanged(spec.files, spec.base)
        return TorchEngine(spec)
    if spec.engine == "endpoint":
        from rung.engines.endpoint import EndpointEngine

        return EndpointEngine(spec, till=till)
    if spec.engine == "fake":
        from rung.engines.fake import FakeEngine

        return FakeEngine(spec)
    raise EngineError(f"unknown engine {spec.engine!r}: use llama, torch, endpoint or fake")


def crowded(spec: EngineSpec) -> bool:
    """Whether a torch engine would find room for its weights if others weren't open, and doesn't as it is."""
    if spec.engine != "torch" or spec.weights is None:
        return False
    from rung.engines.device import best_dtype, short_of_room
    from rung.engines.room import weight_bytes

    return short_of_room(weight_bytes(spec.weights, best_dtype()))
