import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from rung.data.documents import read_documents
from rung.data.passages import passages_of
from rung.data.sources import read_source
from rung.records import Example
from rung.search import PassageIndex, holds, terms_of
from rung.task import infer, load_task, settle_kind

EXAMPLES = Path(__file__).parent.parent / "examples"
FOLDERS = sorted(file.parent for file in EXAMPLES.glob("*/task.yaml"))
QUEUES = {"access", "hardware", "network", "payroll", "leave", "travel", "facilities", "security"}
MAX_BYTES = 400_000


def rows_of(folder: Path) -> list[Example]:
    data = load_task(folder).data
    return [row for file in (data.train, data.test) if file for row in read_source(file).examples]


def grams(text: str) -> set[str]:
    plain = " ".join(text.lower().split())
    return {plain[start : start + 5] for start in range(len(plain) - 4)}


def near_duplicates(texts: list[str], share: float) -> list[float]:
    """The Jaccard indices at or above `share`; sizes further apart than `share` can't reach it."""
    sets = sorted(map(grams, texts), key=len)
    found: list[float] = []
    for index, small in enumerate(sets):
        for large in sets[index + 1 :]:
            if len(small) < share * len(large):
                break
            shared = len(small & large)
            alike = shared / (len(small) + len(large) - shared)
            if alike >= share:
                found.append(alike)
    return found


def test_the_examples_folder_holds_three_tasks():
    assert [folder.name for folder in FOLDERS] == ["handbook", "helpdesk", "receipts"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_loads_under_the_name_of_its_folder_and_says_what_it_is_about(folder: Path):
    task = load_task(folder)
    assert task.name == folder.name
    assert len(task.about) > 100


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_row_of_an_example_comes_twice(folder: Path):
    counts = Counter(row.input for row in rows_of(folder))
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_of_an_example_is_small(folder: Path):
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    assert {name for name, size in sizes.items() if size >= MAX_BYTES} == set()


def test_near_duplicates_are_found_where_there_are_some():
    assert near_duplicates(["the lift is stuck again", "the lift is stuck again!", "no wifi"], 0.8)


def test_helpdesk_messages_are_no_near_duplicates_of_each_other():
    texts = [row.input for row in rows_of(EXAMPLES / "helpdesk")]
    assert 900 <= len(texts) <= 1000
    assert near_duplicates(texts, 0.8) == []


def test_helpdesk_is_inferred_as_a_label_task_over_the_eight_queues_that_its_text_explains():
    task = load_task(EXAMPLES / "helpdesk")
    rows = read_source(task.data.train).examples
    completed, _ = infer(settle_kind(task, rows)[0], rows)
    assert (completed.output.kind, completed.metric) == ("label", "accuracy")
    assert set(completed.output.labels or ()) == QUEUES
    assert set(re.findall(r"(\w+):", task.about)) == QUEUES


def test_helpdesk_queues_are_balanced_within_a_factor_of_three():
    counts = Counter(row.output for row in rows_of(EXAMPLES / "helpdesk"))
    assert max(counts.values()) <= 3 * min(counts.values())


def test_receipts_are_240_rows_to_learn_from_and_120_to_test_on_for_field_f1():
    task = load_task(EXAMPLES / "receipts")
    assert task.data.test is not None
    rows = read_source(task.data.train).examples
    completed, _ = infer(settle_kind(task, rows)[0], rows)
    assert (completed.output.kind, completed.metric) == ("json", "field_f1")
    assert len(rows) == 240
    assert len(read_source(task.data.test).examples) == 120


def test_receipt_outputs_meet_their_schema_and_a_changed_one_does_not():
    schema = json.loads((EXAMPLES / "receipts" / "receipt.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    outputs = [row.output for row in rows_of(EXAMPLES / "receipts")]
    assert [output for output in outputs if not validator.is_valid(output)] == []
    changed = dict(outputs[0]) if isinstance(outputs[0], dict) else {}
    assert not validator.is_valid({**changed, "total": 12.5})
    assert not validator.is_valid({**changed, "cashier": "04"})


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_script_writes_the_receipt_rows_byte_for_byte(name: str):
    folder = EXAMPLES / "receipts"
    made = subprocess.run(
        [sys.executable, str(folder / "make_rows.py"), name], capture_output=True, check=True, timeout=60
    )
    assert made.stdout == (folder / f"{name}.jsonl").read_bytes()


def test_the_total_of_a_receipt_stands_in_its_text_and_is_no_other_amounts_tail():
    missing: list[str] = []
    for row in rows_of(EXAMPLES / "receipts"):
        assert isinstance(row.output, dict)
        whole, cents = str(row.output["total"]).split(".")
        grouped = f"{int(whole):,}".replace(",", "[ ,]?")
        if not re.search(rf"(?<![\d.,]){grouped}[.,]{cents}(?!\d)", row.input):
            missing.append(row.where)
    assert missing == []


def test_the_year_and_the_day_of_a_receipts_date_stand_in_its_text():
    missing: list[str] = []
    for row in rows_of(EXAMPLES / "receipts"):
        assert isinstance(row.output, dict)
        year, _, day = str(row.output["date"]).split("-")
        for part in (rf"(20)?{year[2:]}", rf"0?{int(day)}"):
            if not re.search(rf"(?<!\d){part}(?!\d)", row.input):
                missing.append(row.where)
    assert missing == []


def test_receipts_come_from_at_least_150_shops_eight_layouts_and_eight_currencies():
    spec = importlib.util.spec_from_file_location(
        "receipts_make_rows", EXAMPLES / "receipts" / "make_rows.py"
    )
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    rows = rows_of(EXAMPLES / "receipts")
    fields = [row.output for row in rows if isinstance(row.output, dict)]
    assert len(script.LAYOUTS) >= 8
    assert len({str(field["company"]) for field in fields}) >= 150
    assert len({str(field["currency"]) for field in fields}) >= 8
    assert {row.input.count("\n") + 1 for row in rows} <= set(range(6, 17))


def test_each_answer_to_the_handbook_stands_in_it_and_each_page_is_asked_about_in_both_files():
    task = load_task(EXAMPLES / "handbook")
    assert task.data.documents is not None and task.data.test is not None
    found = read_documents(task.data.documents)
    assert len(found.documents) == 8 and found.notes == ()
    passages = passages_of(found.documents)
    train, test = read_source(task.data.train).examples, read_source(task.data.test).examples
    assert (len(train), len(test)) == (70, 50)
    assert [
        row.where for row in (*train, *test) if not any(holds(p, str(row.output)) for p in passages)
    ] == []
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    for rows in (train, test):
        ranked = index.find([row.input for row in rows], "bm25", 3, lambda texts: np.zeros((len(texts), 1)))
        recalled = [
            any(holds(p, str(row.output)) for p in some) for row, some in zip(rows, ranked, strict=True)
        ]
        assert sum(recalled) >= 0.7 * len(rows)
        pages = {some[0].id.split("#")[0] for some in ranked if some}
        assert pages == {document.id for document in found.documents}
