"""What writing on a full disk is like."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def little_room(most: int = 10_000) -> Iterator[None]:
    """No file may grow over so many bytes: a write beyond them fails as one on a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    compiles = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # an import would leave half of a compiled module, which later ones read
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = compiles
