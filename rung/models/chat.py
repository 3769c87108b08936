"""From messages to prompt ids: the only place where a chat template is known.

Training, scoring and serving all take their prompts from `Chat`, so they can't disagree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias

from rung.errors import ModelError
from rung.models import tagged_calls
from rung.models._template import THOUGHT_CLOSED as THOUGHT_CLOSED
from rung.models._template import fill
from rung.models._template import opens_thought as opens_thought
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
_NEXT: Final = "\n\nInput:"
_TERSE: Final = (
    "{% if messages | length != 1 or messages[0]['role'] != 'user' %}{{ raise_exception('this model was "
    "tuned on one user turn: send no system turn and no history') }}{% endif %}"
    "{{ messages[0]['content'] | trim }}"
)
Tool: TypeAlias = Mapping[str, Any]
"""A function that may be called, in OpenAI's form."""

_PROBE: Final = "xprobe7f3a"
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
    at which generation ends. `plain`: the model has no chat template of its own. One that `takes_system` has
    a place for a system turn, of `system_role`; else its text goes before the first user's. One that
    `takes_tools` has a place for the functions that may be called; one of `tagged_calls` was taught to write
    calls of them as FunctionGemma does.
    """

    tokens: Tokens
    template: str
    plain: bool
    end: int
    stop_ids: tuple[int, ...]
    takes_system: bool = True
    takes_tools: bool = False
    tagged_calls: bool = False
    system_role: Literal["system", "developer"] = "system"

    def render(
        self, messages: Sequence[Message], *, style: Style = "chat", tools: Sequence[Tool] = ()
    ) -> tuple[int, ...]:
        """Prompt ids up to where the answer begins.

        What a message or a function says is encoded as plain text: it never becomes a control token. Begins
        with one bos token where the model wants one. Raises ModelError when the template or the style doesn't
        take these turns, or no functions.
        """
        if tools and (style != "chat" or not self.takes_tools):
            raise ModelError("this model's template has no place for functions: write them into the context")
        parts = list(self._parts(messages, style, tools))
        bos = self.tokens.bos_id
        if bos is not None and self.tokens.add_bos and parts[:1] != [bos]:
            parts.insert(0, bos)
        return tuple(self.tokens.encode_parts(parts))

    def continued(self, text: str) -> tuple[int, ...]:
        """Prompt ids of a text that the model goes on with as it stands; nothing in it is a control token."""
        return self._with_bos(self._encoded(text))

    def answer_ids(self, text: str, style: Style = "chat", *, held: bool = False) -> tuple[int, ...]:
        """The ids of an answer and of the token that ends it, as they follow a prompt.

        `held`: under a grammar, which begins with the answer's own first character.
        """
        lead = " " if self.plain and style == "chat" and not held else ""
        goes_on = held or style == "chat" and (self.plain or self._goes_on)
        encode = self.tokens.encode_inside if goes_on else partial(self.tokens.encode, special=False)
        return (*encode(lead + text.strip()), self.end)

    @cached_property
    def _goes_on(self) -> bool:
        """Whether an answer goes on with the template's text, without the blank that a vocabulary puts first.

        A prompt that shows an answer tells.
        """
        question, answer = Message(role="user", content="?"), Message(role="assistant", content="a")
        try:
            asked, shown = self.render([question]), self.render([question, answer, question])
        except ModelError:
            return False
        begun = (*asked, *self.tokens.encode_inside(answer.content))
        return shown[: len(begun)] == begun

    def call_ids(self, text: str) -> tuple[int, ...]:
        """The ids of calls in FunctionGemma's form and of the token that ends them, `call_end`.

        Of a text that calls nothing, and of none at all, they are those of any other answer.
        """
        text = text.strip()
        if text.endswith(tagged_calls.END):
            return (*self._encoded(text), self.call_end)
        return self.answer_ids(text) if text else (self.end,)

    @cached_property
    def call_end(self) -> int:
        """What such a model was taught to write behind its calls, where that is one of its tokens."""
        found = self.tokens.id_of(tagged_calls.STOPS[0])
        return self.end if found is None else found

    def shown_ids(self, text: str) -> tuple[int, ...]:
        """The ids of an answer among the plain template's pairs, to the first of the blank line behind it.

        That may be of one token with the answer's last characters. None at all where the model has a template
        of its own, the answer holds a line break, or the vocabulary can't spell one.
        """
        text = text.strip()
        if not self.plain or "\n" in text:
            return ()
        ids = self.tokens.encode_inside(f" {text}{_NEXT}")
        spelled = [self.tokens.token_bytes(index) for index in ids]
        if not b"".join(spelled).endswith(_NEXT.encode()):
            return ()
        left = sum(map(len, spelled)) - len(_NEXT)
        for place, part in enumerate(spelled):
            left -= len(part)
            if left < 0:
                return tuple(ids[: place + 1])
        return ()

    def break_ids(self) -> tuple[int, ...]:
        """The token, if it is one of nothing else, with which the blank line behind a shown answer begins."""
        last = self.shown_ids("0")[-1:]
        return last if last and not self.tokens.token_bytes(last[0]).strip(b"\n") else ()

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

    def _parts(
        self, messages: Sequence[Message], style: Style, tools: Sequence[Tool] = ()
    ) -> Iterator[str | int]:
        """Plain text and control ids, in order; only the template's own text can give a control id."""
        if not messages or messages[-1].role != "user":
            roles = ", ".join(message.role for message in messages)
            raise ModelError(f"the turns ({roles}) don't end with a user's: there is nothing to answer")
        turns: list[tuple[str, str]] = [(m.role, m.content.strip()) for m in messages]
        if style == "chat" and not self.takes_system:
            turns = _without_system(turns)
        if self._has_marks:
            # What marks a call or a function is a token in any text: only the model's own turns may hold one.
            own = "assistant" if style == "chat" and self.tagged_calls else None
            turns = [(role, text if role == own else _unmarked(text)) for role, text in turns]
        names = _names(self.tokens)
        shown = [_uncontrolled(tool, self._broken_up) for tool in tools]
        roles = {"system": self.system_role} if style == "chat" else {}
        named = [(roles.get(role, role), text) for role, text in turns]
        for part in fill(self._jinja(style), named, names, answer=True, tools=shown):
            if isinstance(part, int):
                yield turns[part][1]
            else:
                yield from self.tokens.split(part)

    def _broken_up(self, text: str) -> str:
        """Text with a space in whatever spells a control token, or marks a call: it stays text then."""
        parts = (
            part if isinstance(part, str) else f"{self.tokens.texts[part][0]} {self.tokens.texts[part][1:]}"
            for part in self.tokens.split(text)
        )
        return _unmarked("".join(parts)) if self._has_marks else "".join(parts)

    @cached_property
    def _has_marks(self) -> bool:
        """Whether what marks a call means something to the model, or is a token of its vocabulary."""
        marks = tagged_calls.MARKERS
        return self.tagged_calls or any(self.tokens.id_of(mark) is not None for mark in marks)

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
    names = _names(tokens)
    takes_tools = model.template is not None and _takes_tools(model.template, names)
    tagged = takes_tools and model.template is not None and tagged_calls.MARKERS[0] in model.template
    developer = tagged and model.template is not None and _takes_developer(model.template, names)
    known = (tokens.control.get(name) for name in _ENDS)
    stops = dict.fromkeys(i for i in (end, tokens.eos_id, *known) if i is not None)
    return Chat(
        tokens=tokens,
        template=_PLAIN if model.template is None else model.template,
        plain=model.template is None,
        end=end,
        stop_ids=tuple(stops),
        takes_system=developer or model.template is None or _takes_system(model.template, names),
        takes_tools=takes_tools,
        tagged_calls=tagged,
        system_role="developer" if developer else "system",
    )


def _takes_developer(template: str, names: Mapping[str, str]) -> bool:
    """Whether a template knows a developer's turn, which is what FunctionGemma was taught."""
    if "developer" not in template:
        return False
    try:
        fill(template, [("developer", "?"), ("user", "!")], names, answer=True)
    except ModelError:
        return False
    return True


def _takes_system(template: str, names: Mapping[str, str]) -> bool:
    """Whether a system turn is to be left to the template; some have no place for it but for a conversation.

    One that takes a single turn is an exported tune's, which learned to do without an instruction: it refuses
    one by itself.
    """
    try:
        fill(template, [("system", "?"), ("user", "!")], names, answer=True)
    except ModelError:
        try:
            fill(template, [("user", "?"), ("assistant", "!"), ("user", "?")], names, answer=True)
        except ModelError:
            return True
        return False
    return True


def _takes_tools(template: str, names: Mapping[str, str]) -> bool:
    """Whether a template writes out the functions that it is given."""
    function = {
        "name": _PROBE,
        "description": "?",
        "parameters": {"type": "object", "properties": {}, "required": []},
    }
    try:
        parts = fill(
            template, [("user", "!")], names, answer=True, tools=[{"type": "function", "function": function}]
        )
    except ModelError:
        return False
    return any(isinstance(part, str) and _PROBE in part for part in parts)


def _without_system(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns with a system turn's text before the first user's, as the makers of such models advise."""
    said = "\n\n".join(text for role, text in turns if role == "system")
    others = [turn for turn in turns if turn[0] != "system"]
    if not said:
        return others
    first = next(at for at, (role, _) in enumerate(others) if role == "user")
    others[first] = ("user", f"{said}\n\n{others[first][1]}")
    return others


def _unmarked(text: str) -> str:
    """The text with a space in whatever marks a call or a function."""
    for marker in tagged_calls.MARKERS:
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return text


def _uncontrolled(value: Any, text: Callable[[str], str]) -> Any:
    """A function's description with every text in it, names of keys too, made harmless."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {_uncontrolled(key, text): _uncontrolled(part, text) for key, part in value.items()}
    if isinstance(value, list):
        return [_uncontrolled(part, text) for part in value]
    return value


def _names(tokens: Tokens) -> dict[str, str]:
    """The first and the last token of a text, as templates call them."""
    texts = {"bos_token": tokens.bos_id, "eos_token": tokens.eos_id}
    return {name: "" if index is None else tokens.texts[index] for name, index in texts.items()}


def _end_of_turn(template: str, tokens: Tokens) -> int | None:
    """The first control token that the template puts behind an answer, else the end of text."""
    try:
        parts = fill(template, [("user", "?"), ("assistant", "!")], _names(tokens), answer=False)
    except ModelError:
        # The template of an exported tune takes one user turn; one that takes none can't be used at all.
        fill(template, [("user", "?")], _names(tokens), answer=True)
        return tokens.eos_id
    tail = "".join(part for part in parts[parts.index(1) + 1 :] if isinstance(part, str))
    return next((part for part in tokens.split(tail) if isinstance(part, int)), tokens.eos_id)
