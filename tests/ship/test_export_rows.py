"""Which rows of a file an export is proved on, by how many of the climb's dev rows it holds."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from rung.checks.rows import Prepared, prepare
from rung.climb.again import keep_source
from rung.climb.options import Options
from rung.climb.stored import CLIMB_FILE
from rung.errors import DataError, RunError, TaskError
from rung.records import Answer, Climb, Example, Prediction
from rung.ship.climbed import Climbed
from rung.ship.rows import asked_rows
from tests.fixtures_climb import label_rows, write_rows
from tests.report.climb_fixture import one_rung_climb

SYSTEM: Any = SimpleNamespace(spec=SimpleNamespace(kind="label"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def prepared(folder) -> Prepared:
    return prepare(write_rows(folder / "tickets.jsonl", label_rows(300)), Options())


@pytest.fixture(scope="module")
def origin(folder, prepared) -> Climbed:
    """A climb of these rows, which asked all of its dev rows."""
    climb = one_rung_climb()
    (found,) = climb.results
    assert found.dev is not None
    said = Answer(text="", value=None)
    asked = tuple(Prediction(example_id=e.id, answer=said, score=0.0) for e in prepared.splits.dev)
    found = replace(found, dev=replace(found.dev, predictions=asked, metric="accuracy"))
    (folder / "run").mkdir()
    keep_source(folder / "run", folder / "tickets.jsonl", prepared, Options())
    digests = (("data", prepared.splits.digest),)
    climb = replace(climb, kind="label", metric="accuracy", results=(found,), digests=digests)
    (folder / "run" / CLIMB_FILE).write_bytes(TypeAdapter(Climb).dump_json(climb))
    return Climbed(folder=folder / "run", climb=climb, result=found)


def as_rows(examples) -> list[dict]:
    return [{"input": e.input, "output": e.output} for e in examples]


def inputs(examples: tuple[Example, ...]) -> set[str]:
    return {e.input for e in examples}


def test_one_dev_row_among_many_others_does_not_stand_for_the_file(folder, prepared, origin):
    others = label_rows(300, seed=9)
    file = write_rows(folder / "new.jsonl", [*others, *as_rows(prepared.splits.dev[:1])])
    asked = asked_rows(SYSTEM, origin, file, 400)
    learned = inputs(prepared.splits.train)
    assert inputs(asked.examples) == {row["input"] for row in others} - learned | {
        prepared.splits.dev[0].input
    }
    assert "dev rows" not in asked.told


@pytest.mark.parametrize(("most", "held", "is_narrowed"), [(200, 60, True), (40, 45, True), (200, 59, False)])
def test_a_file_with_all_dev_rows_that_would_be_asked_is_narrowed_to_them(
    folder, prepared, origin, most, held, is_narrowed
):
    dev = prepared.splits.dev
    assert len(dev) == 60
    file = write_rows(folder / "moved.jsonl", [*as_rows(prepared.splits.test), *as_rows(dev[:held])])
    asked = asked_rows(SYSTEM, origin, file, most)
    assert asked.told.endswith("dev rows of the climb") == is_narrowed
    if is_narrowed:
        assert [e.id for e in asked.examples] == [e.id for e in dev[: min(most, held)]]
    else:
        assert inputs(asked.examples) == inputs(dev[:held])
        assert asked.told.endswith(f"without {len(prepared.splits.test)} of its sealed test")


def test_the_sealed_test_is_not_what_an_export_is_proved_on(folder, prepared, origin):
    file = write_rows(folder / "test.jsonl", as_rows(prepared.splits.test))
    with pytest.raises(DataError, match="every row of 'test.jsonl' or sealed it as its test"):
        asked_rows(SYSTEM, origin, file, 200)


def test_a_file_is_read_in_the_way_in_which_the_climbs_rows_were(folder, prepared, origin):
    (folder / "as-io").mkdir()
    keep_source(folder / "as-io", folder / "tickets.jsonl", prepared, Options(format="io"))
    told = [{"instruction": "Sort the ticket.", **row} for row in as_rows(prepared.splits.dev)]
    file = write_rows(folder / "told.jsonl", told)
    climbed_so = replace(origin, folder=folder / "as-io")
    assert inputs(asked_rows(SYSTEM, climbed_so, file, 200).examples) == inputs(prepared.splits.dev)
    as_it_shows = asked_rows(SYSTEM, origin, file, 200).examples
    assert all(e.input.startswith("Sort the ticket.") for e in as_it_shows)
    other = [{"text": row["input"], "label": row["output"]} for row in as_rows(prepared.splits.dev)]
    (folder / "as-chat").mkdir()
    keep_source(folder / "as-chat", folder / "tickets.jsonl", prepared, Options(format="chat"))
    in_columns = write_rows(folder / "columns.jsonl", other)
    asked = asked_rows(SYSTEM, replace(origin, folder=folder / "as-chat"), in_columns, 200)
    assert inputs(asked.examples) == inputs(prepared.splits.dev)


def test_the_format_that_is_named_goes_before_what_the_rows_and_the_climb_show(folder, prepared, origin):
    told = [{"instruction": "Sort the ticket.", **row} for row in as_rows(prepared.splits.dev)]
    file = write_rows(folder / "named.jsonl", told)
    assert inputs(asked_rows(SYSTEM, origin, file, 200, "io").examples) == inputs(prepared.splits.dev)
    (folder / "read-as-io").mkdir()
    keep_source(folder / "read-as-io", folder / "tickets.jsonl", prepared, Options(format="io"))
    climbed_so = replace(origin, folder=folder / "read-as-io")
    as_alpaca = asked_rows(SYSTEM, climbed_so, file, 200, "alpaca").examples
    assert all(e.input.startswith("Sort the ticket.") for e in as_alpaca)
    with pytest.raises(TaskError, match="--format 'io' says how the rows of --rows FILE are written"):
        asked_rows(SYSTEM, origin, None, 200, "io")
    with pytest.raises(DataError, match="unknown data format 'csv'; choose auto, "):
        asked_rows(SYSTEM, origin, file, 200, "csv")


def test_rows_that_the_climb_learned_from_prove_nothing_and_are_left_out(folder, prepared, origin):
    train = prepared.splits.train
    file = write_rows(folder / "mixed.jsonl", [*as_rows(train), *as_rows(prepared.splits.dev[:30])])
    asked = asked_rows(SYSTEM, origin, file, 200)
    assert inputs(asked.examples) == inputs(prepared.splits.dev[:30])
    assert asked.told == f"rows of mixed.jsonl, without {len(train)} that the climb learned from"
    alone = write_rows(folder / "train.jsonl", as_rows(train))
    with pytest.raises(DataError, match="the climb learned from every row of 'train.jsonl' or .*--rows FILE"):
        asked_rows(SYSTEM, origin, alone, 200)


def test_all_rows_are_asked_where_it_is_not_known_which_the_climb_learned_from(folder, prepared, origin):
    train = prepared.splits.train
    file = write_rows(folder / "unknown.jsonl", as_rows(train))
    (folder / "elsewhere").mkdir()
    moved = replace(origin, folder=folder / "elsewhere")
    for known in (moved, None):
        asked = asked_rows(SYSTEM, known, file, 1000)
        assert len(asked.examples) == len(train) and asked.told == "rows of unknown.jsonl"


def test_rows_that_lie_elsewhere_now_are_named_with_the_way_out(folder, origin):
    away = (folder / "tickets.jsonl").rename(folder / "away.jsonl")
    try:
        said = r"were read from .*tickets\.jsonl', which isn't there: .*--rows FILE"
        with pytest.raises(RunError, match=said):
            asked_rows(SYSTEM, origin, None, 40)
    finally:
        away.rename(folder / "tickets.jsonl")
