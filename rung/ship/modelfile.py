"""Ollama's Modelfile: the weights, the prompt as a template, and the settings that make answers greedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rung.ship import go_template
from rung.ship.frame import Frame

GREEDY: Final = (
    ("temperature", "0"),
    ("top_k", "1"),
    ("top_p", "1"),
    ("min_p", "0"),
    ("repeat_penalty", "1"),
)
"""Ollama's own defaults sample, and weigh down words that the prompt holds: labels, as a rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Modelfile:
    """What is written: `weights` names the file beside it; `context` and `most_tokens` count tokens."""

    weights: str
    frame: Frame
    instruction: str | None
    stops: Sequence[str]
    context: int
    most_tokens: int
    licence: str

    @property
    def system(self) -> str | None:
        """The instruction, where Ollama's SYSTEM can hold it as it is."""
        text = (self.instruction or "").strip()
        return text if text and self.frame.before.count(text) == 1 and _fits(text) else None

    @property
    def template(self) -> str:
        """The TEMPLATE in Go's language."""
        return go_template.write(self.frame, self.system)

    @property
    def text(self) -> str:
        """The whole file."""
        lines = [f"FROM ./{self.weights}", f"TEMPLATE {_held(self.template)}"]
        if self.system is not None:
            lines.append(f"SYSTEM {_held(self.system)}")
        lines += [f"PARAMETER stop {_held(stop)}" for stop in self.stops if _fits(stop)]
        lines += [f"PARAMETER {name} {value}" for name, value in GREEDY]
        lines += [f"PARAMETER num_ctx {self.context}", f"PARAMETER num_predict {self.most_tokens}"]
        lines.append(f"LICENSE {_held(self.licence)}")
        return "\n".join(lines) + "\n"


def _held(text: str) -> str:
    """A value between the quotes that may hold line breaks; there is no way to escape anything in it."""
    return f'"""{text}"""'


def _fits(text: str) -> bool:
    """Whether a Modelfile keeps the text: it drops what isn't printable, and ends a value at three quotes."""
    return '"""' not in text and all(c.isprintable() or c in "\n\t" for c in text)
