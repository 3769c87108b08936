"""How far the reading and the checking of many rows is, told to whoever watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rung.rungs.base import Reporter


@contextmanager
def bar(reporter: Reporter | None, what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar while the block runs; what is yielded takes (done, some words on the state)."""
    if reporter is None:
        yield lambda done, extra="": None
        return
    handle = reporter.begin(what, total)
    try:
        yield lambda done, extra="": reporter.advance(handle, done, extra)
    finally:
        reporter.end(handle)
