"""The user's home: what `~` in a path stands for, and the folder for what they made and want to keep.

That is the registry of tags, and the keys of a server.
"""

import os
from pathlib import Path

from rung.errors import RunError


def expanded(path: str) -> Path:
    """The path with the home that its `~` stands for; as it's written where nobody has that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def home_dir() -> Path:
    """`RUNG_HOME`, else the user's data folder: `XDG_DATA_HOME`/rung, or ~/.local/share/rung."""
    return user_folder("RUNG_HOME", "XDG_DATA_HOME", ".local/share")


def user_folder(variable: str, base_variable: str, usual: str) -> Path:
    """The folder that a variable names, else `rung` in that of `base_variable`, or in `usual` of the home.

    Raises RunError where nobody has the home that it would be in.
    """
    given, base = os.environ.get(variable), os.environ.get(base_variable)
    try:
        if given:
            return Path(given).expanduser()
        return (Path(base) if base else Path.home() / usual) / "rung"
    except RuntimeError:
        # As it's written it would be a folder of that name wherever a command is given.
        why = f"{variable} is {given!r}, and nobody here has that home" if given else "this user has no home"
        raise RunError(f"{why}; set {variable} to the whole path of a folder") from None
