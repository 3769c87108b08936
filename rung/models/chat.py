"""From messages to prompt ids: the only place where a chat template is known.

Training, scoring and serving all take their prompts from `Chat`, so they can't disagree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rung.errors import ModelError
from rung.models._template import fill
from rung.models.resolve import Model
from rung.models.tokens import Tokens, load_tokenizer

Style = Literal["chat", "terse"]
"""`chat`: the model's own template, else Input/Output pairs. `terse`: the input and one separator token."""

Role = Literal["system", "user", "assistant"]

_PLAIN: Final = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] | trim + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Input: ' + message['content'] | trim + '\\nOutput:' }}"
    "{% else %}{{ ' ' + message['content'] | trim + '\\n\\n' }}{% endif %}{% endfor %}"
)
_PLAIN_STOPS: Final = ("\n\n", "\nInput:")
_TERSE: Final = (
    "{% if messages | length != 1 or messages[0]['role'] != 'user' %}{{ raise_exception('this model was "
    "tuned on one user turn: send no system turn and no history') }}{% endif %}"
    "{{ messages[0]['content'] | trim }}"
)
_ENDS: Final = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|endoftext|>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn. White space around `content` is not sent."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Chat:
    """How one model is talked to.

    `template` is its chat template (Jinja), `end` the token that ends an answer, `stop_ids` all tokens
    at which generation ends. `plain`: the model has no chat template of its own.
    """

    tokens: Tokens
    template: str
    plain: bool
    end: int
    stop_ids: tuple[int, ...]

    def render(self, messages: Sequence[Message], *, style: Style = "chat") -> tuple[int, ...]:
        """Prompt ids up to where the answer begins.

        What a message says is encoded as plain text: it never becomes a control token. Begins with one
        bos token where the model wants one. Raises ModelError when the template or the style doesn't
        take these turns.
        """
        ids: list[int] = []
        text = ""
        for part in self._parts(messages, style):
            if isinstance(part, str):
                text += part
            else:
                ids += [*self._encoded(text), part]
                text = ""
        ids += self._encoded(text)
        return self._with_bos(ids)

    def continued(self, text: str) -> tuple[int, ...]:
        """Prompt ids of a text that the model goes on with as it stands; nothing in it is a control token."""
        return self._with_bos(self._encoded(text))

    def answer_ids(self, text: str, style: Style = "chat") -> tuple[int, ...]:
        """The ids of an answer and of the token that ends it."""
        lead = " " if self.plain and style == "chat" else ""
        return (*self.tokens.encode(lead + text.strip(), special=False), self.end)

    def training_row(
        self, messages: Sequence[Message], answer: str, style: Style = "chat"
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(prompt ids, answer ids): what `render` sends and what should come back."""
        return self.render(messages, style=style), self.answer_ids(answer, style)

    def stop_strings(self, style: Style = "chat") -> tuple[str, ...]:
        """Text at which generation ends, for models that don't know an end token."""
        return _PLAIN_STOPS if self.plain and style == "chat" else ()

    def show(self, messages: Sequence[Message], style: Style = "chat") -> str:
        """The prompt as text, for people: control tokens by name."""
        parts = self._parts(messages, style)
        text = "".join(part if isinstance(part, str) else self.tokens.texts[part] for part in parts)
        return self._bos_text() + text.removeprefix(self._bos_text())

    def _jinja(self, style: Style) -> str:
        if style == "terse":
            return _TERSE + "{{ " + repr(self.tokens.texts[self.end]) + " }}"
        return self.template

    def _parts(self, messages: Sequence[Message], style: Style) -> Iterator[str | int]:
        """Plain text and control ids, in order; only the template's own text can give a control id."""
        if not messages or messages[-1].role != "user":
            roles = ", ".join(message.role for message in messages)
            raise ModelError(f"the turns ({roles}) don't end with a user's: there is nothing to answer")
        turns = [(message.role, message.content.strip()) for message in messages]
        names = {
            "bos_token": self._text_of(self.tokens.bos_id),
            "eos_token": self._text_of(self.tokens.eos_id),
        }
        for part in fill(self._jinja(style), turns, names, answer=True):
            if isinstance(part, int):
                yield turns[part][1]
            else:
                yield from self.tokens.split(part)

    def _encoded(self, text: str) -> list[int]:
        return self.tokens.encode(text, special=False) if text else []

    def _with_bos(self, ids: Sequence[int]) -> tuple[int, ...]:
        bos = self.tokens.bos_id
        if bos is None or not self.tokens.add_bos or ids[:1] == [bos]:
            return tuple(ids)
        return (bos, *ids)

    def _bos_text(self) -> str:
        return self._text_of(self.tokens.bos_id) if self.tokens.add_bos else ""

    def _text_of(self, index: int | None) -> str:
        return "" if index is None else self.tokens.texts[index]


def load_chat(model: Model) -> Chat:
    """Read how a model is talked to. Raises ModelError when it has no token that could end an answer."""
    tokens = load_tokenizer(model)
    if model.template is None:
        end = tokens.eos_id
    else:
        end = _end_of_turn(model.template, tokens)
    if end is None:
        raise ModelError(
            f"{model.name!r} names no end-of-text token in its tokenizer, so its answers would never end: "
            "use a model whose files name one"
        )
    known = (tokens.control.get(name) for name in _ENDS)
    stops = dict.fromkeys(i for i in (end, tokens.eos_id, *known) if i is not None)
    return Chat(
        tokens=tokens,
        template=_PLAIN if model.template is None else model.template,
        plain=model.template is None,
        end=end,
        stop_ids=tuple(stops),
    )


def _end_of_turn(template: str, tokens: Tokens) -> int | None:
    """The first control token that the template puts behind an answer, else the end of text."""
    names = {
        "bos_token": "" if tokens.bos_id is None else tokens.texts[tokens.bos_id],
        "eos_token": "" if tokens.eos_id is None else tokens.texts[tokens.eos_id],
    }
    try:
        parts = fill(template, [("user", "?"), ("assistant", "!")], names, answer=False)
    except ModelError:
        # The template of an exported tune takes one user turn; one that takes none can't be used at all.
        fill(template, [("user", "?")], names, answer=True)
        return tokens.eos_id
    tail = "".join(part for part in parts[parts.index(1) + 1 :] if isinstance(part, str))
    return next((part for part in tokens.split(tail) if isinstance(part, int)), tokens.eos_id)
