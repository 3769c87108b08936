"""The checks of a climb that need its models: what they find is kept, and not looked for twice."""

import time
from collections.abc import Collection

from rung.checks.examine import (
    examined,
    has_vectors,
    kept_checks,
    report_of,
    stop_on_block,
    tell,
    together,
    write_report,
)
from rung.checks.rows import Prepared
from rung.checks.table import Checked
from rung.climb.machine import versions
from rung.rungs.base import Context


def examine(prepared: Prepared, found: Checked, accepted: Collection[str], context: Context) -> Checked:
    """The checks that need the models, after those of the rows alone (`found`). DataError at what blocks.

    The context is that of the smallest model, its folder the run's. A climb that is taken up again reads what
    they found the first time.
    """
    start, run = time.monotonic(), context.folder
    if (kept := kept_checks(run, prepared, accepted)) is not None:
        stop_on_block(kept.findings)
        return together(found, kept)
    more = examined(
        prepared,
        accepted,
        ("vectors", "chat"),
        embed=context.vectors if has_vectors(context.pool) else None,
        context=context,
        reporter=context.reporter,
    )
    tell(more.findings, context.reporter)
    checked = together(found, more)
    write_report(report_of(prepared, checked, accepted, time.monotonic() - start, versions()), run)
    stop_on_block(more.findings)
    return checked
