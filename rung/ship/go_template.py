"""A prompt in the template language of Ollama (Go's text/template): the few actions that are used, both ways.

`write` makes a template of a Frame; `render` gives what Go makes of it, so that an export can be compared
with the prompts that the System was scored on.
"""

import re
from collections.abc import Sequence
from typing import Final

from rung.errors import ModelError
from rung.models.chat import Message
from rung.ship.frame import Frame

LAST_QUESTION: Final = (
    '{{ $text := "" }}{{ range .Messages }}{{ if eq .Role "user" }}{{ $text = .Content }}{{ end }}{{ end }}'
)
"""Each text is answered by itself, as the System does, also in the middle of a conversation."""
_SYSTEM, _QUESTION = "{{ .System }}", "{{ $text }}"
# A brace before an action would begin that action one character too early.
_AWKWARD = re.compile(r'\{+(?=\Z|"{3}|[^\n\t -~])|\{{2,}|"{3,}|[^\n\t -~]+')
_ACTION = re.compile(r'\{\{ ("(?:[^"\\]|\\.)*"|\$text|\.System) \}\}')


def write(frame: Frame, system: str | None = None) -> str:
    """The template of a prompt. Where `system` is given, Ollama's own setting stands for that part of it.

    Every character survives a Modelfile: one that isn't printable, and quotes that would end it there, are
    written as Go's string literals.
    """
    before = literal(frame.before)
    if system is not None:
        first, found, rest = frame.before.partition(system)
        assert found, "the prompt begins with its instruction"
        before = literal(first) + _SYSTEM + literal(rest)
    return LAST_QUESTION + before + _QUESTION + literal(frame.after)


def literal(text: str) -> str:
    """A template that gives `text`."""

    def careful(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] in '{"':
            return _string(found)
        return "".join(c if c.isprintable() else _string(c) for c in found)

    return _AWKWARD.sub(careful, text)


def render(template: str, messages: Sequence[Message]) -> str:
    """What Ollama makes of template and conversation. ModelError for an action that `write` never uses."""
    questions = [turn.content for turn in messages if turn.role == "user"]
    values = {
        "$text": questions[-1] if questions else "",
        ".System": "\n\n".join(turn.content for turn in messages if turn.role == "system"),
    }
    if not template.startswith(LAST_QUESTION):
        raise ModelError("the template doesn't begin with the choice of the question: rung didn't write it")
    text, rest = "", template.removeprefix(LAST_QUESTION)
    while (begin := rest.find("{{")) >= 0:
        action = _ACTION.match(rest, begin)
        if action is None:
            raise ModelError(
                f"the template has an action that rung never writes: {rest[begin : begin + 60]!r}"
            )
        text += rest[:begin] + (values[action[1]] if action[1] in values else _unquoted(action[1]))
        rest = rest[action.end() :]
    return text + rest


def _string(text: str) -> str:
    """An action that gives `text`: a string literal in ASCII."""
    codes = [c if c == "{" else f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text]
    return '{{ "' + "".join(codes) + '" }}'


def _unquoted(literal: str) -> str:
    """The text of a string literal; Go and Python agree on those in ASCII with codes."""
    return literal[1:-1].encode("ascii").decode("unicode_escape")
