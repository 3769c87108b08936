"""The cheapest rung: no language model, a linear layer on sentence vectors or on TF-IDF counts."""

import functools
from collections.abc import Iterator

import numpy as np

from rung.models import head as heads
from rung.models.head import Head as LinearHead
from rung.rungs.base import Built, Context, Variant, choose, slug
from rung.system import Spec, save
from rung.wording import embedded_text

REGULARISATION = {"tfidf": (0.3, 1.0), "minilm": (1.0, 10.0), "both": (0.3, 1.0)}
"""Inverse L2 strengths tried for each kind of features, the quickest kind first."""
SHOWN = {
    "minilm": "MiniLM + logistic regression",
    "tfidf": "TF-IDF + linear SVM",
    "both": "MiniLM and TF-IDF + linear SVM",
}


class Head:
    """TF-IDF with a linear SVM, MiniLM vectors with logistic regression, and both side by side."""

    name = "head"

    def skip(self, context: Context) -> str | None:
        """A head can only choose among labels that it has seen."""
        if context.kind != "label":
            return f"a linear head chooses among labels; the output is {context.kind}"
        return None

    def build(self, context: Context) -> Built:
        """Fit every variant on the training rows, calibrate it on dev, and keep the best on dev."""
        variants: list[Variant] = []
        late: list[str] = []
        for name, fitted, dev_scores in _fitted(context, late):
            ready = heads.calibrated(fitted, dev_scores, [str(e.output) for e in context.dev])
            variants.append(_variant(context, name, ready))
        chosen, trials, notes = choose(context, variants, screen=len(context.dev))
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=(*late, *notes))


def _fitted(context: Context, late: list[str]) -> Iterator[tuple[str, LinearHead, np.ndarray]]:
    """Every variant's name, head and dev scores [rows, classes]; `late` names what there was no time for."""
    texts = [embedded_text(e) for e in context.train]
    dev = [embedded_text(e) for e in context.dev]
    targets = [str(e.output) for e in context.train]
    known = functools.cache(lambda: context.vectors(context.train))
    asked = functools.cache(lambda: context.vectors(context.dev))
    some = False
    for features, strengths in REGULARISATION.items():
        for c in strengths:
            name = f"{SHOWN[features]}, C = {c:g}"
            if some and not context.in_time(f"fitting {name}"):
                late.append(f"{name}: not fitted, the rung's share of the budget was used up")
                continue
            if features == "minilm":
                fitted = heads.fit_minilm(known(), targets, c)
            else:
                beside = known() if features == "both" else None
                try:
                    fitted = heads.fit_tfidf(texts, targets, c, context.seed, beside)
                except ValueError as error:
                    # Texts of single characters or emoji alone hold no words to count.
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
