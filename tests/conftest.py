"""Tests run in two processes on two cores: their idle threads sleep soon, as those of the command do."""

import gc
from collections.abc import Iterator

import pytest

from rung.threads import yield_while_waiting
from rung.training import methods

yield_while_waiting()


def pytest_collection_finish() -> None:
    """Leave what was collected, a million objects that stay to the end, out of every later collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def toy_rates() -> Iterator[None]:
    """Models that begin with random numbers learn from few rows a step at the rates for many alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "RATED_ROWS", 1)
        yield
