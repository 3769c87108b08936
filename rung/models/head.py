"""Linear heads: MiniLM vectors or TF-IDF counts, one linear layer; labels with probabilities, or a number."""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from rung.records import Answer

HEAD_FILE = "head.safetensors"
VOCABULARY_FILE = "vocabulary.json"
TFIDF_BLOCKS = (("word", (1, 2)), ("char_wb", (2, 5)))

Features = Literal["minilm", "tfidf", "both"]
VECTOR_WEIGHT = 2.0
"""How much a sentence vector weighs beside the two TF-IDF blocks, which have length 1 each too."""
MANY_TEXTS = 4000
"""From so many on, n-grams that only one text has are left out: half of the head's size. With 4,000 rows of
banking77, trec_coarse, glue_sst2 and sms_spam, two seeds each, accuracy gains .3 points (-.6 to 1.0), with
2,000 it loses as much."""
MOST_DECIMALS, RANGE_DIGITS = 6, 4
TOLERANCE = 1e-2
"""Of the linear SVM. It gives 99.9 % of the answers that 1e-4 gives, in six to nine tenths of the time
(banking77, trec_coarse, sms_spam; 1,000 to 10,000 rows); 1e-1 changes up to .4 % of them."""
Embed: TypeAlias = Callable[[list[str]], np.ndarray]
"""Texts to unit vectors [texts, width]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """The numbers that a head gives: from `low` to `high`, with so many decimals, as the training rows'."""

    low: float
    high: float
    decimals: int

    def nearest(self, value: float) -> int | float:
        """The number of these that is nearest to a value: a whole one is an int."""
        found = round(min(max(value, self.low), self.high), self.decimals)
        return int(found) if self.decimals == 0 else found


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """weights [classes, width], bias [classes]; class probabilities are softmax(temperature × (w x + b)).

    `temperature` multiplies the scores (an inverse temperature), fitted on held-out rows. `vocabularies`
    and `idf` describe the TF-IDF blocks; both are empty for MiniLM. A head with `numbers` has no labels and
    one row of weights: w x + b is the number.
    """

    features: Features
    labels: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray
    temperature: float = 1.0
    vocabularies: tuple[tuple[str, ...], ...] = ()
    idf: tuple[np.ndarray, ...] = ()
    numbers: Numbers | None = None

    def scores(self, texts: Sequence[str], embed: Embed) -> np.ndarray:
        """Unnormalised class scores [texts, classes]; `embed` is asked where sentence vectors are needed."""
        return np.asarray(self.matrix(texts, embed) @ self.weights.T) + self.bias

    def matrix(self, texts: Sequence[str], embed: Embed):
        """Features [texts, width]: dense for MiniLM, sparse for TF-IDF and for both side by side."""
        if self.features == "minilm":
            return embed(list(texts))
        blocks = [vectorizer.transform(texts) for vectorizer in self._vectorizers]
        return _beside(blocks, embed(list(texts)) if self.features == "both" else None)

    def probabilities(self, texts: Sequence[str], embed: Embed) -> np.ndarray:
        """Class probabilities [texts, classes]."""
        return softmax(self.scores(texts, embed) * self.temperature)

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays and the vocabularies; an embedder's weights come on top."""
        arrays = sum(array.nbytes for array in (self.weights, self.bias, *self.idf))
        words = sum(
            sys.getsizeof(dict.fromkeys(block)) + sum(map(sys.getsizeof, block))
            for block in self.vocabularies
        )
        return arrays + words

    @cached_property
    def _vectorizers(self) -> list:
        """Made once: a vocabulary of 100,000 n-grams takes longer to index than a text to count."""
        made = []
        for (analyzer, grams), words, idf in zip(TFIDF_BLOCKS, self.vocabularies, self.idf, strict=True):
            vectorizer = _vectorizer(analyzer, grams, vocabulary={w: i for i, w in enumerate(words)})
            vectorizer.idf_ = idf
            made.append(vectorizer)
        return made


def softmax(scores: np.ndarray) -> np.ndarray:
    """Row-wise softmax of [rows, classes]."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def fit_minilm(vectors: np.ndarray, targets: Sequence[str], c: float) -> Head:
    """Multinomial logistic regression on unit vectors [rows, 384]; `c` is the inverse L2 strength."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=2000).fit(vectors, list(targets))
    return _head("minilm", model)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Texts as TF-IDF blocks, counted once for all the heads that are fitted on them.

    `blocks` are sparse [texts, n-grams], one for each of TFIDF_BLOCKS.
    """

    blocks: list
    vocabularies: tuple[tuple[str, ...], ...]
    idf: tuple[np.ndarray, ...]


def counted(texts: Sequence[str]) -> Counts:
    """Word 1–2-grams and in-word character 2–5-grams, each weighted by TF-IDF.

    Raises ValueError where no text holds a word.
    """
    fewest = 2 if len(texts) >= MANY_TEXTS else 1
    vectorizers = [_vectorizer(analyzer, grams, fewest=fewest) for analyzer, grams in TFIDF_BLOCKS]
    return Counts(
        blocks=[v.fit_transform(texts) for v in vectorizers],
        vocabularies=tuple(tuple(str(w) for w in v.get_feature_names_out()) for v in vectorizers),
        idf=tuple(np.asarray(v.idf_, dtype=np.float64) for v in vectorizers),
    )


def fit_tfidf(
    counts: Counts, targets: Sequence[str], c: float, seed: int, vectors: np.ndarray | None = None
) -> Head:
    """Linear SVM on TF-IDF counts; `c` is the inverse L2 strength.

    With `vectors` [rows, width], the texts' sentence vectors stand beside the counts: each sees errors
    that the other makes.
    """
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=c, random_state=seed, max_iter=5000, tol=TOLERANCE)
    model.fit(_beside(counts.blocks, vectors), list(targets))
    fitted = _head("tfidf" if vectors is None else "both", model)
    return replace(fitted, vocabularies=counts.vocabularies, idf=counts.idf)


def fit_ridge(
    features: Features,
    counts: Counts | None,
    vectors: np.ndarray | None,
    targets: Sequence[float],
    alpha: float,
) -> Head:
    """Ridge regression of numbers on the features; `alpha` is the L2 strength.

    `counts` are needed but for MiniLM alone, `vectors` [rows, width] but for TF-IDF alone. Raises ValueError
    where all targets are one number.
    """
    from sklearn.linear_model import Ridge

    if len(set(targets)) < 2:
        raise ValueError("all rows have one and the same number")
    if counts is None:
        assert vectors is not None, "features of one kind at least"
        model = Ridge(alpha=alpha).fit(vectors, targets)
    else:
        model = Ridge(alpha=alpha).fit(_beside(counts.blocks, vectors), targets)
    return Head(
        features=features,
        labels=(),
        weights=np.asarray(model.coef_).reshape(1, -1),
        bias=np.asarray(model.intercept_).reshape(1),
        vocabularies=() if counts is None else counts.vocabularies,
        idf=() if counts is None else counts.idf,
        numbers=numbers_like(targets),
    )


def numbers_like(targets: Sequence[float]) -> Numbers:
    """Their range, and the most decimals that one of them has, up to MOST_DECIMALS.

    Of small numbers up to as many as show RANGE_DIGITS digits of their range.
    """
    decimals = (np.format_float_positional(t, trim="-").partition(".")[2] for t in map(float, targets))
    low, high = float(min(targets)), float(max(targets))
    span = high - low
    most = math.ceil(RANGE_DIGITS - math.log10(span)) if 0 < span < math.inf else 0
    return Numbers(low=low, high=high, decimals=min(max(MOST_DECIMALS, most), max(map(len, decimals))))


def calibrated(head: Head, scores: np.ndarray, targets: Sequence[str]) -> Head:
    """The head with the temperature that minimises the log-loss of held-out scores [rows, classes].

    One-parameter temperature scaling (Guo et al. 2017); the ranking of the classes doesn't change.
    Rows of unknown classes are left out.
    """
    from scipy.optimize import minimize_scalar

    index = {label: i for i, label in enumerate(head.labels)}
    known = [(i, index[t]) for i, t in enumerate(targets) if t in index]
    if not known:
        return head
    rows, columns = (np.array(x) for x in zip(*known, strict=True))

    def loss(log_temperature: float) -> float:
        chosen = softmax(scores[rows] * np.exp(log_temperature))[np.arange(len(rows)), columns]
        return float(-np.log(np.clip(chosen, 1e-12, None)).mean())

    best = minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded")
    return replace(head, temperature=float(np.exp(best.x)))


def head_files(head: Head) -> dict[str, str | bytes]:
    """The head as the files of a System: arrays as safetensors (fp32, idf fp64), vocabularies as JSON."""
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {
        "weights": np.ascontiguousarray(head.weights, dtype=np.float32),
        "bias": np.ascontiguousarray(head.bias, dtype=np.float32),
        "temperature": np.array([head.temperature], dtype=np.float32),
    }
    arrays |= {f"idf.{i}": np.ascontiguousarray(idf) for i, idf in enumerate(head.idf)}
    if (given := head.numbers) is not None:
        arrays["numbers"] = np.array([given.low, given.high, given.decimals], dtype=np.float64)
    files: dict[str, str | bytes] = {HEAD_FILE: save(arrays)}
    if head.vocabularies:
        files[VOCABULARY_FILE] = json.dumps(head.vocabularies, ensure_ascii=False)
    return files


def load_head(folder: Path, features: Features, labels: Sequence[str]) -> Head:
    """Read a head back from its System's folder."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / HEAD_FILE)
    words: list[list[str]] = []
    if features != "minilm":
        words = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
    return Head(
        features=features,
        labels=tuple(labels),
        weights=arrays["weights"],
        bias=arrays["bias"],
        temperature=float(arrays["temperature"][0]),
        vocabularies=tuple(map(tuple, words)),
        idf=tuple(arrays[f"idf.{i}"] for i in range(len(words))),
        numbers=_numbers(arrays["numbers"]) if "numbers" in arrays else None,
    )


def _numbers(kept: np.ndarray) -> Numbers:
    low, high, decimals = kept.tolist()
    return Numbers(low=low, high=high, decimals=int(decimals))


def answers(head: Head, texts: Sequence[str], embed: Embed) -> list[Answer]:
    """The likeliest label of each text, with the probabilities of the five likeliest, and of all of them.

    Of a head with `numbers` the number of each text.
    """
    start = time.perf_counter()
    if head.numbers is not None:
        values = [head.numbers.nearest(float(x)) for x in head.scores(texts, embed)[:, 0]]
        seconds = (time.perf_counter() - start) / max(1, len(texts))
        return [Answer(text=json.dumps(x), value=x, latency_s=seconds) for x in values]
    table = head.probabilities(texts, embed)
    seconds = (time.perf_counter() - start) / max(1, len(texts))
    found = []
    for row in table:
        order = np.argsort(-row, kind="stable")[:5]
        label = head.labels[order[0]]
        found.append(
            Answer(
                text=label,
                value=label,
                probability=float(row[order[0]]),
                options=tuple((head.labels[i], float(row[i])) for i in order),
                latency_s=seconds,
                distribution=tuple(row.tolist()),
            )
        )
    return found


def _head(features: Features, model) -> Head:
    weights, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(model.classes_) == 2:
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    labels = tuple(str(c) for c in model.classes_)
    return Head(features=features, labels=labels, weights=weights, bias=bias)


def _beside(blocks: list, vectors: np.ndarray | None):
    """TF-IDF blocks and weighted sentence vectors as one sparse matrix [rows, width]."""
    from scipy.sparse import csr_matrix, hstack

    dense = [] if vectors is None else [csr_matrix(VECTOR_WEIGHT * vectors)]
    return hstack([*blocks, *dense]).tocsr()


def _vectorizer(
    analyzer: str, grams: tuple[int, int], vocabulary: dict[str, int] | None = None, fewest: int = 1
):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=grams,
        sublinear_tf=True,
        vocabulary=vocabulary,
        lowercase=True,
        min_df=fewest,
    )
