"""The small model that tests marked `models` run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine


def small_gguf() -> Path:
    from rung.models.resolve import resolve

    path = resolve("smollm2-135m").gguf
    assert path is not None
    return path


def llama_spec(**changes) -> EngineSpec:
    """One thread: tests share their machine."""
    return EngineSpec(
        **{"engine": "llama", "gguf": small_gguf(), "context": 512, "parallel": 4, "threads": 1, **changes}
    )


def torch_spec(**changes) -> EngineSpec:
    """The same model, de-quantised. One thread: tests share their machine."""
    from rung.models.resolve import resolve
    from rung.models.weights import dequantised

    weights = dequantised(resolve("smollm2-135m"))
    return EngineSpec(**{"engine": "torch", "weights": weights, "context": 512, "threads": 1, **changes})


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaEngine]:
    engine = LlamaEngine(llama_spec(), request_limit_s=60)
    yield engine
    engine.close()
