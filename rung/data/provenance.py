"""Who made a row, by the marks that it carries."""

import re
from collections.abc import Mapping
from typing import Any

MARK_COLUMNS = ("synthetic", "source", "generator")
YES = ("true", "yes", "1")
FAMILIES = (
    "chatgpt gpt claude gemini gemma llama codellama qwen qwq mistral mixtral deepseek phi smollm command-r "
    "grok granite nemotron olmo glm kimi"
).split()
GRADES = "chat flash haiku instruct large medium mini opus plus pro r small sonnet turbo".split()
_MODEL = re.compile(
    rf"(?:[\w.-]+[/:])*(?:{'|'.join(FAMILIES)})"
    rf"(?:(?:[-_.: ]?\d|[-_ ][a-z]+[-_ ]?\d|[-_ ](?:{'|'.join(GRADES)})(?![a-z]))[\w.:/ -]*)?",
    re.IGNORECASE,
)


def is_synthetic(row: Mapping[str, Any]) -> bool:
    """Whether a model made the row, as its columns or its `meta` say.

    `synthetic` is true, or `source` or `generator` is the name of a model: one of the known families with a
    version, if any, and whoever hosts it before that, such as `gpt-4o` or `openai/gpt-4o-mini`.
    """
    meta = row.get("meta")
    places = [row, meta] if isinstance(meta, dict) else [row]
    return any(_marked(place) for place in places)


def _marked(place: Mapping[str, Any]) -> bool:
    mark = place.get("synthetic")
    if mark is True or mark == 1 or (isinstance(mark, str) and mark.strip().lower() in YES):
        return True
    names = (place.get("source"), place.get("generator"))
    return any(isinstance(name, str) and bool(_MODEL.fullmatch(name.strip()[:200])) for name in names)
