"""The cheapest rung: no language model, a linear layer on sentence vectors or on TF-IDF counts."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rung.models import head as heads
from rung.models.head import Head as LinearHead
from rung.rungs.base import Built, Context, Variant, choose
from rung.system import Spec, question, save

REGULARISATION = {"minilm": (1.0, 10.0, 100.0), "tfidf": (0.3, 1.0)}
"""Inverse L2 strengths tried for each kind of features."""
SHOWN = {"minilm": "MiniLM + logistic regression", "tfidf": "TF-IDF + linear SVM"}


class Head:
    """MiniLM vectors with logistic regression, and word and character TF-IDF with a linear SVM."""

    name = "head"

    def skip(self, context: Context) -> str | None:
        """A head can only choose among labels that it has seen."""
        if context.kind != "label":
            return f"a linear head chooses among labels; the output is {context.kind}"
        return None

    def build(self, context: Context) -> Built:
        """Fit every variant on the training rows and keep the best on dev."""
        texts = [question(e) for e in context.train]
        targets = [str(e.output) for e in context.train]
        bar = context.reporter.begin("head: embedding the training rows", len(texts))
        vectors = context.pool.embedder.cached_embeddings(
            texts, context.vectors_folder, progress=lambda done, _: context.reporter.advance(bar, done)
        )
        context.reporter.end(bar)
        variants = []
        for features, strengths in REGULARISATION.items():
            for c in strengths:
                if features == "minilm":
                    fitted = heads.fit_minilm(vectors, targets, c)
                else:
                    fitted = heads.fit_tfidf(texts, targets, c, context.seed)
                variants.append(_variant(context, f"{SHOWN[features]}, C = {c:g}", fitted))
        chosen, trials, notes = choose(context, variants)
        return Built(system=chosen.system, what=chosen.name, trials=trials, notes=notes)


def _variant(context: Context, name: str, fitted: LinearHead) -> Variant:
    dev = [question(e) for e in context.dev]
    ready = heads.calibrated(
        fitted, fitted.scores(dev, context.pool.embedder.embed), [str(e.output) for e in context.dev]
    )
    spec = Spec(
        rung="head",
        task=context.task.name,
        kind="label",
        labels=ready.labels,
        engine="head",
        features=ready.features,
    )
    place = context.folder / "variants" / name.replace(" ", "-").lower()
    with TemporaryDirectory() as draft:
        return Variant(name=name, system=save(place, spec, heads.save_head(ready, Path(draft))))
