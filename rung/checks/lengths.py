"""How long rows are in the model's tokens, and what doesn't fit."""

from rung.checks.base import Outcome, Subject, finding, such_as
from rung.models.chat import Chat, Message
from rung.records import Splits
from rung.rungs.base import more_tokens
from rung.wording import question


def too_long(splits: Splits, chat: Chat, limit: int) -> frozenset[str]:
    """Ids of the rows that no prompt of `limit` tokens can hold, were the question all of it.

    A token is at least one byte, so only long rows are counted out.
    """
    rows = [e for e in (*splits.train, *splits.dev, *splits.test) if len(question(e).encode()) >= limit // 2]
    return frozenset(
        e.id
        for e in rows
        if len(chat.render([Message(role="user", content=question(e))], style="terse")) >= limit
    )


def too_long_rows(subject: Subject) -> Outcome:
    """How many rows of each part are too long for the model, and what becomes of them."""
    if subject.renders is None:
        return "the model isn't here: rung models --fetch NAME"
    ids, limit = subject.renders.context.too_long, subject.renders.context.limit
    parts = {
        name: [e for e in rows if e.id in ids]
        for name, rows in (
            ("training", subject.splits.train),
            ("dev", subject.splits.dev),
            ("test", subject.splits.test),
        )
    }
    found = [e for rows in parts.values() for e in rows]
    if not found:
        return []
    counts = ", ".join(f"{len(rows):,} {name}" for name, rows in parts.items() if rows)
    message = (
        f"rows longer than {limit:,} tokens with their prompt and answer: {counts}, {such_as(found)}; a "
        "language model neither learns from them nor answers them (counted as broken calls beside the "
        f"score); shorten the inputs{more_tokens(subject.renders.context.model)}"
    )
    return [finding("too_long", "warn", message, found)]
