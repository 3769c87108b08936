"""Documents in a climb: read at the start, told of where they can't be, and what a run is bound to."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.checks.rows import prepare
from rung.climb.below import looked_up, no_gain, systems_below
from rung.climb.climb import Options, climb
from rung.climb.options import config_of
from rung.errors import DataError, RunError
from rung.models.resolve import resolve
from rung.records import Answer, Example, RungResult, Stopped
from rung.runs import open_run
from rung.scoring.measure import measurement
from tests.fixtures_climb import Log, label_rows, number_rows, write_rows
from tests.fixtures_hosted import KEY, PRICES, Hosted, as_asked


@pytest.fixture
def task(tmp_path, tiny) -> Path:
    write_rows(tmp_path / "rows.jsonl", label_rows(100))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Billing\n\nAn invoice is for billing.")
    (tmp_path / "task.yaml").write_text(
        f"data: {{train: rows.jsonl, documents: docs}}\nmodels: ['{tiny}']\nname: topics\n"
    )
    return tmp_path / "task.yaml"


def config(task: Path, tiny: Path) -> dict:
    return config_of(prepare(task, Options()), [resolve(str(tiny))], Options())


def test_a_run_is_bound_to_what_its_documents_say_and_not_to_where_they_lie(task, tiny, tmp_path):
    first = config(task, tiny)
    (tmp_path / "docs").rename(tmp_path / "moved")
    task.write_text(task.read_text().replace("docs", "moved"))
    assert config(task, tiny) == first
    (tmp_path / "moved" / "a.md").write_text("# Billing\n\nAn invoice is for delivery.")
    changed = config(task, tiny)
    assert {key for key in first if first[key] != changed[key]} == {"documents"}
    open_run(tmp_path / "run", first)
    with pytest.raises(RunError, match="belongs to another climb: documents is"):
        open_run(tmp_path / "run", changed)


def test_a_run_without_documents_is_bound_to_what_it_always_was(task, tiny):
    found = config(task.parent / "rows.jsonl", tiny)
    assert found.keys() == {"task", "data", "dev_rows", "model", "rungs", "budget_s", "rung", "python"}


def test_documents_that_cannot_be_read_are_told_of_the_first_by_name(task, tmp_path):
    for name in "bcde":
        (tmp_path / "docs" / f"{name}.md").write_text("")
    (told,) = prepare(task, Options()).notes
    assert (told.check, told.severity, told.count) == ("documents", "warn", 4)
    assert told.message == (
        "data.documents: left out: b.md is empty; c.md is empty; d.md is empty; and 1 more"
    )


def test_documents_of_which_none_can_be_read_end_the_climb_before_it_begins(task, tmp_path):
    (tmp_path / "docs" / "a.md").write_bytes(b"\xff")
    with pytest.raises(DataError, match="no document can be read: a.md is not UTF-8"):
        climb(task, Options(out=tmp_path / "run"), Log())
    assert not (tmp_path / "run").exists()


STEP: Any = SimpleNamespace(base=SimpleNamespace(label="b"), model="b")
IT: Any = "the System that looks up"
OTHER: Any = "another model's"


def result(order: int, rung: str, right: int | None, *, stopped: bool = False) -> RungResult:
    if right is None:
        return RungResult(rung=rung, order=order, skipped="it doesn't apply")
    rows = [Example(id=str(at), input=str(at), output="yes") for at in range(20)]
    answers = [Answer(text="", value="yes" if at < right else "no") for at in range(20)]
    dev = measurement(system=rung, split="dev", metric="accuracy", examples=rows, answers=answers)
    halted = Stopped(rows=20, of=40, rival="prompt", worse=False) if stopped else None
    return RungResult(rung=rung, order=order, system=rung, dev=dev, stopped=halted)


@pytest.mark.parametrize(
    ("rights", "gained"),
    [
        ({"prompt": 5, "few_shot": 8, "retrieval": 9}, True),
        ({"prompt": 5, "few_shot": 9, "retrieval": 9}, False),
        ({"prompt": None, "few_shot": None, "retrieval": 0}, True),
        ({"prompt": 5, "few_shot": 8, "retrieval": None}, False),
        ({"prompt": 5, "few_shot": 8}, False),
        ({"prompt": 5, "retrieval": 9, "sft": 20}, True),
        ({}, False),
    ],
)
def test_a_tune_looks_up_passages_where_that_was_better_than_every_cheaper_rung(rights, gained):
    ladder = ("prompt", "few_shot", "retrieval", "sft")
    results = [result(ladder.index(rung), rung, right) for rung, right in rights.items()]
    found = looked_up(STEP, results, {"retrieval": IT}, "accuracy")
    assert found == (IT if gained else None)


DOCUMENTS: Any = SimpleNamespace(data=SimpleNamespace(documents=Path("docs")))
NONE: Any = SimpleNamespace(data=SimpleNamespace(documents=None))


def test_why_passages_gained_nothing_is_told():
    few, reads, tied = result(1, "few_shot", 9), result(2, "retrieval", 10), result(2, "retrieval", 9)
    assert no_gain(DOCUMENTS, STEP, [few, reads], "accuracy") is None
    assert no_gain(NONE, STEP, [few, tied], "accuracy") is None
    assert no_gain(DOCUMENTS, STEP, [few, reads], "mae") == "retrieval was no better on dev than few_shot"
    assert no_gain(DOCUMENTS, STEP, [few], "accuracy") == "retrieval wasn't climbed"
    for found, why in (
        (tied, "was no better on dev than few_shot"),
        (result(2, "retrieval", None), "was skipped"),
        (RungResult(rung="retrieval", order=2, failed="it broke"), "failed"),
        (result(2, "retrieval", 20, stopped=True), "couldn't beat prompt any more and was stopped"),
    ):
        assert no_gain(DOCUMENTS, STEP, [few, found], "accuracy") == f"retrieval {why}"


def test_a_tune_may_read_passages_that_gained_nothing_where_the_model_lacks_facts():
    few, tied = result(1, "few_shot", 9), result(2, "retrieval", 9)
    for found in (tied, result(2, "retrieval", 20, stopped=True)):
        lacking = [few, replace(found, gap="knowledge")]
        assert looked_up(STEP, lacking, {"retrieval": IT}, "accuracy") is IT
        assert no_gain(DOCUMENTS, STEP, lacking, "accuracy") is not None
        able = [few, replace(found, gap="behaviour")]
        assert looked_up(STEP, able, {"retrieval": IT}, "accuracy") is None


def test_a_hosted_model_may_read_what_a_tune_of_any_model_may():
    few = [replace(result(1, f"few_shot@{name}", 9), model=name) for name in "ab"]
    rights = {"a": 9, "b": 10}
    read = [replace(result(2, f"retrieval@{name}", rights[name]), model=name) for name in rights]
    free: Any = SimpleNamespace(base=SimpleNamespace(label="a"), model=None)
    systems = {"retrieval@a": OTHER, "retrieval@b": IT}
    assert looked_up(free, [*few, *read], systems, "accuracy") is IT
    assert no_gain(DOCUMENTS, free, [*few, *read], "accuracy") is None
    assert looked_up(free, [*few, read[0]], systems, "accuracy") is None
    assert no_gain(DOCUMENTS, free, [*few, read[0]], "accuracy") == (
        "retrieval@a was no better on dev than few_shot@a"
    )


def test_a_retrieval_that_was_stopped_has_gained_nothing():
    results = [result(0, "prompt", 1), result(2, "retrieval", 20, stopped=True)]
    assert looked_up(STEP, results, {"retrieval": IT}, "accuracy") is None


def test_a_tune_is_given_the_passages_of_its_own_model():
    mine = replace(result(2, "retrieval@b", 9), model="b")
    others = replace(result(1, "retrieval@a", 20), model="a")
    systems = {"retrieval@a": OTHER, "retrieval@b": IT}
    assert looked_up(STEP, [others, mine], systems, "accuracy") == IT
    assert systems_below(STEP, [others, mine], systems) == {"retrieval": IT}


def test_a_hosted_model_is_told_of_the_prompts_of_every_model():
    results = [replace(result(0, f"prompt@{name}", 9), model=name) for name in "ab"]
    systems = {"prompt@a": OTHER, "prompt@b": IT}
    free: Any = SimpleNamespace(base=SimpleNamespace(label="a"), model=None)
    assert systems_below(free, results, systems) == systems


@pytest.mark.models
def test_a_climb_with_documents_ships_a_system_that_cites_them(tmp_path, tiny):
    from rung.answering import load

    write_rows(tmp_path / "rows.jsonl", number_rows(60))
    (tmp_path / "doc.txt").write_text("A parcel costs 5.5 euros.\n\nA refund takes 12 days.")
    (tmp_path / "task.yaml").write_text("data: {train: rows.jsonl, documents: doc.txt}\nname: numbers\n")
    options = Options(rungs=("retrieval",), models=(str(tiny),), out=tmp_path / "run", dev_rows=20)
    result, run = climb(tmp_path / "task.yaml", options, Log())
    (retrieval,) = result.results
    assert retrieval.rung == "retrieval" and retrieval.dev is not None, retrieval
    assert any(told.startswith("recall@1/3/5/8") for told in retrieval.found)
    assert any(told.startswith("oracle test on ") for told in retrieval.found)
    assert all(p.answer.passages == ("doc.txt#1",) for p in retrieval.dev.predictions)
    with load(run / "rungs" / "retrieval" / "system") as ask:
        assert ask.ask("what does a parcel cost").passages == ("doc.txt#1",)


@pytest.mark.models
def test_in_a_climb_a_hosted_rival_reads_the_documents_that_a_local_model_reads(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    write_rows(tmp_path / "rows.jsonl", number_rows(60))
    (tmp_path / "doc.txt").write_text("A parcel costs 5.5 euros.\n\nA refund takes 12 days.")
    with Hosted(as_asked) as server:
        task = {
            "name": "numbers",
            "data": {"train": "rows.jsonl", "documents": "doc.txt"},
            "models": [str(tiny), server.name],
            "prices": PRICES.model_dump(),
        }
        (tmp_path / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
        options = Options(rungs=("retrieval", "api"), out=tmp_path / "run", dev_rows=20)
        result, _ = climb(tmp_path / "task.yaml", options, Log())
    asked = [body["messages"][-1]["content"] for body in server.seen]
    assert sum("A parcel costs 5.5 euros." in text for text in asked) == len(asked) - 1, "but for its name"
    api = next(r for r in result.results if r.rung == "api")
    assert api.dev is not None and api.upon == "retrieval"
    assert all(p.answer.passages == ("doc.txt#1",) for p in api.dev.predictions)
