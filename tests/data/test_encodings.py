"""Encodings whose bytes are all of ASCII: files in them are refused as any other that isn't UTF-8."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.cli.answers import standard_input
from rung.data.redact import read_roster
from rung.data.rows import read_rows
from rung.errors import DataError, TaskError
from rung.task import load_task
from rung.task.text import utf8

WORDS = {"iso2022_jp": "東京", "iso2022_jp_2": "東京", "iso2022_jp_ext": "ﾄｳｷｮｳ", "iso2022_kr": "서울"}


@pytest.mark.parametrize("encoding", WORDS)
def test_a_file_in_bytes_of_ascii_is_no_utf8(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "rows.csv").write_bytes(f"text,label\n{WORDS[encoding]},a\n".encode(encoding))
    with pytest.raises(DataError, match=r"^rows\.csv:\d: not UTF-8 at byte .*; save the file as UTF-8$"):
        list(read_rows(tmp_path / "rows.csv"))


def test_a_row_in_it_is_broken_and_the_others_are_read(tmp_path: Path) -> None:
    rows = [json.dumps({"input": said}, ensure_ascii=False) for said in ("a", "東京", "b")]
    (tmp_path / "rows.jsonl").write_bytes("\n".join(rows).encode("iso2022_jp"))
    first, second, third = (row for _, row in read_rows(tmp_path / "rows.jsonl"))
    assert (first, third) == ({"input": "a"}, {"input": "b"})
    assert str(second) == "rows.jsonl:2: not UTF-8 at byte 12 (b'\\x1b$BE'); save the file as UTF-8"


def test_what_a_terminal_writes_is_text(tmp_path: Path) -> None:
    said = "\x1b[31mred\x1b(B\x1b[m \x1b(0lqk\x1b(B $B ($B"
    (tmp_path / "rows.csv").write_bytes(f"text,label\n{said},a\n".encode())
    assert [row for _, row in read_rows(tmp_path / "rows.csv")] == [{"text": said, "label": "a"}]


@settings(deadline=None)
@given(st.text())
def test_every_text_without_such_an_escape_is_read_as_it_is(text: str) -> None:
    plain = text.replace("\x1b", "")
    assert utf8(plain.encode()) == plain


def test_a_list_of_names_a_task_its_schema_and_standard_input_are_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names.txt").write_bytes("東京\n".encode("iso2022_jp"))
    with pytest.raises(DataError, match=r"names\.txt': not UTF-8 at byte 1; save it as UTF-8"):
        read_roster(tmp_path / "names.txt")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("東京".encode("iso2022_jp"))))
    with pytest.raises(TaskError, match=r"standard input isn't UTF-8 text \(byte 0\)"):
        standard_input()
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "output": {}}\n')
    (tmp_path / "answer.json").write_bytes('{"title": "東京"}'.encode("iso2022_jp"))
    task = tmp_path / "task.yaml"
    task.write_text("data: {train: rows.jsonl}\noutput: {kind: json, schema: answer.json}\n")
    with pytest.raises(TaskError, match=r"answer\.json: not UTF-8 at byte 12; save it as UTF-8"):
        load_task(task)
    task.write_bytes("about: 東京\ndata: {train: rows.jsonl}\n".encode("iso2022_jp"))
    with pytest.raises(TaskError, match=r"task\.yaml: not UTF-8 at byte 8; save it as UTF-8"):
        load_task(task)
