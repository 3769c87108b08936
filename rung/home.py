"""The user's home: what `~` in a path stands for, and the folder for what they made and want to keep.

That is the registry of tags, and the keys of a server.
"""

import os
from pathlib import Path


def expanded(path: str) -> Path:
    """The path with the home that its `~` stands for; as it's written where nobody has that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def home_dir() -> Path:
    """`RUNG_HOME`, else the user's data folder: `XDG_DATA_HOME`/rung, or ~/.local/share/rung."""
    if given := os.environ.get("RUNG_HOME"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "rung"
