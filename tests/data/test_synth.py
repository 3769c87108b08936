import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.provenance import is_synthetic
from rung.data.synth import LONGEST, asking, fresh, made_row, read_inputs, sampled
from rung.data.unlabelled import apart_from, read_unlabelled
from rung.errors import DataError
from rung.records import Example


def rows(*texts: str) -> list[Example]:
    return [Example(id=str(place), input=text, output="x") for place, text in enumerate(texts)]


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)


@given(st.lists(TEXTS, max_size=12))
def test_a_json_list_of_texts_is_read_as_it_is_with_or_without_a_fence(texts):
    wanted = [text.strip() for text in texts]
    assert read_inputs(json.dumps(texts)) == wanted
    assert read_inputs(f"```json\n{json.dumps(texts)}\n```") == wanted


@given(st.text(max_size=300))
def test_any_text_gives_a_list_of_usable_inputs(text):
    assert all(one == one.strip() and 0 < len(one) <= LONGEST for one in read_inputs(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. What is rain?\n2) Who sang it?", ["What is rain?", "Who sang it?"]),
        ("Sure!\n\n1. What is rain?\n2. Who sang it?\nHope that helps.", ["What is rain?", "Who sang it?"]),
        ("1. a question\n3. another one", []),
        ('["a", "b"', []),
        ('["a", 2]', []),
        ('[{"input": "a"}]', []),
        ("I can't do that.", []),
        ("", []),
        (json.dumps(["x" * (LONGEST + 1), "short"]), ["short"]),
    ],
)
def test_a_list_is_read_strictly(text, found):
    assert read_inputs(text) == found


def test_an_input_like_a_known_row_or_like_one_before_it_is_not_new():
    known = rows("Where did the first transatlantic telegraph cable come ashore in Ireland?")
    texts = [
        "where did the first transatlantic telegraph cable come  ashore in ireland?",
        "Where did the first transatlantic telegraph cable come ashore in Ireland??",
        "Who painted the ceiling of the old opera house in Paris?",
        "Who painted the ceiling of the old opera house in Paris",
        "How long is a cricket pitch?",
    ]
    assert fresh(texts, known) == [texts[2], texts[4]]


def test_a_made_row_carries_its_mark_and_its_maker():
    row = json.loads(made_row("How long is a pitch?", "openai:gpt-5-mini"))
    assert row == {"input": "How long is a pitch?", "synthetic": True, "generator": "openai:gpt-5-mini"}
    assert is_synthetic(row)


def test_each_round_shows_other_real_inputs_and_the_same_seed_the_same():
    known = rows(*(f"question {n}" for n in range(40)))
    assert sampled(known, 1, 0) == sampled(known, 1, 0) != sampled(known, 2, 0)
    said = asking("Sort questions.", known[:3])
    assert "1. question 0" in said and "3. question 2" in said and "Sort questions." in said
    assert '"x"' not in said  # no outputs


def test_inputs_are_read_once_each_without_their_outputs(tmp_path):
    file = tmp_path / "free.jsonl"
    file.write_text(
        '{"input": "a b"}\n{"input": "a b"}\n{"text": "c", "output": "secret"}\n{"input": " "}\n{"x": 1}\n'
        '{"input": "d", "context": "about d", "synthetic": true}\nnot json\n'
    )
    read = read_unlabelled(file)
    assert [(e.input, e.context, e.output) for e in read.examples] == [
        ("a b", None, None),
        ("c", None, None),
        ("d", "about d", None),
    ]
    assert [e.synthetic for e in read.examples] == [False, False, True]
    assert len(read.broken) == 3 and "free.jsonl:4" in read.broken[0]


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("form", "row", "input", "context"),
    [
        (
            "alpaca",
            {"instruction": "Translate.", "input": "Good morning"},
            "Translate.\n\nGood morning",
            None,
        ),
        ("alpaca", {"instruction": "Say a number.", "input": "", "output": "3"}, "Say a number.", None),
        ("alpaca", {"input": "made up"}, "made up", None),
        ("io", {"instruction": "Translate.", "input": "Good morning"}, "Good morning", None),
        ("io", {"question": "Why?", "context": "about it"}, "Why?", "about it"),
        ("chat", {"messages": ASKED}, "Why?", "Be brief."),
        ("chat", {"messages": [*ASKED, {"role": "assistant", "content": "So."}]}, "Why?", "Be brief."),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Why?"}]}, "Why?", None),
        ("preference", {"prompt": ASKED}, "Why?", "Be brief."),
        ("prompt_completion", {"prompt": "Why?"}, "Why?", None),
    ],
)
def test_inputs_are_read_as_the_rows_are_written(tmp_path, form, row, input, context):
    file = tmp_path / "free.jsonl"
    file.write_text(json.dumps(row) + "\n")
    (read,) = read_unlabelled(file, form).examples
    assert (read.input, read.context, read.output) == (input, context, None)


@pytest.mark.parametrize(
    ("form", "row"),
    [("chat", {"messages": []}), ("chat", {"messages": [3]}), ("alpaca", {"instruction": ["x"]})],
)
def test_an_input_that_cannot_be_read_is_named(tmp_path, form, row):
    file = tmp_path / "free.jsonl"
    file.write_text(json.dumps(row) + '\n{"input": "a"}\n')
    read = read_unlabelled(file, form)
    assert [e.input for e in read.examples] == ["a"]
    assert read.broken[0].startswith("free.jsonl:1: ")


def test_a_file_without_inputs_is_refused(tmp_path):
    file = tmp_path / "free.jsonl"
    file.write_text('{"question": "a"}\n')
    with pytest.raises(DataError, match="free.jsonl:1: None is no input; write a text as input, text"):
        read_unlabelled(file)


def test_a_question_in_another_context_is_another_question():
    asked = [Example(id="1", input="What is it?", output=None, context="a cat")]
    known = [Example(id="2", input="What is it?", output="x", context="a dog")]
    assert apart_from(asked, known) == asked
    assert (
        apart_from(asked, [*known, Example(id="3", input="what is it?", output="x", context="A cat")]) == []
    )
