"""How a streamed answer of llama.cpp's server is read, event by event. Pure: no process, no network."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rung.engines import llama_wire as wire
from rung.engines.base import Completion, Request
from rung.engines.closing import Closer
from rung.engines.llama_calls import Call, Calls


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Text that is certain to stay, with what the server says beside tokens that are certain to count.

    Those are the text's own, but where it was held back: then the last one may belong to a stop string, and
    comes with the next text.
    """

    text: str
    probabilities: tuple[Mapping, ...]


@dataclass(kw_only=True)
class Reading:
    """One answer as it comes, to `request`. Raises Refused where its schema needs more than it may have.

    `over`: nothing that comes now belongs to the answer. `sent` is the text that `take` has shown so far.
    """

    calls: Calls
    request: Request
    sent: str = ""
    over: bool = False
    probabilities: list[Mapping] = field(default_factory=list)
    _room: int = field(init=False)
    _closer: Closer | None = field(init=False)
    _tokens: list[int] = field(default_factory=list)
    _content: str = ""
    _seen: int = 0
    _held: list[Mapping] = field(default_factory=list)
    _unsure: list[Mapping] = field(default_factory=list)
    _stop_type: str = "limit"
    _start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        request = self.request
        self._room = self.calls.room_for(request)
        limit = min(request.max_tokens, self._room)
        schema = request.schema
        self._closer = None if schema is None else self.calls.closings.closer(schema, limit)

    def call(self, slot: int, probabilities: int) -> Call:
        """What starts the stream, with so many probabilities beside each token."""
        body = wire.completion_call(self.request, self._room, slot, probabilities)
        return Call(path="/completion", body=body)

    def take(self, event: Mapping) -> Shown | None:
        """What an event adds to the answer, where that is certain.

        A character of several tokens comes with the last of them; of one that is cut off a � is left.
        """
        new = list(event["tokens"])
        # Of a character of several tokens the event names the last one alone.
        silent = event["tokens_predicted"] - self._seen - len(new)
        self._seen = event["tokens_predicted"]
        if event.get("stop"):
            self._content += "�" if silent > 0 and event["stop_type"] == "limit" else ""
            silent = 0
        if self._closer is not None and silent > 0:
            new = [*self.calls.closings.spelled(event["content"], new, silent), *new]
        stopped = wire.first_stop(new, self.request.stop_ids) < len(new)
        found = event.get("completion_probabilities") or []
        self._tokens += new
        self.probabilities += found
        self._stop_type = event.get("stop_type", self._stop_type) if event.get("stop") else self._stop_type
        if stopped and not event.get("stop"):
            self._stop_type, self.over = "limit", True
            return None
        self._content += event["content"]
        certain = self._closer is None or all(self._closer.take(token) for token in new)
        if not event["content"] or not certain:
            self._held += found
            return None
        self.sent += event["content"]
        counted = [*self._unsure, *(self._held or found)]
        self._unsure, self._held = (found if self._held else []), []
        return Shown(text=event["content"], probabilities=tuple(counted))

    @property
    def is_cut(self) -> bool:
        """Whether it takes the vocabulary to tell which tokens stay."""
        behind = len(self._tokens) - wire.first_stop(self._tokens, self.request.stop_ids)
        return self._stop_type == "word" or behind > (self._stop_type == "eos")

    def whole(self) -> Completion:
        """The whole answer, cut at a stop token that the model went on after, and closed under a schema."""
        answer = {
            "content": self._content,
            "tokens": self._tokens,
            "stop_type": self._stop_type,
            "completion_probabilities": self.probabilities,
        }
        found = self.calls.read(answer, self.request, self._start)
        if self._closer is not None:
            return found
        count = len(found.tokens) + self._seen - len(self._tokens)
        return replace(found, text=self._content, completion_tokens=count)
