"""What a request may wish of an answer, and what a System that answers in one way alone has to refuse."""

from dataclasses import dataclass

from rung.records import Json
from rung.serve.faults import bad


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a request may set. `top` None: no log-probabilities; else how many stand beside each token."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int | None = None
    schema: Json = None


def as_scored(wish: Wish, why: str) -> None:
    """Refuse what would change an answer of a System that answers in one way alone. Raises Fault."""
    for name, set_ in (
        ("logprobs", wish.top is not None),
        ("stop", bool(wish.stop)),
        ("temperature", wish.temperature > 0),
        ("top_p", wish.top_p < 1),
        ("max_tokens", wish.max_tokens is not None),
    ):
        if set_:
            raise bad(f"{why}, as it was scored: leave `{name}` out", name)
