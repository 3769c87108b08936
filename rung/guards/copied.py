"""Whether a System writes in an author's style or says its training texts again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rung.records import Example, Measurement
from rung.records.guarded import Copied
from rung.scoring import stats

NEAR = 0.8
"""Jaccard similarity of two texts' runs of five characters, from which on one is a copy of the other."""
FEWEST_CHARS = 30
"""Shorter texts are said again by chance."""
MOST = 0.05
AT_ONCE = 256


def copied(dev: Measurement, rows: Sequence[Example], train: Sequence[Example]) -> Copied | None:
    """How many of the answers are near-copies of a training row's output; None without an answer to look at.

    One whose row wants just that, its own output being as near to the same training text, is none. Case and
    spaces are folded. The interval of the share is Wilson's; `memorised` where it lies above MOST.
    """
    wanted = {e.id: _folded(str(e.output)) for e in rows}
    pairs = [
        (_folded(p.answer.text), wanted[p.example_id]) for p in dev.predictions if p.answer.failure is None
    ]
    if not pairs:
        return None
    known = [text for e in train if len(text := _folded(str(e.output))) >= FEWEST_CHARS]
    count = int(_copies(pairs, known).sum()) if known else 0
    interval = stats.wilson(count, len(pairs))
    return Copied(
        rows=len(pairs),
        count=count,
        share=count / len(pairs),
        low=interval.low,
        high=interval.high,
        memorised=interval.low > MOST,
    )


def _copies(pairs: Sequence[tuple[str, str]], known: Sequence[str]) -> np.ndarray:
    """Which of the (answer, wanted) pairs' answers are copies of a known text that isn't wanted [pairs]."""
    from sklearn.feature_extraction.text import CountVectorizer

    runs = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, lowercase=False)
    texts: Any = runs.fit_transform(known)
    sizes = np.asarray(texts.sum(axis=1)).ravel()
    found = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), AT_ONCE):
        part = pairs[start : start + AT_ONCE]
        near, fine = (_jaccard([pair[at] for pair in part], runs, texts, sizes) >= NEAR for at in (0, 1))
        long = np.array([len(answer) >= FEWEST_CHARS for answer, _ in part])
        found[start : start + len(part)] = (near & ~fine).any(axis=1) & long
    return found


def _jaccard(given: Sequence[str], runs, texts, sizes: np.ndarray) -> np.ndarray:
    """Similarity of each given text's runs to those of each known one [given, known]."""
    own = np.array([len({text[at : at + 5] for at in range(len(text) - 4)}) for text in given])
    shared = (runs.transform(given) @ texts.T).toarray()
    return shared / np.maximum(own[:, None] + sizes[None, :] - shared, 1)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
