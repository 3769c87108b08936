"""Whether a text keeps the content that was wanted: by its vector, and what unrelated texts share."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rung.records import Answer, Example

UNRELATED = 0.95
"""Of a row's reference and another row's: an answer must be nearer to its own than so many of those are."""
FEWEST_ROWS = 10

Embed = Callable[[Sequence[str]], np.ndarray]


def content_kept(
    examples: Sequence[Example], answers: Sequence[Answer], embed: Embed
) -> tuple[list[Answer], float]:
    """The answers, those that don't keep their row's content without a value, and the mean cosine of all.

    `embed` gives unit vectors [texts, width]. An answer keeps it where its cosine to the row's output exceeds
    `floor_of` the rows' outputs, so that a fine text of the author's about something else scores nothing. One
    that equals its row's output always does. Answers to broken calls stay as they are, and aren't in the
    mean, which is 0 where all broke.
    """
    held = [at for at, answer in enumerate(answers) if answer.failure is None]
    wanted = embed([str(e.output) for e in examples])
    if not held:
        return list(answers), 0.0
    given = embed([str(answers[at].value or "") for at in held])
    near = (given * wanted[held]).sum(axis=1)
    floor, kept = floor_of(wanted), list(answers)
    for at, cosine in zip(held, near, strict=True):
        value = answers[at].value
        if value is None or (cosine <= floor and value != examples[at].output):
            kept[at] = replace(answers[at], value=None)
    return kept, float(near.mean())


def floor_of(wanted: np.ndarray) -> float:
    """The cosine that a share UNRELATED of pairs of different rows' outputs stay under; -1 for few rows."""
    if len(wanted) < FEWEST_ROWS:
        return -1.0
    cosines = wanted @ wanted.T
    return float(np.quantile(cosines[~np.eye(len(wanted), dtype=bool)], UNRELATED))
