"""Rows that can't be used at all, and what the reader made of them."""

from rung.checks.base import SHOWN_ROWS, Outcome, Subject, rows_text
from rung.records import Finding


def broken_rows(subject: Subject) -> Outcome:
    """Rows that are no JSON object, lack an input or an output, or are written unlike the first one."""
    broken = subject.broken
    if not broken:
        return []
    return [
        Finding(
            check="broken_rows",
            severity="block",
            message=(
                f"{rows_text(len(broken))} can't be used: {broken[0].reason}; `rung check --fix OUT` sets "
                "them aside with the reason"
            ),
            rows=tuple(row.where for row in broken[:SHOWN_ROWS]),
            count=len(broken),
            details=tuple(row.reason for row in broken[:SHOWN_ROWS]),
        )
    ]
