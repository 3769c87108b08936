"""Running a Jinja chat template without letting it, or the text inside the messages, do anything else."""

import datetime
import json
import secrets
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from rung.errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension

# A prompt that names today would make training and serving differ from one day to the next.
_TODAY: Final = datetime.datetime(2024, 7, 26)


def fill(
    template: str,
    turns: Sequence[tuple[str, str]],
    names: Mapping[str, str],
    *,
    answer: bool,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[str | int]:
    """Render (role, content) turns; return template text and, as an index into `turns`, each content.

    The template only sees stand-ins that nobody can guess, so what a message says can't steer it; `tools`,
    the functions that may be called, it sees as they are. `answer` asks for the text that opens the answer. A
    model that can think aloud first is told not to. Raises ModelError when the template refuses the turns, or
    drops one.
    """
    compiled = _compiled(template)
    stands = [f"x{secrets.token_hex(16)}x" for _ in turns]
    messages = [{"role": role, "content": stand} for (role, _), stand in zip(turns, stands, strict=True)]
    try:
        text = compiled.render(
            messages=messages,
            add_generation_prompt=answer,
            tools=list(tools) or None,
            documents=None,
            enable_thinking=False,
            **names,
        )
    except Exception as error:  # the template is the model's own code: it may fail in any way
        roles = ", ".join(role for role, _ in turns)
        raise ModelError(f"the prompt template refuses the turns ({roles}): {error}") from error
    parts: list[str | int] = [text]
    for index, stand in enumerate(stands):
        pieces = [_cut(part, stand, index) if isinstance(part, str) else [part] for part in parts]
        parts = [piece for group in pieces for piece in group]
        if index not in parts:
            raise ModelError(
                f"the prompt template leaves out turn {index + 1} ({turns[index][0]!r}): move its text "
                "into the user's turn"
            )
    return parts


def _cut(text: str, stand: str, index: int) -> list[str | int]:
    first, *others = text.split(stand)
    return [first, *(piece for other in others for piece in (index, other))]


@lru_cache(maxsize=16)
def _compiled(template: str) -> "Template":
    from jinja2 import TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    try:
        return environment.from_string(template)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the model's chat template isn't Jinja: line {error.lineno}: {error.message}"
        ) from error


@cache
def _generation() -> "type[Extension]":
    """The tag pair that marks the answer for transformers' loss masks; here its content is just text."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    return Generation


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> str:
    from jinja2 import TemplateError

    raise TemplateError(message)
