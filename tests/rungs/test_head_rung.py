"""The rung head where nothing can be fitted."""

from dataclasses import replace

import numpy as np
import pytest

from rung.errors import TrainingError
from rung.evaluate import timed_s
from rung.rungs import head
from rung.rungs.base import Context
from rung.rungs.head import PILOT_ROWS, Head
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows


@pytest.mark.parametrize("features", ["tfidf", "minilm"])
def test_rows_of_one_label_end_the_rung_with_the_reason(features, tmp_path, monkeypatch):
    monkeypatch.setattr(head, "REGULARISATION", {features: (1.0,)})
    monkeypatch.setattr(Context, "vectors", lambda self, rows: np.eye(len(rows), 8, dtype=np.float32))
    data = write_rows(tmp_path / "topics.jsonl", label_rows(80))
    with opened(make_tiny_gguf(tmp_path / "tiny.gguf"), data, tmp_path) as context:
        alike = tuple(replace(e, output="billing") for e in context.train)
        with pytest.raises(TrainingError, match=r"C = 1: left out, .*class"):
            Head().build(replace(context, train=alike))


def test_vectors_that_the_run_has_already_are_not_foretold_again(tmp_path, monkeypatch):
    monkeypatch.setattr(head, "_seconds", lambda call: (1.0, call()))
    data = write_rows(tmp_path / "topics.jsonl", label_rows(160))
    with opened(make_tiny_gguf(tmp_path / "tiny.gguf"), data, tmp_path) as context:
        row_s = 1.0 / len(context.train[:PILOT_ROWS])
        times = []
        for rows in ((), context.train, context.dev):
            if rows:
                context.vectors(rows)
            told = Head().outlook(context)
            assert told is not None
            times.append(told.seconds)
        assert times[0] - times[1] == pytest.approx(row_s * len(context.train))
        assert times[1] - times[2] == pytest.approx(row_s * len(context.dev))
        assert times[2] > timed_s(1.0), "single requests are timed in the end"
