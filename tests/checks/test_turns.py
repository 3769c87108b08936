import json
from pathlib import Path
from typing import Any

import pytest

from rung.checks.base import Subject
from rung.checks.turns import images, turns
from rung.data.sources import read_source
from rung.records import Finding, Splits
from rung.task import DataFiles, Output, Task


def subject(folder: Path, *rows: dict[str, Any], test: tuple[dict[str, Any], ...] = ()) -> Subject:
    """A file of rows as train, and one in a folder of its own as test."""
    (folder / "sealed").mkdir()
    files = DataFiles(train=folder / "rows.jsonl", test=folder / "sealed" / "test.jsonl")
    assert files.test is not None
    for file, content in ((files.train, rows), (files.test, test)):
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    made = Splits(
        train=read_source(files.train).examples,
        dev=(),
        test=read_source(files.test).examples if test else (),
        test_given=True,
        digest="",
    )
    return Subject(task=Task(data=files, output=Output(kind="text")), splits=made)


def only(found: list[Finding] | str) -> Finding:
    assert isinstance(found, list)
    (one,) = found
    return one


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]}


GOOD = chat("system", "user", "assistant")


def test_one_conversation_in_an_odd_order_blocks_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    late = chat("user", "system", "assistant", "assistant")
    found = only(turns(subject(tmp_path, GOOD, late)))
    assert (found.severity, found.rows, found.count) == ("block", ("rows.jsonl:2",), 1)
    assert "such as rows.jsonl:2 (turn 2 is the system's, which comes first)" in found.message
    assert "`rung check --fix OUT`" in found.message and "--accept turns" in found.message
    assert found.details == (
        "rows.jsonl:2: turn 2 is the system's, which comes first; turns 3 and 4 are both the assistant's",
    )


def test_conversations_in_order_are_silent(tmp_path: Path) -> None:
    assert turns(subject(tmp_path, GOOD, chat("user", "assistant", "user", "assistant"))) == []


def test_rows_with_images_block_and_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(b"")
    rows = [
        {"input": "a", "output": "x", "images": ["here.png", "https://example.org/a.png"]},
        {"input": "b", "output": "x", "images": ["gone.png", "data:image/png;base64,AAAA"]},
        {"input": "c", "output": "x", "images": ["x" * 5000]},
        {"input": "d", "output": "x"},
    ]
    found = only(images(subject(tmp_path, *rows)))
    assert (found.severity, found.count) == ("block", 3)
    assert "rows with images: 3 rows, such as rows.jsonl:1 ('here.png')" in found.message
    assert "files that aren't there: 2, such as rows.jsonl:2: 'gone.png'" in found.message
    assert [line[:12] for line in found.details] == ["rows.jsonl:2", "rows.jsonl:3"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    ],
)
def test_an_image_that_has_no_address_blocks_too(tmp_path: Path, part: dict[str, Any]) -> None:
    asked = {"role": "user", "content": [part, {"type": "text", "text": "what is it?"}]}
    row = {"messages": [asked, {"role": "assistant", "content": "a cat"}], "picture": "a.png"}
    found = only(images(subject(tmp_path, row)))
    assert (found.severity, found.rows, found.details) == ("block", ("rows.jsonl:1",), ())


def test_images_of_the_test_are_looked_for_beside_the_test(tmp_path: Path) -> None:
    row = {"input": "a", "output": "x", "images": "a.png"}
    made = subject(tmp_path, row, test=(row,))
    assert "2, such as rows.jsonl:1" in only(images(made)).message
    (tmp_path / "sealed" / "a.png").write_bytes(b"")
    assert "1, such as rows.jsonl:1" in only(images(made)).message
    (tmp_path / "a.png").write_bytes(b"")
    assert "aren't there" not in only(images(made)).message


@pytest.mark.parametrize("row", [{"input": "a", "output": "x", "images": []}, GOOD])
def test_rows_without_images_are_silent(tmp_path: Path, row: dict[str, Any]) -> None:
    assert images(subject(tmp_path, row)) == []
