"""The images that a row names: paths and URLs, as written. Nothing is opened or fetched."""

from collections.abc import Mapping, Sequence
from typing import Any

from rung.task.outputs import shown

IMAGE_COLUMNS = ("images", "image")
PLACE = "<image>"
"""Where an image stood in a text."""
EMBEDDED = "data:,"
"""An image without a path or a URL: its bytes stand in the row itself, or only somebody else can name it."""


def images_in(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The images of a row's columns; a number in them is no image."""
    found = []
    for column in IMAGE_COLUMNS:
        value = row.get(column)
        if isinstance(value, (str, dict)):
            value = [value]
        if isinstance(value, list):
            found += [image_at(item) for item in value if item not in (None, "")]
    return tuple(found)


def images_of(row: Mapping[str, Any], turns: Sequence[str]) -> tuple[str, ...]:
    """The images of a row's turns and columns: a turn's without an address is one of the columns'."""
    columns = images_in(row)
    return (*(image for image in turns if image != EMBEDDED or not columns), *columns)


def image_at(value: Any) -> str:
    """The path or URL of an image: a text, or an object with `url`, `path` or `bytes`."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, dict):
        for key in ("url", "path"):
            if isinstance(value.get(key), str) and value[key].strip():
                return value[key]
        if value.get("bytes"):
            return EMBEDDED
    raise ValueError(f"an image must be a path or a URL, not {shown(value)}; correct it or take it out")
