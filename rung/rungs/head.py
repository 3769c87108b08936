"""The cheapest rung: no language model, a linear layer on sentence vectors or on TF-IDF counts."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import numpy as np

from rung.errors import TrainingError
from rung.models import head as heads
from rung.models.head import Head as LinearHead
from rung.rungs.base import Built, Context, Outlook, Variant, slug
from rung.rungs.variants import choose
from rung.spec import Spec
from rung.system import save
from rung.task import Task
from rung.wording import embedded_text

REGULARISATION = {"tfidf": (0.3, 1.0), "minilm": (1.0, 10.0), "both": (0.3, 1.0)}
"""Inverse L2 strengths tried for each kind of features, the quickest kind first."""
SHOWN = {
    "minilm": "MiniLM + logistic regression",
    "tfidf": "TF-IDF + linear SVM",
    "both": "MiniLM and TF-IDF + linear SVM",
}
PILOT_ROWS, WARM_ROWS = 512, 8
GROWTH = {"tfidf": 1.08, "minilm": 0.6, "both": 1.08}
"""The power of the rows that a fit's time grows with, from 512 to 10,003 of banking77 and alike on two more
sets: counts of many rows fall out of the processor's caches, a logistic regression needs fewer rounds."""

T = TypeVar("T")


class Head:
    """TF-IDF with a linear SVM, MiniLM vectors with logistic regression, and both side by side."""

    name = "head"
    model_free: Literal[True] = True

    def embeds(self, task: Task) -> bool:
        """Two of its three kinds of features hold sentence vectors."""
        return task.output.kind == "label"

    def skip(self, context: Context) -> str | None:
        """A head can only choose among labels that it has seen."""
        if context.kind != "label":
            return f"a linear head chooses among labels; the output is {context.kind}"
        return None

    def outlook(self, context: Context) -> Outlook | None:
        """By the vectors of some training rows, and a fit of each variant on them."""
        rows = context.train[:PILOT_ROWS]
        texts, targets = [embedded_text(e) for e in rows], [str(e.output) for e in rows]
        context.pool.embedder.embed(texts[:WARM_ROWS])
        embed_s, vectors = _seconds(lambda: context.pool.embedder.embed(texts))
        try:
            heads.fit_tfidf(heads.counted(texts), targets, 1.0, context.seed)  # waits for what is loaded
            count_s, counts = _seconds(lambda: heads.counted(texts))
            fits = {
                "minilm": lambda c: heads.fit_minilm(vectors, targets, c),
                "tfidf": lambda c: heads.fit_tfidf(counts, targets, c, context.seed),
                "both": lambda c: heads.fit_tfidf(counts, targets, c, context.seed, vectors),
            }
            fit_s = {
                name: sum(_seconds(functools.partial(fits[name], c))[0] for c in cs)
                * (len(context.train) / len(rows)) ** GROWTH[name]
                for name, cs in REGULARISATION.items()
            }
        except ValueError:
            return None  # no words to count, or one label alone among these rows
        counting_s = count_s * len(context.train) / len(rows)
        row_s = embed_s / len(rows)
        asked = sum(len(cs) for name, cs in REGULARISATION.items() if name != "tfidf")
        whole = (
            sum(fit_s.values()) + counting_s + row_s * (len(context.train) + (1 + asked) * len(context.dev))
        )
        least = min(seconds / len(REGULARISATION[name]) for name, seconds in fit_s.items())
        whole = min(whole, max(least, context.seconds_left))
        return Outlook(seconds=whole, low_s=whole, high_s=whole, least_s=least)

    def build(self, context: Context) -> Built:
        """Fit every variant on the training rows, calibrate it on dev, and keep the best on dev.

        Raises TrainingError where none can be fitted, as on rows of one label.
        """
        variants: list[Variant] = []
        late: list[str] = []
        for name, fitted, dev_scores in _fitted(context, late):
            ready = heads.calibrated(fitted, dev_scores, [str(e.output) for e in context.dev])
            variants.append(_variant(context, name, ready))
        if not variants:
            raise TrainingError("; ".join(late))
        chosen, trials, notes = choose(context, variants, screen=None)
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=(*late, *notes))


def _seconds(call: Callable[[], T]) -> tuple[float, T]:
    """How long a call took, and what it gave."""
    start = time.perf_counter()
    given = call()
    return time.perf_counter() - start, given


def _fitted(context: Context, late: list[str]) -> Iterator[tuple[str, LinearHead, np.ndarray]]:
    """Every variant's name, head and dev scores [rows, classes]; `late` names what there was no time for."""
    texts = [embedded_text(e) for e in context.train]
    dev = [embedded_text(e) for e in context.dev]
    targets = [str(e.output) for e in context.train]
    counts = functools.cache(lambda: heads.counted(texts))
    known = functools.cache(lambda: context.vectors(context.train))
    asked = functools.cache(lambda: context.vectors(context.dev))
    some = False
    for features, strengths in REGULARISATION.items():
        for c in strengths:
            name = f"{SHOWN[features]}, C = {c:g}"
            if some and not context.in_time(f"fitting {name}"):
                late.append(f"{name}: not fitted, the rung's share of the budget was used up")
                continue
            try:
                if features == "minilm":
                    fitted = heads.fit_minilm(known(), targets, c)
                else:
                    beside = known() if features == "both" else None
                    fitted = heads.fit_tfidf(counts(), targets, c, context.seed, beside)
            except ValueError as error:
                # Texts of single characters or emoji alone hold no words to count; one label is no choice.
                late.append(f"{name}: left out, {error}")
                continue
            some = True
            yield name, fitted, fitted.scores(dev, lambda _: asked())


def _variant(context: Context, name: str, head: LinearHead) -> Variant:
    spec = Spec(
        rung="head",
        task=context.task.name,
        kind="label",
        labels=head.labels,
        engine="head",
        features=head.features,
        vectors=None if head.features == "tfidf" else context.vectors_ref,
    )
    return Variant(name=name, system=save(context.work / slug(name), spec, heads.head_files(head)))
