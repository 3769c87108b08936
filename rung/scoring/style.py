"""How well texts pass for an author's: what a classifier that tells them from the author's own makes of each.

The classifier sees runs of one to four characters, with weights by how rare they are, and never the rows that
it judges. Output and reference of a row are judged by the same one and cut to the same length, so that
neither content nor length gives an output away. Which rows it learns from is drawn several times.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.records import Json

if TYPE_CHECKING:
    import numpy as np

    Codes: TypeAlias = np.ndarray[Any, np.dtype[Any]]

FOLDS = 5
FEWEST_ROWS = 10
JUDGED_ROWS, MOST_DRAWS = 3000, 20
"""Folds are drawn as often as it takes to judge so many rows in all. A score wavers the less by the draw the
more rows it is of, so that few rows need many draws and many rows, of which each draw takes longer, few."""
_SEED = 0
_FEATURES = 30_000
_KEPT = 32


def placements(answers: Sequence[Json], targets: Sequence[Json]) -> "tuple[Codes, Codes]":
    """For each row what it gives to the share of pairs in which an answer looks more like the author [rows].

    That is the placement of its answer among the author's texts, and that of its author's text among the
    answers, less the mean of all; half of those that look alike are counted. 1 less the mean is the area
    under the classifier's ROC curve, averaged over the folds (Hanley & McNeil 1982; placement values of both
    sides, which its variance needs: DeLong et al. 1988) and over the draws of folds. Where the texts can't be
    told from the author's the mean is one half. An answer that is None or empty has 0, as have all where
    there are too few rows to learn from. The second array says nothing: the first one has it all.
    """
    import numpy as np

    texts = tuple("" if answer is None else str(answer) for answer in answers)
    return np.array(_placed(texts, tuple(map(str, targets)))), np.zeros(len(texts))


def passing(places: "Codes", _: "Codes") -> float:
    """Twice the mean placement, 1 at most: 1 where texts pass for the author's, 0 where none does.

    That is 2 (1 - AUC) for an area under the ROC curve of one half or more.
    """
    return min(1.0, 2.0 * float(places.mean()))


def matched(answer: str, target: str) -> tuple[str, str]:
    """Both texts cut to the words of the shorter one."""
    first, second = answer.split(), target.split()
    size = min(len(first), len(second))
    return " ".join(first[:size]), " ".join(second[:size])


def draws(rows: int) -> int:
    """How often folds are drawn for so many rows."""
    return min(MOST_DRAWS, -(-JUDGED_ROWS // rows))


@lru_cache(maxsize=_KEPT)
def _placed(answers: tuple[str, ...], targets: tuple[str, ...]) -> tuple[float, ...]:
    """`placements` of texts; kept, because a score, its interval and each comparison ask for the same."""
    import numpy as np

    found = np.zeros(len(answers))
    whole = [at for at, pair in enumerate(zip(answers, targets, strict=True)) if all(map(str.strip, pair))]
    if len(whole) < FEWEST_ROWS:
        same = [answers[at].split() == targets[at].split() for at in whole]
        found[whole] = [0.5 if one else 0.0 for one in same]
        return tuple(found.tolist())
    # The folds go by the texts: a score hangs on no order of rows, and a gain is of the folds of its scores.
    whole.sort(key=lambda at: (targets[at], answers[at]))
    counts = _counts([matched(answers[at], targets[at]) for at in whole])
    dice, places, times = np.random.default_rng(_SEED), np.zeros(len(whole)), draws(len(whole))
    for _ in range(times):
        order = dice.permutation(len(whole))
        for fold in range(FOLDS):
            held = order[fold::FOLDS]
            looks = _likeness(counts, np.setdiff1d(order, held), held)
            outputs, authors = looks[:, 0], looks[:, 1]
            less = (authors[None, :] < outputs[:, None]) + (authors[None, :] == outputs[:, None]) / 2
            # Both texts of a row vary from row to row: what either gives to the area stands with the row.
            places[held] += less.mean(1) + less.mean(0) - less.mean()
    found[whole] = places / times
    return tuple(found.tolist())


def _counts(pairs: Sequence[tuple[str, str]]) -> Any:
    """How often each run of characters stands in each text, a row's two one after the other [texts, runs].

    Counted once for all folds: each takes the weights from the rows that it learns from alone.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    runs = CountVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False)
    return runs.fit_transform([text for pair in pairs for text in pair])


def _likeness(counts: Any, learned: "Codes", held: "Codes") -> "Codes":
    """How much each held text looks like the author's [rows, (output, reference)], by other rows."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    known, asked = (counts[np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()] for rows in (learned, held))
    often = np.asarray(known.sum(axis=0)).ravel()
    most = np.sort(np.argsort(-often, kind="stable")[: min(_FEATURES, np.count_nonzero(often))])
    known = known[:, most]
    weights = TfidfTransformer(sublinear_tf=True).fit(known)
    model = LogisticRegression(C=10.0, solver="liblinear", random_state=_SEED)
    model.fit(weights.transform(known), np.tile([0, 1], len(learned)))
    # Rounded, so that equal texts tie whatever the order of sums.
    return np.round(model.decision_function(weights.transform(asked[:, most])), 9).reshape(-1, 2)
