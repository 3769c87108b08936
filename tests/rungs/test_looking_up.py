"""The rung that looks up passages, and a tune with them, over a tiny model."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rung.models.embed import Embedder, no_rows
from rung.records import Passage
from rung.rungs import retrieval
from rung.rungs.base import Context
from rung.rungs.rendered import prompts_of, rendered
from rung.rungs.retrieval import Retrieval
from rung.rungs.sft import Sft, answer_forms
from rung.runs import Shared
from rung.search import PassageIndex, SearchKind, index_files, index_names, terms_of
from rung.spec import RetrievalSpec, Spec
from rung.system import System, save
from tests.fixtures_climb import label_rows, make_tiny_gguf, number_rows, opened, topic_passages, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def looked_up(context: Context, folder: Path) -> System:
    """A System of the rung, made by hand: two passages by their words."""
    passages = topic_passages()
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    spec = answer_forms(context)["words"].model_copy(
        update={"rung": "retrieval", "style": "chat", "retrieval": RetrievalSpec(search="bm25", k=2)}
    )
    return save(folder, spec, index_files(index, "bm25"))


@pytest.fixture
def context(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(90)), tmp_path) as found:
        yield replace(found, retrieval=looked_up(found, tmp_path / "looked-up"))


def test_a_tune_is_trained_on_the_very_prompts_that_it_will_be_asked_with(context, tmp_path):
    forms = answer_forms(context)
    assert context.retrieval is not None and forms.keys() == {"codes", "words"}
    names = index_names("bm25")
    files = {name: context.retrieval.folder / name for name in names}
    for form, spec in forms.items():
        assert spec.retrieval == context.retrieval.spec.retrieval
        served = save(tmp_path / form, spec, files)
        rows = context.train[:8]
        assert prompts_of(context, spec, rows) == served.prompts(rows, context.pool)
        assert [row.prompt for row in rendered(context, spec, rows)] == served.prompts(rows, context.pool)
        bare = spec.model_copy(update={"retrieval": None})
        longer = zip(prompts_of(context, spec, rows), prompts_of(context, bare, rows), strict=True)
        assert all(len(one) > len(other) for one, other in longer)


def test_what_a_tune_learns_from_does_not_hang_on_the_answers_but_for_the_target(context):
    (spec, *_) = answer_forms(context).values()
    rows = context.train[:8]
    other = [replace(row, output="login") for row in rows]
    assert prompts_of(context, spec, rows) == prompts_of(context, spec, other)


def test_without_a_retrieval_that_gained_a_tune_is_what_it_was(context):
    plain = replace(context, retrieval=None)
    for spec in answer_forms(plain).values():
        assert spec.retrieval is None and spec.vectors is None


@pytest.mark.models
def test_a_tune_with_passages_is_proved_shipped_and_cites_them(context):
    made = Sft().build(context)
    assert made.upon == "retrieval"
    system = System.load(made.system.folder)
    assert system.spec.retrieval == RetrievalSpec(search="bm25", k=2)
    assert system.adapter is not None and set(index_names("bm25")) <= system.spec.files.keys()
    assert made.parity is not None and made.parity.agreement >= 0.99
    assert made.what.endswith(", 2 passages, bm25")
    answers = system.answer(context.dev, context.pool)
    assert all(answer.failure is None and answer.passages for answer in answers)
    (final,) = [trial for trial in made.trials if trial.chosen]
    right = sum(a.value == row.output for a, row in zip(answers, context.dev, strict=True))
    assert final.score == pytest.approx(right / len(context.dev))


@pytest.mark.models
def test_the_search_with_the_best_recall_is_taken_and_what_was_found_is_told(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "rows.jsonl", number_rows(120)), tmp_path) as context:
        made = Retrieval().build(context)
    assert made.system.spec.retrieval is not None and made.system.spec.retrieval.search == "bm25"
    told = "\n".join(made.found)
    assert "oracle test on 60 rows: " in told and "recall@1/3/5/8" in told
    assert "bm25 1.000 / 1.000 / 1.000 / 1.000" in told and "what limits" not in told
    assert made.gap is None and "gap" not in told, "of a mean error nothing says which gap it shows"
    assert [trial.name for trial in made.trials if trial.n == len(context.dev)] and made.what.endswith("bm25")
    settled = (context.folder / "settled.jsonl").read_text()
    assert [json.loads(line)["question"] for line in settled.splitlines()].count("oracle test") == 1


@pytest.mark.models
def test_an_oracle_test_that_did_not_fit_beforehand_is_made_with_the_time_that_is_left(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("rung.rungs.recall.ORACLE_SHARE", 0.0)
    with opened(tiny, write_rows(tmp_path / "rows.jsonl", number_rows(120)), tmp_path) as context:
        made = Retrieval().build(context)
        again = Retrieval().build(context)
    assert made.found[0].startswith("oracle test on 60 rows: ") and again.found == made.found
    settled = [json.loads(line) for line in (context.folder / "settled.jsonl").read_text().splitlines()]
    counted = {one["question"]: one["answer"] for one in settled}
    assert counted["rows of the oracle test, and its seconds"][0] == 0
    assert counted["rows of the oracle test after the choice"] == 60


def test_the_variants_of_a_search_hold_one_index_between_them(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "numbers.jsonl", number_rows(60)), tmp_path) as found:
        variants, _, _ = retrieval._variants(found)
    by_search: dict[SearchKind, list[System]] = {}
    for variant in variants:
        assert variant.system.spec.retrieval is not None
        by_search.setdefault(variant.system.spec.retrieval.search, []).append(variant.system)
    (search, systems) = max(by_search.items(), key=lambda item: len(item[1]))
    assert len(systems) > 1
    for name in index_names(search):
        assert len({(system.folder / name).stat().st_ino for system in systems}) == 1
        assert System.load(systems[0].folder).spec.files.keys() >= {name}


class Slow(Embedder):
    """An embedder that takes a second for a text, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def embed(self, texts, *, progress=no_rows):
        self.asked += len(texts)
        return np.zeros((len(texts), 384), dtype=np.float32)

    def monotonic(self) -> float:
        return time.monotonic() + self.asked


@pytest.mark.parametrize("said", ["That is 5.5 or 12.", "That is all."])
def test_passages_that_take_too_long_to_embed_are_searched_by_words_alone(tiny, tmp_path, monkeypatch, said):
    passages = tuple(Passage(id=f"a.md#{n}", title="", text=f"Parcel {n}. {said}") for n in range(300))
    data = write_rows(tmp_path / "numbers.jsonl", number_rows(60))
    with opened(tiny, data, tmp_path, passages=passages) as context:
        embedder = context.pool.embedder = Slow()
        monkeypatch.setattr("rung.rungs.base.time", embedder)
        variants, found, notes = retrieval._variants(context)
        assert retrieval._variants(context)[2] == notes
    assert embedder.asked == 65
    specs = [variant.system.spec for variant in variants]
    assert {spec.retrieval and spec.retrieval.search for spec in specs} == found.ranked.keys() == {"bm25"}
    assert all(spec.vectors is None for spec in specs)
    assert len({variant.name for variant in variants}) == len(variants)
    assert "searched by words alone: the vectors of 300 passages would take about 5 m 0" in notes[-1]
    assert "raise --budget" in notes[-1]


def test_where_no_file_can_be_linked_it_is_copied(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError("no links here")

    source = tmp_path / "passages.jsonl"
    source.write_text("{}")
    spec = Spec(rung="retrieval", task="t", kind="number", engine="fake")
    linked = save(tmp_path / "a", spec, {source.name: Shared(source)})
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = save(tmp_path / "b", spec, {source.name: Shared(source)})
    assert (linked.folder / source.name).stat().st_ino == source.stat().st_ino
    assert (copied.folder / source.name).stat().st_ino != source.stat().st_ino
    assert linked.digest == copied.digest == System.load(copied.folder).digest
