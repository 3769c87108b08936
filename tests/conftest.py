"""Tests run in two processes on two cores: their idle threads sleep soon, as those of the command do."""

import gc

from rung.threads import yield_while_waiting

yield_while_waiting()


def pytest_collection_finish() -> None:
    """Leave what was collected, a million objects that stay to the end, out of every later collection."""
    gc.collect()
    gc.freeze()
