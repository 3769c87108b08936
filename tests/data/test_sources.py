import contextlib
import csv
import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rung.data import formats, rows
from rung.data.formats import FORMATS
from rung.data.rows import READERS, read_rows
from rung.data.sources import conform, read_source
from rung.errors import DataError, RungError
from rung.records import Example
from rung.task import DataFiles, Task, settle_kind
from rung.task.model import DataFormat

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
KINDS = {
    "banking77": "label",
    "bfcl_v4_single_turn": "tool_call",
    "bitext_support_intent": "label",
    "bitext_support_reply": "text",
    "bridge_tutor_decisions": "json",
    "bridge_tutor_reply": "text",
    "covid_tweet_sentiment": "label",
    "glue_sst2": "label",
    "glue_stsb": "number",
    "gsm8k": "text",
    "latvian_english_tweets": "text",
    "restaurant8k_slots": "json",
    "shakespeare_style": "text",
    "sms_spam": "label",
    "snips": "json",
    "sroie_receipts": "json",
    "trec_coarse": "label",
    "viggo_parse": "text",
    "wikisql_partial_header": "text",
    "xquad_en": "text",
}


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fault(path: Path, format: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read_source(path, format)
    message = str(caught.value)
    assert "\n" not in message
    return message


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


WRITTEN: dict[str, dict[str, Any]] = {
    "chat": {"messages": [turn("system", "c"), turn("user", "q"), turn("assistant", "a")]},
    "sharegpt": {
        "conversations": [
            {"from": "system", "value": "c"},
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"},
        ]
    },
    "alpaca": {"instruction": "q", "input": "", "output": "a", "context": "c"},
    "prompt_completion": {"prompt": "q", "completion": "a", "context": "c"},
    "preference": {"prompt": [turn("system", "c"), turn("user", "q")], "chosen": "a", "rejected": "b"},
    "unpaired_preference": {"prompt": "q", "completion": "a", "label": True, "context": "c"},
    "io": {"input": "q", "output": "a", "context": "c"},
}


def test_the_table_holds_every_format_that_a_task_file_can_name() -> None:
    assert len(FORMATS) == 12
    assert {known.name for known in FORMATS} == set(get_args(DataFormat)) - {"auto"} == set(WRITTEN)


@pytest.mark.parametrize("format", WRITTEN)
def test_every_format_is_recognised_and_reads_as_the_same_example(tmp_path: Path, format: str) -> None:
    read = read_source(jsonl(tmp_path / "rows.jsonl", WRITTEN[format]))
    example = read.examples[0]
    assert read.format == format
    assert (example.input, example.output, example.context) == ("q", "a", "c")
    assert example.where == "rows.jsonl:1"
    assert example.id == read_source(jsonl(tmp_path / "io.jsonl", WRITTEN["io"])).examples[0].id


def test_a_longer_conversation_is_written_out_with_its_speakers(tmp_path: Path) -> None:
    turns = [turn("user", "hi"), turn("assistant", "what?"), turn("user", "this"), turn("assistant", "done")]
    example = read_source(jsonl(tmp_path / "rows.jsonl", {"messages": turns})).examples[0]
    assert example.input == "User: hi\nAssistant: what?\nUser: this"
    assert (example.output, example.context) == ("done", None)


def test_text_parts_of_a_chat_turn_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "user", "content": parts}, turn("assistant", "a")]}
    assert read_source(jsonl(tmp_path / "rows.jsonl", row)).examples[0].input == "one two"


def test_an_alpaca_input_follows_its_instruction_after_a_blank_line(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"}
    assert read_source(jsonl(tmp_path / "rows.jsonl", row)).examples[0].input == "Translate.\n\nGuten Tag"


@pytest.mark.parametrize("needs", [known.needs for known in FORMATS if known.name == "io"])
def test_known_column_names_are_mapped_and_it_is_said(tmp_path: Path, needs: tuple[str, str]) -> None:
    read = read_source(jsonl(tmp_path / "rows.jsonl", {needs[0]: "q", needs[1]: "a", "zip": 1}))
    assert (read.examples[0].input, read.examples[0].output) == ("q", "a")
    assert read.notes[0] == f"rows.jsonl: 1 rows, format io ({needs[0]} → input, {needs[1]} → output)"
    assert read.notes[1] == "rows.jsonl: columns not used: zip"


def test_a_format_that_is_named_wins_over_the_first_that_fits(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"input": "q", "output": "a", "instruction": "Answer."})
    assert read_source(file).examples[0].input == "Answer.\n\nq"
    assert read_source(file, "io").examples[0].input == "q"


@pytest.mark.parametrize(
    "extra", [{"group": "g"}, {"doc_id": "g"}, {"user_id": "g"}, {"meta": {"group": "g"}}]
)
def test_a_group_is_read_from_its_known_columns(tmp_path: Path, extra: dict[str, Any]) -> None:
    read = read_source(jsonl(tmp_path / "rows.jsonl", {"input": "q", "output": "a", **extra}))
    assert read.examples[0].group == "g"
    assert f"1 groups by {'meta.group' if 'meta' in extra else next(iter(extra))};" in read.notes[1]


def test_a_group_of_whole_floats_is_their_number_and_of_others_refused_by_the_columns_name(
    tmp_path: Path,
) -> None:
    whole = jsonl(tmp_path / "rows.jsonl", {"input": "q", "output": "a", "user_id": 17.0})
    assert read_source(whole).examples[0].group == "17"
    part = jsonl(tmp_path / "part.jsonl", {"input": "q", "output": "a", "user_id": 17.5})
    with pytest.raises(DataError, match="user_id, by which rows are grouped, must be text .* not 17.5"):
        read_source(part)


@pytest.mark.parametrize("column", ["group", "doc_id", "user_id"])
def test_an_empty_group_is_none(tmp_path: Path, column: str) -> None:
    rows = [{"input": f"q{n}", "output": "a", column: ""} for n in range(2)]
    assert {row.group for row in read_source(jsonl(tmp_path / "rows.jsonl", *rows)).examples} == {None}


def as_csv(path: Path, rows: list[dict[str, str]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], Any]] = {
    ".jsonl": lambda path, rows: jsonl(path, *rows),
    ".ndjson": lambda path, rows: jsonl(path, *rows),
    ".json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    ".csv": lambda path, rows: as_csv(path, rows, ","),
    ".tsv": lambda path, rows: as_csv(path, rows, "\t"),
    ".parquet": lambda path, rows: parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}


def test_every_file_kind_holds_the_same_rows(tmp_path: Path) -> None:
    assert len(WRITERS) == len(READERS) == 6
    rows = [{"text": 'a, b\n"c"\tü', "label": "x"}, {"text": "second; row", "label": "y"}]
    read = {}
    for suffix in READERS:
        WRITERS[suffix](tmp_path / f"rows{suffix}", rows)
        source = read_source(tmp_path / f"rows{suffix}")
        read[suffix] = [(row.id, row.input, row.output) for row in source.examples]
    assert [row[1:] for row in read[".csv"]] == [(row["text"], row["label"]) for row in rows]
    assert all(rows == read[".jsonl"] for rows in read.values())


def test_a_table_row_is_named_by_the_line_on_which_it_starts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('text,label\n"two\nlines",a\n\nnext,b\n')
    assert [row.where for row in read_source(tmp_path / "rows.csv").examples] == ["rows.csv:2", "rows.csv:5"]


def test_a_table_may_be_separated_by_semicolons(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text;label\na, b;x\n")
    assert read_source(tmp_path / "rows.csv").examples[0].input == "a, b"


def test_a_json_file_may_hold_lines_and_any_text_file_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(
        b'\xef\xbb\xbf{"input": "q", "output": "a"}\r\n\r\n{"input": "r", "output": 1}'
    )
    assert [row.where for row in read_source(tmp_path / "rows.json").examples] == [
        "rows.json:1",
        "rows.json:3",
    ]


def test_line_separators_inside_a_string_do_not_end_a_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "a\u2028b\x85c", "output": "x"}\n', encoding="utf-8")
    assert read_source(tmp_path / "rows.jsonl").examples[0].input == "a\u2028b\x85c"


def test_a_column_that_stands_twice_in_a_parquet_file_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["input", "output", "output"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert "rows.parquet: a column name stands twice" in fault(tmp_path / "rows.parquet")


def test_a_cell_of_a_table_may_be_as_long_as_a_row(tmp_path: Path) -> None:
    text = "word " * 40_000
    as_csv(tmp_path / "rows.csv", [{"input": text, "output": "a"}], ",")
    assert read_source(tmp_path / "rows.csv").examples[0].input == text


def test_missing_cells_of_a_parquet_file_are_missing_values(tmp_path: Path) -> None:
    table = pyarrow.table({"input": ["q", "r"], "output": [1.5, float("nan")]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert "rows.parquet:row 2: 'output' is missing" in fault(tmp_path / "rows.parquet")


def test_ids_depend_on_input_and_context_alone_and_repeats_are_numbered(tmp_path: Path) -> None:
    rows = [
        {"input": "Caf\u00e9", "output": "b"},
        {"input": "Cafe\u0301", "output": "a"},
        {"input": "Caf\u00e9", "output": "b", "context": "c"},
    ]
    one = read_source(jsonl(tmp_path / "one.jsonl", *rows)).examples
    assert one[0].id == one[1].id + "-2"
    assert len(one[1].id) == 16
    assert one[2].id not in (one[0].id, one[1].id)
    two = read_source(jsonl(tmp_path / "two.jsonl", *reversed(rows))).examples
    assert {(row.id, str(row.output)) for row in one} == {(row.id, str(row.output)) for row in two}


GOOD = b'{"input": "q", "output": "a"}\n'


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("rows.jsonl", b"", "rows.jsonl: the file is empty"),
        ("rows.jsonl", b"\n\n", "rows.jsonl: no rows"),
        ("rows.csv", b"text,label\n", "rows.csv: no rows"),
        ("rows.txt", GOOD, "extension '.txt' is not read; use .jsonl"),
        ("rows.pkl", GOOD, "extension '.pkl' is not read"),
        ("rows.jsonl", GOOD + b'{"input": "\xff"}', "rows.jsonl:2: not UTF-8 at byte 12 (b'\\xff"),
        ("rows.jsonl", GOOD + b'{"input": ', "rows.jsonl:2: broken JSON at column"),
        ("rows.jsonl", GOOD + b"[1]", "rows.jsonl:2: a row must be an object"),
        ("rows.json", b'[{"input": "q", "output": "a"}, 3]', "rows.json:item 2: a row must be an object"),
        ("rows.json", b'[{"input": "q"', "rows.json:1: broken JSON at column 15"),
        (
            "rows.json",
            b'[\n{"input": "q"},\n{"input" "r"}\n]',
            """rows.json:3: broken JSON at column 10 (E""",
        ),
        ("rows.json", b'[\n{"input" "' + b"q" * 200 + b'"}\n]', """: '{"input" "qqq"""),
        (
            "rows.json",
            b'[{"a": "' + b"q" * 99 + b'"}, {"input": "q" "output"}]',
            """qqq"}, {"input": "q" "output"}]""",
        ),
        ("rows.json", b'[\n{"input": NaN}\n]', "rows.json:item 1: NaN is no JSON value"),
        ("rows.jsonl", b'{\n "input": "q"\n}', "several lines: write one object per line, or a list of them"),
        (
            "rows.jsonl",
            b'[{"input": "q"}, {"input": "r"}]',
            "a list of rows on one line: write one object per",
        ),
        (
            "rows.json",
            b'{"data": [{"input": "q"}]}',
            "rows seem to lie inside of 'data': write one object per",
        ),
        ("rows.jsonl", b'{"input": "q", "output": NaN}', "rows.jsonl:1: NaN is no JSON value"),
        ("rows.jsonl", b'{"input": "q", "output": -Infinity}', "-Infinity is no JSON value"),
        ("rows.jsonl", b'{"input": "q", "output": 1e999}', "number 1e999 is too large"),
        ("rows.jsonl", b'{"input": "q", "output": ' + b"9" * 5000 + b"}", "rows.jsonl:1: "),
        ("rows.jsonl", b'{"input": "q\\ud800", "output": "a"}', "holds half a character ('\\ud800') at 2"),
        ("rows.jsonl", b'{"input": "q", "output": {"\\udc00": 1}}', "holds half a character"),
        ("rows.jsonl", b'{"input": "q", "output": ' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper than 64"),
        ("rows.jsonl", b"[" * 200_000, "nested deeper than 64"),
        ("rows.jsonl", GOOD + b'{"input": "' + b"x" * 2**20 + b'"}', "rows.jsonl:2: a row over 1 MB"),
        ("rows.json", b'[{"input": "' + b"x" * 2**20 + b'", "output": 1}]', "item 1: a row over 1 MB"),
        ("rows.jsonl", b'{"a": 1, "b": 2}', "no known columns among ['a', 'b']; accepted: prompt + chosen"),
        ("rows.jsonl", GOOD + b'{"input": "q"}', "rows.jsonl:2: 'output' is missing"),
        ("rows.jsonl", b'{"input": "q", "output": null}', "rows.jsonl:1: 'output' is missing"),
        ("rows.jsonl", b'{"input": " ", "output": "a"}', "rows.jsonl:1: input is empty (' ')"),
        ("rows.jsonl", b'{"input": "q", "output": ""}', "rows.jsonl:1: output is empty ('')"),
        ("rows.jsonl", b'{"input": 3, "output": "a"}', "input must be text, not 3"),
        ("rows.jsonl", b'{"input": "q", "output": "a", "context": ["c"]}', "context must be text"),
        (
            "rows.jsonl",
            b'{"input": "q", "output": "a", "group": [1]}',
            "group, by which rows are grouped, must be text or a whole number",
        ),
        (
            "rows.jsonl",
            GOOD + b'{"prompt": "q", "completion": "a"}',
            "rows.jsonl:2: this row is written as prompt_completion (prompt + completion), but",
        ),
        ("rows.jsonl", b'{"messages": "hi"}', "messages must be a list of turns"),
        ("rows.jsonl", b'{"messages": [3]}', "a turn of messages must be an object"),
        ("rows.jsonl", b'{"messages": [{"role": "king", "content": "x"}]}', "unknown role 'king'"),
        ("rows.jsonl", b'{"messages": [{"role": "user", "content": "x"}]}', "must end with the assistant"),
        ("rows.jsonl", b'{"messages": [{"role": "assistant", "content": "x"}]}', "holds no user turn"),
        (
            "rows.jsonl",
            b'{"messages": [{"role": "assistant", "content": null}]}',
            "content must be text, not None",
        ),
        ("rows.csv", b"text,label\na,b\nc\n", "rows.csv:3: 1 cells under 2 columns"),
        ("rows.csv", b"text,text\na,b\n", "a column name stands twice"),
        ("rows.jsonl", b'{"input": "q", "output": "a", "output": "b"}', "rows.jsonl:1: key 'output' twice"),
        ("rows.jsonl", b'{"input": "q", "output": {"a": {"b": 1, "b": 2}}}', "key 'b' twice in one object"),
        ("rows.csv", b'text,label\n"a,b\n', "rows.csv:2: broken table row"),
        ("rows.csv", b"text,label\na,\n", "rows.csv:2: 'label' is missing or empty"),
        ("rows.csv", b"text,label\na,\xe9\n", "rows.csv:2: not UTF-8 at byte 3"),
        ("rows.csv", b"text,label\n\x1b$B$3\x1b(B,a\n", "rows.csv:2: not UTF-8 at byte 1 (b'\\x1b$B$')"),
        ("rows.jsonl", GOOD + b'{"input": "\x1b$B$3\x1b(B"}', "rows.jsonl:2: not UTF-8 at byte 12"),
        ("rows.json", b'[{"input": "\x1b$)C\x0e0!"}]', "rows.json:1: not UTF-8 at byte 13"),
        ("rows.parquet", b"PAR1 nothing PAR1", "rows.parquet: not a readable Parquet file"),
        ("rows.parquet", GOOD, "rows.parquet: not a readable Parquet file"),
    ],
)
def test_a_faulty_file_is_refused_with_its_place_and_a_way_out(
    tmp_path: Path, name: str, raw: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(raw)
    message = fault(tmp_path / name)
    assert said in message
    assert len(message) < 500


@pytest.mark.parametrize("raw", [b"", b"\n\n", b'{"prompt": "q", "completion": "a", "label": false}'])
def test_how_many_rows_a_climb_needs_is_not_for_the_reader_to_say(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(raw)
    assert "at least" not in (said := fault(tmp_path / "rows.jsonl")) and "; name " in said


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = fault(jsonl(tmp_path / "rows.jsonl", WRITTEN["io"]), "csv")
    assert message.startswith(
        "unknown data format 'csv'; choose auto, preference, unpaired_preference, chat, "
    )


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such data file" in fault(tmp_path / "no.jsonl")
    assert "is not a file" in fault(tmp_path)


def test_an_output_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"input": ["q"], "output": [b"raw"]}), tmp_path / "rows.parquet")
    assert "is no JSON value" in fault(tmp_path / "rows.parquet")


def test_outputs_are_read_as_the_kind_and_what_cannot_be_read_is_left_to_the_checks() -> None:
    rows = [Example(id=str(n), input="q", output=value) for n, value in enumerate(["1.5", "many"])]
    assert [row.output for row in conform(rows, "number")] == [1.5, "many"]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "group", "assistant"]), part
        )
    ),
    max_leaves=10,
)
columns = st.sampled_from(
    ["input", "output", "context", "group", "meta", "messages", "conversations", "text", "label"]
    + ["instruction", "prompt", "completion", "question", "answer", "x"]
)
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.lists(st.dictionaries(columns, junk, max_size=5), max_size=4))
def test_only_a_rung_error_escapes_from_any_json_rows(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    for path in (tmp_path / "rows.jsonl", tmp_path / "rows.json"):
        with contextlib.suppress(RungError):
            text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
            path.write_text(text)
            for example in read_source(path).examples:
                assert example.input.strip()
                json.dumps(example.output, allow_nan=False)


@fuzz
@given(
    st.sampled_from(sorted(READERS)),
    st.binary(max_size=80)
    | st.text(alphabet='{}[]",:;\n\t\\ud8input output text label1', max_size=80).map(str.encode),
)
def test_only_a_rung_error_escapes_from_any_bytes(tmp_path: Path, suffix: str, raw: bytes) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(raw)
    with contextlib.suppress(RungError):
        read_source(path)


def test_only_a_rung_error_escapes_from_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"input": ["q", "r"], "output": ["a", "b"]}), path)
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(bytes(damaged[: draw.choice([len(whole), draw.randrange(len(whole))])]))
        try:
            read_source(path)
        except RungError:
            refused += 1
    assert refused >= 20


def test_the_kinds_of_the_real_sets_are_known_to_this_test() -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not on this machine")
    assert sorted(path.name for path in SHARED.iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_real_set_is_read_and_its_kind_is_seen(tmp_path: Path, name: str) -> None:
    file = SHARED / name / "train.jsonl"
    if not file.is_file():
        pytest.skip(f"the shared data set {name} is not on this machine")
    with file.open(encoding="utf-8") as stream:
        total = sum(1 for _ in stream)
    with file.open(encoding="utf-8") as stream:
        (tmp_path / "rows.jsonl").write_text("".join(islice(stream, 0, None, max(1, total // 300))))
    source = read_source(tmp_path / "rows.jsonl")
    assert source.format == "io"
    task, notes = settle_kind(Task(data=DataFiles(train=file)), source.examples)
    assert task.output.kind == KINDS[name], notes
    card = json.loads((SHARED / name / "card.json").read_text(encoding="utf-8"))
    if task.output.kind == "label":
        assert set(task.output.labels or ()) <= set(card["labels"])
    assert all(
        type(row.output) is {"number": float, "json": dict, "tool_call": list}.get(KINDS[name], str)
        for row in conform(source.examples, task.output.kind)
    )


def test_a_fault_far_down_is_told_once_and_the_file_not_read_again_for_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"question {n},answer {n},{n % 2}\n".encode() for n in range(300)]
    lines[290] = b"question \xe9,answer,1\n"
    file = tmp_path / "rows.csv"
    file.write_bytes(b"prompt,completion,label\n" + b"".join(lines))
    times: list[Path] = []
    monkeypatch.setattr(formats, "read_rows", lambda path: times.append(path) or read_rows(path))
    for lenient in (False, True):
        with pytest.raises(DataError, match=r"^rows\.csv:292: not UTF-8"):
            read_source(file, lenient=lenient)
    assert len(times) == 2


def test_of_a_parquet_file_as_many_rows_are_decoded_as_memory_may_hold(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows, "BATCH_BYTES", 2**23)
    table = pyarrow.table({"input": ["x" * 2**20] * 200, "output": ["a"] * 200})
    parquet.write_table(table, tmp_path / "rows.parquet")
    del table
    assert (tmp_path / "rows.parquet").stat().st_size < 2**21
    before = pyarrow.total_allocated_bytes()
    seen = 0
    for _, row in read_rows(tmp_path / "rows.parquet"):
        assert isinstance(row, dict) and len(row["input"]) == 2**20
        assert pyarrow.total_allocated_bytes() - before < 2**26
        seen += 1
    assert seen == 200


def test_large_batches_of_a_parquet_file_give_the_same_rows(tmp_path: Path, monkeypatch) -> None:
    table = pyarrow.table({"input": [f"q{at}" for at in range(5)], "output": [["a"] * at for at in range(5)]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    whole = list(read_rows(tmp_path / "rows.parquet"))
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 0)
    assert list(read_rows(tmp_path / "rows.parquet")) == whole and len(whole) == 5
