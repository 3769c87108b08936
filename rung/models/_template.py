"""Running a Jinja chat template without letting it, or the text inside the messages, do anything else."""

import datetime
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from rung.errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import SandboxedEnvironment

# A prompt that names today would make training and serving differ from one day to the next.
_TODAY: Final = datetime.datetime(2024, 7, 26)
MOST_ROUNDS: Final = 100_000
"""Rounds of loops, calls of macros and numbers of ranges in one rendering."""
MOST_REPEATED: Final = 100_000
"""How much text or how many items a template may make by `*`."""
LARGE: Final = 1e50
"""A number that a template may not multiply."""
_STAND: Final = re.compile("(x[0-9a-f]{32}x[0-9]+x)")
"""What stands for a turn's text while a template is rendered."""
_COUNT: Final = f"count_{secrets.token_hex(16)}"
"""What counts them; no template can name it."""


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
    model that can think aloud first is told not to; a thought that is opened all the same is closed, empty.
    Raises ModelError when the template refuses the turns, or drops one.
    """
    parts = _filled(template, turns, names, answer, tools)
    if answer and isinstance(parts[-1], str):
        parts[-1] = _closed(parts[-1])
    return parts


THOUGHT_CLOSED = (
    "its template opens every answer with a thought, which is closed at once: it answers without thinking"
)
"""What is said of a model whose template does so."""


def opens_thought(template: str) -> bool:
    """Whether a template opens every answer with a thought, though it is told not to; `fill` closes that."""
    try:
        last = _filled(template, [("user", "?")], {"bos_token": "", "eos_token": ""}, True, ())[-1]
    except ModelError:
        return False
    return isinstance(last, str) and _closed(last) != last


def _closed(text: str) -> str:
    """What opens an answer, a thought that it leaves open closed as Qwen3 writes an empty one."""
    _, opened, thought = text.rpartition("<think>")
    if not opened or "</think>" in thought:
        return text
    return f"{text.rstrip()}\n\n</think>\n\n"


def _filled(
    template: str,
    turns: Sequence[tuple[str, str]],
    names: Mapping[str, str],
    answer: bool,
    tools: Sequence[Mapping[str, Any]],
) -> list[str | int]:
    """What `fill` gives, as the template itself opens an answer."""
    compiled = _compiled(template)
    mark = f"x{secrets.token_hex(16)}x"
    stands = {f"{mark}{index}x": index for index in range(len(turns))}
    messages = [{"role": role, "content": stand} for (role, _), stand in zip(turns, stands, strict=True)]
    try:
        text = compiled.render(
            messages=messages,
            add_generation_prompt=answer,
            tools=list(tools) or None,
            documents=None,
            enable_thinking=False,
            **names,
            **_counting(),
        )
    except Exception as error:  # the template is the model's own code: it may fail in any way
        roles = ", ".join(role for role, _ in turns)
        raise ModelError(f"the prompt template refuses the turns ({roles}): {error}") from error
    parts = _parted(text, stands)
    there = {part for part in parts if isinstance(part, int)}
    for index, (role, _) in enumerate(turns):
        if index not in there:
            raise ModelError(
                f"the prompt template leaves out turn {index + 1} ({role!r}): move its text into the user's "
                "turn"
            )
    return parts


def _parted(text: str, stands: Mapping[str, int]) -> list[str | int]:
    """A rendered text with a number in place of each stand-in, and text before, between and behind them."""
    parts: list[str | int] = [""]
    # The pattern is of any stand-in: one of this rendering's alone would be compiled for every prompt.
    for piece in _STAND.split(text):
        last = parts[-1]
        if piece in stands:
            parts += (stands[piece], "")
        else:
            assert isinstance(last, str)
            parts[-1] = last + piece
    return parts


@lru_cache(maxsize=16)
def _compiled(template: str) -> "Template":
    from jinja2 import TemplateSyntaxError
    from jinja2.ext import loopcontrols

    environment = _bounded()(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation()])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    try:
        source = environment.parse(template)
        _count_rounds(source)
        source.set_environment(environment)
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the model's chat template isn't Jinja: line {error.lineno}: {error.message}"
        ) from error


@cache
def _bounded() -> "type[SandboxedEnvironment]":
    """Jinja's sandbox where no product is larger than any prompt."""
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _is_large(left, right):
                _refuse(f"{operator!r} of too much")
            return super().call_binop(context, operator, left, right)

    return Bounded


def _is_large(left: Any, right: Any) -> bool:
    sizes = [len(one) if isinstance(one, (str, list, tuple)) else abs(one) for one in (left, right)]
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return max(sizes) > LARGE
    return sizes[0] * sizes[1] > MOST_REPEATED


def _count_rounds(source: "nodes.Template") -> None:
    """Have a template count the rounds of its loops and the calls of its macros."""
    from jinja2 import nodes

    for part in [*source.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]:
        count = nodes.Call(nodes.Name(_COUNT, "load"), [], [], None, None)
        part.body.insert(0, nodes.ExprStmt(count, lineno=part.lineno))


def _counting() -> dict[str, Callable[..., Any]]:
    """What a rendering counts with, by name; it ends one that goes on and on."""
    left = MOST_ROUNDS

    def count(rounds: int = 1) -> None:
        nonlocal left
        left -= rounds
        if left < 0:
            _refuse(f"more than {MOST_ROUNDS:,} rounds of its loops")

    def counted_range(*ends: int) -> range:
        made = range(*ends)
        count(len(made))
        return made

    return {_COUNT: count, "range": counted_range}


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
