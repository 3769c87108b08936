"""The dev rows on which the rungs' answers differ in score; test rows stay unseen."""

from collections.abc import Iterator, Sequence

from rung.records import Disagreement, Example, RungResult

ANSWERS_SHOWN = 30


def disagreements(results: Sequence[RungResult], dev: Sequence[Example]) -> Iterator[Disagreement]:
    """The first of them, with the answers of all rungs that were asked."""
    measured = [(r.rung, {p.example_id: p for p in r.dev.predictions}) for r in results if r.dev is not None]
    shown = 0
    for example in dev:
        found = [(name, table[example.id]) for name, table in measured if example.id in table]
        if len({p.score for _, p in found}) < 2:
            continue
        shown += 1
        yield Disagreement(
            where=example.where,
            input=example.input,
            target=example.output,
            answers=tuple((name, p.answer.text, p.score) for name, p in found),
        )
        if shown == ANSWERS_SHOWN:
            return
