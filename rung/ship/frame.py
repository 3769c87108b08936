"""The one prompt that a System always sends: what stands before and after the text, and it as templates.

A question is the only part of a prompt that changes from call to call, unless examples are looked up for it.
So the rest is written out once, by the code that renders every prompt, and no template has to be translated.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rung.errors import ModelError
from rung.models.chat import Chat
from rung.records import Example
from rung.spec import Spec
from rung.wording import Shot, messages

ONE_TURN: Final = "this model answers one text: send one user turn, no system turn and no history"
LAST_TEXT: Final = (
    "{% set asked = namespace(text='') %}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set asked.text = message['content'] %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Control tokens stand in the texts by name. `bos` is what the tokenizer puts first, where it does."""

    bos: str
    before: str
    after: str

    @property
    def jinja(self) -> str:
        """The whole prompt as a chat template in Jinja, for one user turn."""
        refuse = "{{ raise_exception(" + _quoted(ONE_TURN) + ") }}"
        check = "{% if messages | length != 1 or messages[0]['role'] != 'user' %}" + refuse + "{% endif %}"
        return check + self._around("messages[0]['content']")

    @property
    def jinja_of_last(self) -> str:
        """The same for any turns, of which the last of the user is answered by itself.

        For llama.cpp, whose server tries its file's template on a conversation when it starts: where that is
        refused it takes another one, or ends.
        """
        return LAST_TEXT + self._around("asked.text")

    def _around(self, text: str) -> str:
        """The prompt where `text`, an expression of Jinja, gives what is asked."""
        before = "{{ " + _quoted(self.bos + self.before) + " }}" if self.bos + self.before else ""
        after = "{{ " + _quoted(self.after) + " }}" if self.after else ""
        return before + "{{ " + text + " | trim }}" + after


def frame(chat: Chat, spec: Spec, shots: Sequence[Shot]) -> Frame:
    """What `spec` puts around a text. Raises ModelError where the template uses the text more than once."""
    stand = f"x{secrets.token_hex(16)}x"
    turns = messages(spec.instruction, Example(id="", input=stand, output=None), shots)
    parts = chat.show(turns, spec.style).split(stand)
    if len(parts) != 2:
        raise ModelError(
            "the model's chat template repeats the text, so that no other template can stand for it"
        )
    bos = (
        chat.tokens.texts[chat.tokens.bos_id]
        if chat.tokens.add_bos and chat.tokens.bos_id is not None
        else ""
    )
    return Frame(bos=bos, before=parts[0].removeprefix(bos), after=parts[1])


def _quoted(text: str) -> str:
    """A string literal of Jinja, which is one of Python."""
    return json.dumps(text, ensure_ascii=False)
