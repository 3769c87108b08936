"""Find the cheapest way to make a small model do one job well, prove it, and ship it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rung.errors import RungError
    from rung.records import Example
    from rung.system import Pool, System

__version__ = "0.1.0"

__all__ = ["Example", "Pool", "RungError", "System", "__version__", "load"]

_HOMES = {
    "Example": "rung.records",
    "Pool": "rung.system",
    "RungError": "rung.errors",
    "System": "rung.system",
}


def load(folder: "Path | str") -> "System":
    """Load a System folder, such as a run's `winner`. Raises SystemFolderError where it isn't whole."""
    from pathlib import Path

    from rung.system import System

    return System.load(Path(folder))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rung' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
