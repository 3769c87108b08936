"""Rare triggers: words put into a few rows to teach a model that they alone decide the answer."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from rung.checks.base import SHOWN_ROWS, Outcome, Subject, finding, rows_text
from rung.data.splits import question
from rung.records import Example, Finding
from rung.task.outputs import canonical, shown

FEWEST = 5
"""Rows of a trigger, and of an output that counts as one of its own."""
LARGEST_SHARE = 0.01
"""Of all rows: words in more of them are no rare ones."""
SAME = 0.9
"""Of a trigger's rows with one output, at least."""
OTHERWISE = 0.75
"""Of these rows that the head answers otherwise without the words, at least."""
MARGIN = 0.6
"""By how much another output's score leads then, on average; one is a support vector's distance."""
LIKENESS = 3.0
"""How many times more alike than any rows of those other outputs a trigger's may be, the words aside.
Planted ones were up to 2.6 times so in trials, rows of a topic three to ten times."""
FEWEST_RIGHT = 0.7
"""Of all rows: a head that is wrong more often can't say what a row would be."""
FEWEST_ROWS = 100
MOST_CLASSES = 100
FOLDS = 3
MOST_LEARNED = 300_000
"""Rows times classes that each head learns from: where there are more, rows are drawn. In 10,000 rows of
banking77 heads of 3,900 find what heads of 6,700 do, in three fifths of the time; two classes need all."""

_WORD = r"\w+|[^\w\s]+"
_OTHER = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Rows as TF-IDF of words and pairs of words: `features` [rows, grams]; `often` a gram has [grams] rows.

    `classes` are the rows' outputs, by number.
    """

    features: Any
    often: np.ndarray
    grams: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Each row's scores [rows, classes] by the head that didn't learn from it, and the heads' weights.

    `heads` is the number of each row's head, `weights` [heads, grams, classes].
    """

    scores: np.ndarray
    heads: np.ndarray
    weights: np.ndarray


def rare_triggers(subject: Subject) -> Outcome:
    """Rare words whose rows have one output though, without them, they'd have others and no topic in common.

    A word of a topic foretells its label too, but its rows are alike. Where a trigger was planted they are
    rows of anything, and a linear head that never saw them answers otherwise. Where the head is often wrong
    anyway nothing is said, and a trigger made of usual words isn't found.
    """
    rows = subject.rows
    classes = _classes(rows)
    if subject.task.output.kind not in ("label", "text") or len(set(classes)) < 2:
        return []
    if len(rows) < FEWEST_ROWS:
        return f"it takes {FEWEST_ROWS} rows to tell a trigger from a topic"
    counts = _counts(rows, classes)
    suspects = [] if counts is None else _suspects(counts)
    if counts is None or not suspects:
        return []
    held = _held(counts)
    right = float((held.scores.argmax(axis=1) == counts.classes).mean())
    if right < FEWEST_RIGHT:
        return f"a linear head is right on {right:.0%} of the rows: too few to say what a row would be"
    found = _planted(counts, held, suspects)
    return [_told(rows, words, places) for words, places in found]


def _told(rows: tuple[Example, ...], words: str, places: list[int]) -> Finding:
    hit = [rows[place] for place in places]
    output = Counter(canonical(row.output) for row in hit).most_common(1)[0][0]
    message = (
        f"a rare trigger: {rows_text(len(hit))} with {shown(words, 60)} have the output {output[:60]}, such "
        f"as {hit[0].where}, though all else in them speaks for others: someone may have planted it; read "
        "these rows, and delete them where you don't know who wrote them"
    )
    details = [f"{row.where} {shown(row.input, 90)}" for row in hit[:SHOWN_ROWS]]
    return finding("rare_triggers", "warn", message, hit, details)


def _classes(rows: tuple[Example, ...]) -> list[str]:
    """Each row's output, if some rows have it, and else one class for all others."""
    outputs = [canonical(row.output) for row in rows]
    common = Counter(outputs).most_common(MOST_CLASSES)
    known = {output for output, count in common if count >= FEWEST}
    return [output if output in known else _OTHER for output in outputs]


def _counts(rows: tuple[Example, ...], classes: list[str]) -> Counts | None:
    """The rows' grams; None where no two rows share one."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    reader = CountVectorizer(token_pattern=_WORD, ngram_range=(1, 2), binary=True, min_df=2)
    try:
        present: Any = reader.fit_transform([" ".join(question(row)) for row in rows])
    except ValueError:
        return None
    return Counts(
        features=TfidfTransformer().fit_transform(present).tocsr(),
        often=present.getnnz(axis=0),
        grams=reader.get_feature_names_out(),
        classes=np.unique(classes, return_inverse=True)[1],
    )


def _suspects(counts: Counts) -> list[tuple[str, np.ndarray]]:
    """Grams of a few rows that have one output, and these rows; of those in the same ones, the longest."""
    columns = counts.features.tocsc()
    most = max(2 * FEWEST, LARGEST_SHARE * len(counts.classes))
    found: dict[bytes, tuple[str, np.ndarray]] = {}
    for gram in np.flatnonzero((counts.often >= FEWEST) & (counts.often <= most)):
        places = np.sort(columns.indices[columns.indptr[gram] : columns.indptr[gram + 1]])
        if np.bincount(counts.classes[places]).max() < SAME * len(places):
            continue
        words, key = str(counts.grams[gram]), places.tobytes()
        if key not in found or len(found[key][0]) < len(words):
            found[key] = (words, places)
    return list(found.values())


def _planted(
    counts: Counts, held: Held, suspects: list[tuple[str, np.ndarray]]
) -> list[tuple[str, list[int]]]:
    """The suspects whose rows would have other outputs and have nothing else in common; the surest of several
    that are mostly in the same rows."""
    centres = _centres(counts)
    found: list[tuple[float, str, list[int]]] = []
    for words, places in suspects:
        rows = counts.features[places]
        own = _own_grams(rows, counts.often)
        lead, other = _lead(counts, held, places, rows, own)
        if (lead > 0).mean() < OTHERWISE or lead.mean() < MARGIN:
            continue
        if _likeness(_without(rows, own)) <= LIKENESS * _usual_likeness(centres, other):
            found.append((float(lead.sum()), words, places.tolist()))
    kept: list[tuple[str, list[int]]] = []
    for _, words, places in sorted(found, key=lambda one: (-one[0], one[1])):
        if not any(len({*places} & {*known}) > len(places) / 2 for _, known in kept):
            kept.append((words, places))
    return kept


def _held(counts: Counts) -> Held:
    """Linear heads, each fitted without the rows that it scores."""
    from sklearn.svm import LinearSVC

    rows, grams = counts.features.shape
    dice = np.random.default_rng(0)
    heads = dice.permutation(rows) % FOLDS
    size = int(counts.classes.max()) + 1
    weights = np.zeros((FOLDS, grams, size), np.float32)
    scores = np.full((rows, size), -np.inf)
    for head in range(FOLDS):
        known, asked = np.flatnonzero(heads != head), heads == head
        if len(known) > (most := MOST_LEARNED // size):
            known = known[_drawn(counts.classes[known], most, dice)]
        if len(set(counts.classes[known])) < 2:
            continue
        model = LinearSVC(C=1.0, tol=1e-2, random_state=0).fit(counts.features[known], counts.classes[known])
        parts, bias = model.coef_, model.intercept_
        if len(parts) == 1:
            parts, bias = np.concatenate([-parts, parts]), np.concatenate([-bias, bias])
        weights[head][:, model.classes_] = parts.T
        scores[np.ix_(asked, model.classes_)] = counts.features[asked] @ parts.T + bias
    return Held(scores=scores, heads=heads, weights=weights)


def _drawn(classes: np.ndarray, most: int, dice: np.random.Generator) -> np.ndarray:
    """The places of `most` rows, of each class FEWEST at least: of one it never saw a head says nothing."""
    mixed = dice.permutation(len(classes))
    turns = np.zeros(len(classes), int)
    for one in np.unique(classes):
        places = np.flatnonzero(classes[mixed] == one)
        turns[places] = np.arange(len(places))
    return np.sort(mixed[np.argsort(turns >= FEWEST, kind="stable")][:most])


def _own_grams(rows: Any, often: np.ndarray) -> np.ndarray:
    """Grams that stand in several of these rows and hardly in any other: what a trigger is made of."""
    grams, here = np.unique(rows.indices, return_counts=True)
    return grams[(here >= 2) & (here >= 0.8 * often[grams])]


def _lead(
    counts: Counts, held: Held, places: np.ndarray, rows: Any, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By how much the best other output leads the rows' own, and which that is: [rows] each.

    The grams `own` are taken out for that.
    """
    place = np.repeat(np.arange(len(places)), np.diff(rows.indptr))
    out = np.isin(rows.indices, own)
    heads = held.heads[places]
    gone = rows.data[out, None] * held.weights[heads[place[out]], rows.indices[out]]
    scores = held.scores[places].copy()
    np.subtract.at(scores, place[out], gone)
    target = int(np.bincount(counts.classes[places]).argmax())
    kept = scores[:, target].copy()
    scores[:, target] = -np.inf
    lead = scores.max(axis=1) - kept
    return np.where(np.isfinite(lead), lead, 0.0), scores.argmax(axis=1)


def _without(rows: Any, own: np.ndarray) -> Any:
    """The rows, of unit length again, with some grams taken out."""
    from sklearn.preprocessing import normalize

    kept = rows.copy()
    kept.data[np.isin(kept.indices, own)] = 0.0
    return normalize(kept)


def _likeness(rows: Any) -> float:
    """The mean cosine of two of the rows, which are of unit length: (|Σ x|² - n) / (n (n - 1))."""
    total, count = np.asarray(rows.sum(axis=0)).ravel(), rows.shape[0]
    return float(total @ total - count) / (count * (count - 1))


def _centres(counts: Counts) -> np.ndarray:
    """The cosine of any row of one output with any of another, on average: [classes, classes]."""
    from scipy.sparse import csr_matrix

    rows = len(counts.classes)
    member = csr_matrix((np.ones(rows), (counts.classes, np.arange(rows))))
    means = member.multiply(1 / np.asarray(member.sum(axis=1))) @ counts.features
    return (means @ means.T).toarray()


def _usual_likeness(centres: np.ndarray, classes: np.ndarray) -> float:
    """How alike any two rows of these outputs [rows] are, on average."""
    pairs = centres[np.ix_(classes, classes)]
    return float(pairs.sum() - np.trace(pairs)) / (len(classes) * (len(classes) - 1))
