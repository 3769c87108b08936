"""Rows as the model sees them, token by token."""

from rung.checks.data_report import ShownRow
from rung.checks.renders import Renders


def shown_rows(renders: Renders, count: int) -> tuple[ShownRow, ...]:
    """The first `count` rows in every form in which they may be learned."""
    chat = renders.context.pool.chat(renders.context.model)

    def text(token: int) -> str:
        known = chat.tokens.control.values()
        return chat.tokens.texts[token] if token in known else chat.tokens.decode([token])

    return tuple(
        ShownRow(
            where=row.where,
            form=form,
            prompt=tuple(map(text, made.prompt)),
            answer=tuple(map(text, made.answer)),
        )
        for place in range(min(count, len(renders.examples)))
        for form in renders.forms
        for row, made in (renders.rows(form)[place],)
    )
