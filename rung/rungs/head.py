"""The cheapest rung: no language model, a linear layer on sentence vectors or on TF-IDF counts."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from rung.errors import TrainingError
from rung.evaluate import VECTORS_FOLDER, timed_s
from rung.models import head as heads
from rung.models.head import Counts, Features
from rung.models.head import Head as LinearHead
from rung.records import Example
from rung.rungs.base import Built, Context, Outlook, Variant, slug
from rung.rungs.variants import choose
from rung.spec import Spec
from rung.system import save
from rung.task import Task
from rung.wording import embedded_text

Strengths: TypeAlias = Mapping[Features, Sequence[float]]

KINDS = ("label", "number")
REGULARISATION: Strengths = {"tfidf": (0.3, 1.0), "minilm": (1.0, 10.0), "both": (0.3, 1.0)}
"""Inverse L2 strengths tried for each kind of features, the quickest kind first."""
RIDGE: Strengths = {"tfidf": (0.3, 3.0), "minilm": (0.3, 3.0), "both": (0.3, 3.0)}
"""L2 strengths of a regression, for numbers."""
TEXTS = {"minilm": "MiniLM", "tfidf": "TF-IDF", "both": "MiniLM and TF-IDF"}
PILOT_ROWS, WARM_ROWS = 512, 8
GROWTH: Mapping[Features, float] = {"tfidf": 1.08, "minilm": 0.6, "both": 1.08}
"""The power of the rows that a fit's time grows with, from 512 to 10,003 of banking77 and alike on two more
sets: counts of many rows fall out of the processor's caches, a logistic regression needs fewer rounds."""

T = TypeVar("T")


class Head:
    """TF-IDF with a linear SVM, MiniLM vectors with logistic regression, and both side by side.

    For numbers a ridge regression on the same features.
    """

    name = "head"
    model_free: Literal[True] = True

    def embeds(self, task: Task) -> bool:
        """Two of its three kinds of features hold sentence vectors."""
        return task.output.kind in KINDS

    def skip(self, context: Context) -> str | None:
        """A head can only choose among labels that it has seen, or give a number."""
        if context.kind not in KINDS:
            return f"a linear head gives labels or numbers; the output is {context.kind}"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By the vectors of some training rows, and a fit of each variant on them."""
        rows = context.train[:PILOT_ROWS]
        texts, strengths = [embedded_text(e) for e in rows], _strengths(context)
        context.pool.embedder.embed(texts[:WARM_ROWS])
        embed_s, vectors = _seconds(lambda: context.pool.embedder.embed(texts))
        alone_s, _ = _seconds(lambda: context.pool.embedder.embed(texts[:1]))
        try:
            fit = functools.partial(_fit, context, rows, lambda: heads.counted(texts), lambda: vectors)
            fit("tfidf", 1.0)  # waits for what is loaded
            count_s, counts = _seconds(lambda: heads.counted(texts))
            fit = functools.partial(_fit, context, rows, lambda: counts, lambda: vectors)
            fit_s: dict[Features, float] = {
                name: sum(_seconds(functools.partial(fit, name, c))[0] for c in cs)
                * (len(context.train) / len(rows)) ** GROWTH[name]
                for name, cs in strengths.items()
            }
        except ValueError:
            return None  # no words to count, or one label alone among these rows
        counting_s = count_s * len(context.train) / len(rows)
        row_s = embed_s / len(rows)
        asked = sum(len(cs) for name, cs in strengths.items() if name != "tfidf")
        embedded = _to_embed(context, context.train) + _to_embed(context, context.dev)
        embedding_s = row_s * (embedded + asked * len(context.dev))
        whole = sum(fit_s.values()) + counting_s + embedding_s + timed_s(alone_s)
        least = min(seconds / len(strengths[name]) for name, seconds in fit_s.items())
        whole = min(whole, max(least, context.seconds_left))
        return Outlook(seconds=whole, low_s=whole, high_s=whole, least_s=least)

    def build(self, context: Context) -> Built:
        """Fit every variant on the training rows, calibrate labels on dev, and keep the best on dev.

        Raises TrainingError where none can be fitted, as on rows of one label.
        """
        return fitted(context, self.name)


def fitted(context: Context, rung: str) -> Built:
    """The best head on dev of the context's training rows, as a rung's System; raises as `Head.build`."""
    variants: list[Variant] = []
    late: list[str] = []
    for name, head, dev_scores in _fitted(context, late):
        if context.kind == "label":
            head = heads.calibrated(head, dev_scores, [str(e.output) for e in context.dev])
        variants.append(_variant(context, name, head, rung))
    if not variants:
        raise TrainingError("; ".join(late))
    chosen, trials, notes = choose(context, variants, screen=None)
    return Built(system=chosen.system, what=chosen.name, trials=trials, notes=(*late, *notes))


def _to_embed(context: Context, rows: Sequence[Example]) -> int:
    """How many of the rows have no vectors in the run's folder: as a rule the checks made those of all."""
    folder = context.bench.store.folder.parent / VECTORS_FOLDER
    return context.pool.embedder.missing([embedded_text(e) for e in rows], folder)


def _seconds(call: Callable[[], T]) -> tuple[float, T]:
    """How long a call took, and what it gave."""
    start = time.perf_counter()
    given = call()
    return time.perf_counter() - start, given


def _fitted(context: Context, late: list[str]) -> Iterator[tuple[str, LinearHead, np.ndarray]]:
    """Every variant's name, head and dev scores [rows, classes]; `late` names what there was no time for."""
    texts = [embedded_text(e) for e in context.train]
    dev = [embedded_text(e) for e in context.dev]
    counts = functools.cache(lambda: heads.counted(texts))
    known = functools.cache(lambda: context.vectors(context.train))
    asked = functools.cache(lambda: context.vectors(context.dev))
    some = False
    for features, strengths in _strengths(context).items():
        for c in strengths:
            name = _name(context, features, c)
            if some and not context.in_time(f"fitting {name}"):
                late.append(f"{name}: not fitted, the rung's share of the budget was used up")
                continue
            try:
                fitted = _fit(context, context.train, counts, known, features, c)
            except ValueError as error:
                # Texts of single characters or emoji alone hold no words to count; one label is no choice.
                late.append(f"{name}: left out, {error}")
                continue
            some = True
            yield name, fitted, fitted.scores(dev, lambda _: asked())


def _strengths(context: Context) -> Strengths:
    return REGULARISATION if context.kind == "label" else RIDGE


def _name(context: Context, features: Features, strength: float) -> str:
    """What a variant is called."""
    if context.kind == "number":
        return f"{TEXTS[features]} + ridge regression, alpha = {strength:g}"
    layer = "logistic regression" if features == "minilm" else "linear SVM"
    return f"{TEXTS[features]} + {layer}, C = {strength:g}"


def _fit(
    context: Context,
    rows: Sequence[Example],
    counts: Callable[[], Counts],
    vectors: Callable[[], np.ndarray],
    features: Features,
    strength: float,
) -> LinearHead:
    """A head on the rows, of which `counts` and `vectors` are made where they're needed.

    Raises ValueError where there are no words to count, or nothing to tell apart.
    """
    beside = None if features == "tfidf" else vectors()
    if context.kind == "number":
        targets = [float(e.output) for e in rows if isinstance(e.output, (int, float))]
        counted = None if features == "minilm" else counts()
        return heads.fit_ridge(features, counted, beside, targets, strength)
    labels = [str(e.output) for e in rows]
    if features == "minilm":
        assert beside is not None, "vectors are made of every row"
        return heads.fit_minilm(beside, labels, strength)
    return heads.fit_tfidf(counts(), labels, strength, context.seed, beside)


def _variant(context: Context, name: str, head: LinearHead, rung: str) -> Variant:
    spec = Spec(
        rung=rung,
        task=context.task.name,
        kind=context.kind,
        labels=head.labels,
        engine="head",
        features=head.features,
        vectors=None if head.features == "tfidf" else context.vectors_ref,
    )
    return Variant(name=name, system=save(context.work / slug(name), spec, heads.head_files(head)))
