"""Rows that are packed into one sequence: whether they see each other."""

from rung.checks.base import Outcome, Subject


def packing(subject: Subject) -> Outcome:
    """Left out always: attention of a pack is computed row by row, and no setting changes that."""
    del subject
    return "nothing to look at: packed rows never see each other here, whatever the rows are"
