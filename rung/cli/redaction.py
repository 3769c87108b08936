"""What is said of redacted copies: how much was replaced, and never what."""

from rung.data.redact import Redaction

SHOWN_NAMES = 20


def redaction_lines(done: Redaction) -> list[str]:
    """The copies, the counts, and what is left to do."""
    counts = ", ".join(f"{said} {count:,}" for said, count in done.replaced) or "nothing was found"
    rows = "1 row" if done.rows == 1 else f"{done.rows:,} rows"
    lines = [f"Copied {rows} to {', '.join(str(copy) for copy in done.copies)}", f"Replaced: {counts}"]
    if done.left_out:
        places = ", ".join(done.left_out[:6])
        lines.append(f"Left out, for they can't be read: {len(done.left_out):,}, such as {places}")
    if done.replaced:
        lines.append(f"What each placeholder stands for is in {done.placeholders}: don't pass it on")
    if done.unseen:
        more = f" and {len(done.unseen) - SHOWN_NAMES:,} more" if len(done.unseen) > SHOWN_NAMES else ""
        names = ", ".join(done.unseen[:SHOWN_NAMES])
        lines.append(f"Names of the roster that stand nowhere, written so: {names}{more}")
    lines.append("Names of people are found by --roster only: read some rows before you share the copy")
    return lines
