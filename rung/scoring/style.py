"""How well texts pass for an author's: what a classifier that tells them from the author's own makes of each.

The classifier sees runs of one to four characters, with weights by how rare they are, and never the rows that
it judges. Output and reference of a row are judged by the same one and cut to the same length, so that
neither content nor length gives an output away.
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
_SEED = 0
_FEATURES = 30_000
_KEPT = 32


def placements(answers: Sequence[Json], targets: Sequence[Json]) -> "tuple[Codes, Codes]":
    """For each row what it gives to the share of pairs in which an answer looks more like the author [rows].

    That is the placement of its answer among the author's texts, and that of its author's text among the
    answers, less the mean of all; half of those that look alike are counted. 1 less the mean is the area
    under the classifier's ROC curve, averaged over the folds (Hanley & McNeil 1982; placement values of both
    sides, which its variance needs: DeLong et al. 1988). Where the texts can't be told from the author's the
    mean is one half. An answer that is None or empty has 0, as have all where there are too few rows to learn
    from. The second array says nothing: the first one has it all.
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
    pairs = [matched(answers[at], targets[at]) for at in whole]
    order = np.random.default_rng(_SEED).permutation(len(whole))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        learned = np.setdiff1d(order, held)
        looks = _likeness([pairs[at] for at in learned], [pairs[at] for at in held])
        outputs, authors = looks[:, 0], looks[:, 1]
        less = (authors[None, :] < outputs[:, None]) + (authors[None, :] == outputs[:, None]) / 2
        # Both texts of a row vary from row to row: what either gives to the area stands with the row.
        found[np.array(whole)[held]] = less.mean(1) + less.mean(0) - less.mean()
    return tuple(found.tolist())


def _likeness(learned: Sequence[tuple[str, str]], held: Sequence[tuple[str, str]]) -> "Codes":
    """How much each held text looks like the author's [rows, (output, reference)], by other pairs."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [text for pair in learned for text in pair]
    vectors = TfidfVectorizer(
        analyzer="char", ngram_range=(1, 4), lowercase=False, sublinear_tf=True, max_features=_FEATURES
    )
    known = vectors.fit_transform(texts)
    model = LogisticRegression(C=10.0, solver="liblinear", random_state=_SEED)
    model.fit(known, np.tile([0, 1], len(learned)))
    asked = vectors.transform([text for pair in held for text in pair])
    # Rounded, so that equal texts tie whatever the order of sums.
    return np.round(model.decision_function(asked), 9).reshape(-1, 2)
