"""How many rows a teacher's answers have to make, with those that are there, for a tune to be begun."""

from dataclasses import replace

import pytest

from rung.errors import TrainingError
from rung.rungs.distill import Distill
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import KEY, Hosted, as_asked, beside, unlabelled


def test_no_tune_is_begun_on_the_few_rows_of_a_teacher_whose_answers_did_not_hold(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    tiny = make_tiny_gguf(tmp_path / "tiny.gguf")
    path = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    inputs = unlabelled(60)

    def says(text: str, body: dict) -> str:
        asked = [row.input for row in inputs]
        return as_asked(text, body) if text not in asked[3:] else "I'd rather not say."

    with Hosted(says) as server, opened(tiny, path, tmp_path) as context:
        few = replace(beside(context, server, tmp_path, inputs), train=context.train[:12])
        assert Distill().skip(few) is None
        with pytest.raises(TrainingError) as told:
            Distill().build(few)
    assert str(told.value) == (
        "the teacher taught too little: 60 inputs asked, 3 answers kept; dropped: 57 unreadable; with your "
        "12 that makes 15 rows, and tuning needs at least 50"
    )
    assert not list(few.work.rglob("journal.jsonl"))
