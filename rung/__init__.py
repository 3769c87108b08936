"""Find the cheapest way to make a small model do one job well, prove it, and ship it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.answering import Answerer, load
    from rung.errors import RungError
    from rung.records import Answer, Example
    from rung.system import Pool, System

__version__ = "0.1.0"

__all__ = ["Answer", "Answerer", "Example", "Pool", "RungError", "System", "__version__", "load"]

_HOMES = {
    "Answer": "rung.records",
    "Answerer": "rung.answering",
    "Example": "rung.records",
    "Pool": "rung.system",
    "RungError": "rung.errors",
    "System": "rung.system",
    "load": "rung.answering",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rung' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
