"""The file of what people said about pairs: what is read, and what is refused."""

import json

import pytest

from rung.data.checked import checked_digest, read_checked
from rung.errors import DataError

PAIR = {"input": "hi", "answer": "Hello!", "other": "Go away.", "better": "answer"}


def written(folder, *lines):
    path = folder / "checked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_pairs_are_read_with_their_context_and_those_to_be_filled_in_are_counted(tmp_path):
    lines = [
        {**PAIR, "context": "a shop"},
        {**PAIR, "better": "tie"},
        {"input": "x", "answer": "1", "reference": "2", "better": "reference"},
        {**PAIR, "input": "y", "better": ""},
        {**PAIR, "input": "z", "better": None},
    ]
    found, empty = read_checked(written(tmp_path, *lines))
    assert [(one.input, one.context, one.better) for one in found] == [
        ("hi", "a shop", "answer"),
        ("hi", None, "tie"),
        ("x", None, "other"),
    ]
    assert (found[2].other, empty) == ("2", 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({**PAIR, "better": "A"}, "better: 'A' is not one of answer, other, tie"),
        ({**PAIR, "better": 1}, "better: 1 is not one of"),
        ({**PAIR, "other": None}, "'other' is no text: None"),
        ({"input": "hi", "better": "tie"}, "'answer' is no text"),
        ({**PAIR, "context": 3}, "'context' is no text: 3"),
    ],
)
def test_a_line_that_says_nothing_clear_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=r"checked\.jsonl:2: ") as error:
        read_checked(written(tmp_path, {**PAIR, "input": "first"}, line))
    assert said in str(error.value)


def test_a_pair_that_stands_there_twice_in_either_order_is_refused(tmp_path):
    other_way = {**PAIR, "answer": PAIR["other"], "other": PAIR["answer"]}
    with pytest.raises(DataError, match=r"checked\.jsonl:2: the same pair as checked\.jsonl:1"):
        read_checked(written(tmp_path, PAIR, other_way))


def test_the_digest_is_that_of_the_bytes_and_nothing_without_a_file(tmp_path):
    path = written(tmp_path, PAIR)
    before = checked_digest(path)
    assert checked_digest(None) == "" != before
    written(tmp_path, {**PAIR, "better": "tie"})
    assert checked_digest(path) != before
    with pytest.raises(DataError, match="can't read"):
        checked_digest(tmp_path)
