"""What a server may use, with the defaults of `rung serve`. Imports nothing, as its command line reads it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`slots`: requests that one base model answers at a time; `context`: tokens of each, at most (None: as
    scored); `queue`: requests that wait for it. `memory_mb` None: no limit; 0 `threads`: one for each core.
    """

    slots: int = 8
    context: int | None = None
    queue: int = 256
    threads: int = 0
    request_s: float = 120.0
    memory_mb: float | None = None
