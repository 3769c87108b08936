"""The folder for what a user made and wants to keep: the registry of tags, and the keys of a server."""

import os
from pathlib import Path


def home_dir() -> Path:
    """`RUNG_HOME`, else the user's data folder: `XDG_DATA_HOME`/rung, or ~/.local/share/rung."""
    if given := os.environ.get("RUNG_HOME"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "rung"
