"""Engines: what runs a model. `start` makes the one that a spec names."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rung.engines.base import Engine, EngineSpec
from rung.engines.till import Till
from rung.engines.unchanged import require_unchanged
from rung.errors import EngineError

if TYPE_CHECKING:
    from rung.models.resolve import Model


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


def slowed(spec: EngineSpec, engine: Engine, models: Iterable["Model"] = ()) -> str | None:
    """Why an engine computes on the processor though there is a GPU; None for any other.

    A model as it is goes by its name among the `models`, what was learned on one by its folder.
    """
    if spec.engine != "torch" or spec.weights is None:
        return None
    from rung.engines.device import off_gpu
    from rung.engines.torch import TorchEngine
    from rung.models.weights import torch_folder

    names = {torch_folder(model): model.name for model in models}
    name = spec.adapter or names.get(spec.weights, spec.weights)
    return off_gpu(engine.model, str(name)) if isinstance(engine, TorchEngine) else None
