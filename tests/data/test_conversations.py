import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rung.data.conversations import asked
from rung.data.images import EMBEDDED
from rung.data.provenance import is_synthetic
from rung.data.sources import Source, read_source
from rung.errors import DataError
from rung.records import Example
from rung.task import DataFiles, Task, settle_kind


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASK, ANSWER, WORSE = turn("user", "q"), turn("assistant", "good"), turn("assistant", "bad")
DRAWN = turn("assistant", [{"type": "image", "path": "a.png"}])
WEATHER = {"name": "weather", "parameters": {"type": "object"}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Riga"}'}}
CALLS = {"calls": [{"name": "weather", "arguments": {"city": "Riga"}}]}


def source(folder: Path, *rows: dict[str, Any]) -> Source:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_source(file)


def read(folder: Path, row: dict[str, Any]) -> Example:
    return source(folder, row).examples[0]


def fault(folder: Path, row: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, row)
    assert str(caught.value).startswith("rows.jsonl:1: ")
    return str(caught.value)


PREFERENCES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    "turns": {"prompt": [ASK], "chosen": [ANSWER], "rejected": [WORSE]},
    "whole conversations": {"prompt": "q", "chosen": [ASK, ANSWER], "rejected": [ASK, WORSE]},
    "the conversations beside them": {
        "prompt": "q",
        "chosen": [ASK, ANSWER],
        "rejected": [ASK, WORSE],
        "messages": [ASK, ANSWER],
    },
    "lists of OpenAI": {"input": [ASK], "preferred_output": [ANSWER], "non_preferred_output": [WORSE]},
    "object of OpenAI": {
        "input": {"messages": [ASK], "tools": []},
        "preferred_output": [ANSWER],
        "non_preferred_output": [WORSE],
    },
}


@pytest.mark.parametrize("written", PREFERENCES)
def test_the_chosen_answer_is_the_output_and_the_rejected_one_is_kept(tmp_path: Path, written: str) -> None:
    found = source(tmp_path, PREFERENCES[written])
    example = found.examples[0]
    assert found.format == "preference"
    assert (example.input, example.context) == ("q", None)
    assert (example.output, example.rejected) == ("good", "bad")
    assert "the rejected ones are for the rung preference" in found.notes[1]


JUDGED = {
    "texts": {"prompt": "q", "completion": "bad", "label": False},
    "turns": {"prompt": [ASK], "completion": [WORSE], "label": False},
    "CSV": {"prompt": "q", "completion": "bad", "label": "False"},
}


@pytest.mark.parametrize("written", JUDGED)
def test_an_undesirable_answer_is_kept_apart_from_what_is_learned(tmp_path: Path, written: str) -> None:
    good = {"prompt": "q", "completion": "good", "label": "true" if written == "CSV" else True}
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (JUDGED[written], good)), encoding="utf-8")
    found = read_source(file)
    assert found.format == "unpaired_preference"
    assert [row.output for row in found.examples] == ["good"]
    assert [(row.input, row.output, row.where) for row in found.undesirable or ()] == [
        ("q", "bad", "rows.jsonl:1")
    ]
    assert found.notes[-1] == "rows.jsonl: 1 undesirable row (label false) is for the rung preference"
    unlearned = read_source(file, learned=False).notes[-1]
    assert unlearned.endswith("1 undesirable row (label false) is left out: nothing is learned from a test")


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("prompt", "completion", "context"),
    [
        ([ASK], [ANSWER], None),
        ("q", [ANSWER], None),
        ([SYSTEM, ASK], "good", "Be brief."),
        ("q", "good", None),
    ],
)
def test_a_prompt_and_its_completion_may_be_texts_or_turns(
    tmp_path: Path, prompt: Any, completion: Any, context: str | None
) -> None:
    found = source(tmp_path, {"prompt": prompt, "completion": completion})
    example = found.examples[0]
    assert found.format == "prompt_completion"
    assert (example.input, example.output, example.context) == ("q", "good", context)


@pytest.mark.parametrize("item", [{"item": "tea"}, {"name": "Ann", "role": "CEO"}, {"role": "assistant"}])
def test_a_completion_that_is_a_list_of_other_things_stays_an_answer_in_json(
    tmp_path: Path, item: dict[str, str]
) -> None:
    found = source(tmp_path, {"prompt": "q", "completion": [item]})
    assert found.examples[0].output == [item]


def test_a_label_that_is_no_judgement_makes_no_preference(tmp_path: Path) -> None:
    for label in ("spam", 1, None):
        found = source(tmp_path, {"prompt": "q", "completion": "a", "label": label})
        assert (found.format, found.undesirable) == ("prompt_completion", None)


@pytest.mark.parametrize("said", [(0, 1), (0.0, 1.0), ("0", "1")])
def test_labels_of_nothing_but_1_and_0_are_judgements(tmp_path: Path, said: tuple[Any, Any]) -> None:
    rows = [{"prompt": f"q{n}", "completion": f"a{n}", "label": said[n % 2]} for n in range(4)]
    found = source(tmp_path, *rows)
    assert found.format == "unpaired_preference"
    assert [row.output for row in found.examples] == ["a1", "a3"]
    assert [row.output for row in found.undesirable or ()] == ["a0", "a2"]
    assert "label is read as a judgement, 1 desirable and 0 undesirable" in found.notes[1]
    assert found.notes[2] == "rows.jsonl: 2 undesirable rows (label 0) are for the rung preference"
    for other in (2, "spam"):
        plain = source(tmp_path, *rows, {"prompt": "q", "completion": "a", "label": other})
        assert (plain.format, len(plain.examples)) == ("prompt_completion", 5)
        assert "rows.jsonl: columns not used: label" in plain.notes
    given = read_source(tmp_path / "rows.jsonl", "prompt_completion")
    assert (given.format, given.undesirable) == ("prompt_completion", None)


def test_a_judgement_that_is_none_is_named_where_the_format_is_fixed(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in (True, "maybe")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (broken,) = read_source(file, "unpaired_preference", lenient=True).broken
    assert broken.reason.startswith("rows.jsonl:2: label 'maybe' is no judgement; needed are prompt + ")


def test_rows_that_are_all_undesirable_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows.jsonl: no row is desirable"):
        source(tmp_path, JUDGED["texts"])


def test_a_row_without_its_judgement_is_unlike_the_others(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in (True, "maybe")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (broken,) = read_source(file, lenient=True).broken
    assert "unpaired_preference (prompt + completion + label of true or false)" in broken.reason


def test_a_preference_over_a_longer_conversation_keeps_its_turns_and_its_system_text(tmp_path: Path) -> None:
    before = [turn("system", "be kind"), ASK, turn("assistant", "what?"), turn("user", "that")]
    example = read(
        tmp_path, {"prompt": "q", "chosen": [*before, ANSWER], "rejected": [*before, WORSE], "context": "c"}
    )
    assert example.input == "User: q\nAssistant: what?\nUser: that"
    assert (example.context, example.faults) == ("be kind\n\nc", ())


def test_a_rejected_call_is_kept_as_json_text(tmp_path: Path) -> None:
    worse = turn("assistant", None, tool_calls=[CALL])
    example = read(tmp_path, {"prompt": [ASK], "chosen": "It rains.", "rejected": [worse]})
    assert json.loads(example.rejected or "") == CALLS


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt must be text or a list of turns, not 3"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "rejected is empty (' ')"),
        ({"prompt": "q", "chosen": [ASK], "rejected": "b"}, "chosen must end with the assistant's answer"),
        (
            {"prompt": "q", "chosen": [ASK, ANSWER], "rejected": [turn("user", "else"), WORSE]},
            "chosen and rejected answer different conversations",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": None, "x": 1}, "no known columns"),
        (
            {"input": {"messages": None}, "preferred_output": [ANSWER], "non_preferred_output": [WORSE]},
            "input must be text or a list of turns, not None",
        ),
    ],
)
def test_a_faulty_preference_row_is_refused_in_words(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    if said == "no known columns":
        said = "'rejected' is missing or empty"
    assert said in fault(tmp_path, row)


@pytest.mark.parametrize(
    "called",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": [{"name": "weather", "arguments": {"city": "Riga"}}]},
        {"function_call": CALL["function"]},
    ],
)
def test_the_calls_of_the_last_turn_are_the_output(tmp_path: Path, called: dict[str, Any]) -> None:
    assert read(tmp_path, {"messages": [ASK, turn("assistant", None, **called)]}).output == CALLS


@pytest.mark.parametrize(
    "tools", [[WEATHER], [{"type": "function", "function": WEATHER}], json.dumps([WEATHER])]
)
def test_the_functions_that_may_be_called_end_the_context(tmp_path: Path, tools: Any) -> None:
    row = {"messages": [turn("system", "s"), ASK, turn("assistant", None, tool_calls=[CALL])], "tools": tools}
    found = source(tmp_path, row)
    assert found.examples[0].context == "s\n\nFunctions (JSON):\n" + json.dumps([WEATHER])
    assert not any("not used" in note for note in found.notes)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, ANSWER]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]},
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [WORSE]},
        {"prompt": [ASK], "completion": [ANSWER], "label": True},
    ],
)
def test_a_context_beside_turns_stands_between_the_system_and_the_functions(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    found = source(tmp_path, row | {"context": "c", "tools": [WEATHER], "input": "x", "functions": None})
    functions = "Functions (JSON):\n" + json.dumps([WEATHER])
    assert found.examples[0].context == f"c\n\n{functions}"
    assert found.unused == ("input",) and "rows.jsonl: columns not used: input" in found.notes
    named = next(name for name in ("messages", "conversations", "prompt") if name in row)
    system = {"role": "system", "content": "s: c."} | {"from": "system", "value": "s: c."}
    for context, whole in (("d", "s: c.\n\nd"), ("c", "s: c.")):
        told = read(tmp_path, row | {named: [system, *row[named]], "context": context})
        assert told.context == whole
    assert "context must be text, not ['c']" in fault(tmp_path, row | {"context": ["c"]})


def test_what_is_said_beside_calls_is_told_to_be_left_out(tmp_path: Path) -> None:
    spoken = {"messages": [ASK, turn("assistant", "I will look.", tool_calls=[CALL])]}
    silent = {"messages": [ASK, turn("assistant", "", tool_calls=[CALL])]}
    found = source(tmp_path, silent, spoken, spoken)
    assert [row.output for row in found.examples] == [CALLS] * 3
    assert found.notes[-1] == (
        "rows.jsonl: 2 rows have an answer that calls functions and says something, such as rows.jsonl:2; "
        "its calls alone are read"
    )
    assert len(source(tmp_path, silent).notes) == 1


@pytest.mark.parametrize("words", ["It is order 4711.\n", [{"type": "text", "text": "It is order 4711."}]])
def test_what_an_earlier_turn_says_stands_before_its_calls(tmp_path: Path, words: Any) -> None:
    turns = [ASK, turn("assistant", words, tool_calls=[CALL]), turn("tool", "rain")]
    found = source(tmp_path, {"messages": [*turns, ANSWER]})
    call = '{"calls": [{"arguments": {"city": "Riga"}, "name": "weather"}]}'
    assert found.examples[0].input == f"User: q\nAssistant: It is order 4711.\n{call}\nTool: rain"
    assert asked(turns).input == found.examples[0].input
    assert len(found.notes) == 1
    shared = [{"from": "human", "value": "q"}, {"from": "gpt", "value": words, "tool_calls": [CALL]}]
    shared += [{"from": "tool", "value": "rain"}, {"from": "gpt", "value": "good"}]
    assert read(tmp_path, {"conversations": shared}).input == found.examples[0].input


@pytest.mark.parametrize(
    ("row", "unused"),
    [
        ({"prompt": "sort it", "input": "a review", "completion": "pos"}, ("input",)),
        ({"instruction": "sort it", "input": "a review", "output": "pos", "system": "s"}, ("system",)),
        ({"text": "q", "label": "a", "context": "c", "meta": {}, "tools": []}, ("tools",)),
    ],
)
def test_columns_that_nothing_is_read_of_are_listed(
    tmp_path: Path, row: dict[str, Any], unused: tuple[str, ...]
) -> None:
    found = source(tmp_path, row)
    assert found.unused == unused
    assert found.notes[-1] == f"rows.jsonl: columns not used: {', '.join(unused)}"


def test_earlier_calls_and_their_results_are_part_of_what_is_asked(tmp_path: Path) -> None:
    turns = [ASK, turn("assistant", None, tool_calls=[CALL, CALL]), turn("tool", "rain"), turn("tool", "sun")]
    example = read(tmp_path, {"messages": [*turns, ANSWER]})
    call = '{"arguments": {"city": "Riga"}, "name": "weather"}'
    assert example.input == f'User: q\nAssistant: {{"calls": [{call}, {call}]}}\nTool: rain\nTool: sun'
    assert example.faults == ()


def test_an_empty_list_of_calls_is_an_answer_only_where_nothing_is_said(tmp_path: Path) -> None:
    assert read(tmp_path, {"messages": [ASK, turn("assistant", None, tool_calls=[])]}).output == {"calls": []}
    assert read(tmp_path, {"messages": [ASK, turn("assistant", "No.", tool_calls=[])]}).output == "No."


def test_rows_of_calls_make_a_json_task(tmp_path: Path) -> None:
    rows = source(tmp_path, *[{"messages": [ASK, turn("assistant", "", tool_calls=[CALL])]}] * 3).examples
    assert settle_kind(Task(data=DataFiles(train=Path("x"))), rows)[0].output.kind == "json"


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ([{"function": {"name": "f", "arguments": '{"a": '}}], "arguments of the call of 'f': broken JSON"),
        ([{"function": {"name": "f", "arguments": "[1]"}}], "'f' must be a JSON object, not [1]"),
        ([{"function": {"name": "f"}}], "'f' must be a JSON object, not None"),
        ([{"function": {"arguments": "{}"}}], "a call needs a function with a name"),
        ([3], "a call needs a function with a name, not 3"),
        ("f()", "tool_calls must be a list of calls, not 'f()'"),
    ],
)
def test_a_broken_call_is_refused_in_words(tmp_path: Path, called: Any, said: str) -> None:
    assert said in fault(tmp_path, {"messages": [ASK, turn("assistant", None, tool_calls=called)]})


@pytest.mark.parametrize(
    ("tools", "said"), [("[{", "tools: broken JSON"), ([1], "tools must be a list of functions, not [1]")]
)
def test_broken_functions_are_refused_in_words(tmp_path: Path, tools: Any, said: str) -> None:
    assert said in fault(tmp_path, {"messages": [ASK, ANSWER], "tools": tools})


def test_what_json_does_not_have_in_a_call_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    calls = [{"name": "f", "arguments": {"raw": b"\x00"}}]
    rows = [{"messages": [turn("user", "q"), turn("assistant", "", tool_calls=calls)]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet:row 1: calls .* are no JSON value"):
        read_source(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("turns", "fault"),
    [
        ([ASK, turn("system", "s"), ANSWER], "turn 2 is the system's, which comes first"),
        ([ASK, ASK, ANSWER], "turns 1 and 2 are both the user's"),
        ([ASK, ANSWER, ANSWER], "turns 2 and 3 are both the assistant's"),
        ([turn("system", "s"), turn("developer", "d"), ASK, ANSWER], "turns 1 and 2 are both the system's"),
        ([turn("system", "s"), ASK, turn("tool", "t"), turn("tool", "u"), ANSWER], None),
    ],
)
def test_turns_in_an_odd_order_are_read_and_told(
    tmp_path: Path, turns: list[dict[str, Any]], fault: str | None
) -> None:
    faults = read(tmp_path, {"messages": turns}).faults
    assert faults == ((fault,) if fault else ())
    names = {"user": "human", "assistant": "gpt"}
    shared = [{"from": names.get(t["role"], t["role"]), "value": t["content"]} for t in turns]
    assert read(tmp_path, {"conversations": shared}).faults == faults


@pytest.mark.parametrize(
    ("part", "image"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, ("https://x.org/a.png",)),
        ({"type": "input_image", "image_url": "data:image/png;base64,AA=="}, ("data:image/png;base64,AA==",)),
        ({"type": "image", "image": "a.png"}, ("a.png",)),
        ({"type": "image", "url": "a.png"}, ("a.png",)),
        ({"type": "image"}, (EMBEDDED,)),
        ({"type": "input_image", "file_id": "file-1"}, (EMBEDDED,)),
        ({"type": "image", "source": {"type": "base64", "data": "AA=="}}, (EMBEDDED,)),
    ],
)
def test_an_image_among_the_text_is_named_and_its_place_marked(
    tmp_path: Path, part: dict[str, Any], image: tuple[str, ...]
) -> None:
    content = [part, {"type": "text", "text": " what is it?"}]
    example = read(tmp_path, {"messages": [turn("user", content), ANSWER]})
    assert (example.input, example.images) == ("<image> what is it?", image)


def test_an_image_without_an_address_is_one_of_the_columns_where_there_are_any(tmp_path: Path) -> None:
    asked = turn("user", [{"type": "image"}, {"type": "text", "text": "what is it?"}])
    assert read(tmp_path, {"messages": [asked, ANSWER], "images": ["a.png"]}).images == ("a.png",)
    assert read(tmp_path, {"messages": [asked, ANSWER], "picture": "a.png"}).images == (EMBEDDED,)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, DRAWN]},
        {"prompt": [ASK], "completion": [DRAWN], "label": True},
        {"prompt": [ASK], "chosen": [DRAWN], "rejected": [WORSE]},
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [DRAWN]},
    ],
)
def test_an_image_in_an_answer_is_one_of_the_row(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, row).images == ("a.png",)


@pytest.mark.parametrize(
    ("column", "value", "images"),
    [
        ("images", ["a.png", "b.png"], ("a.png", "b.png")),
        ("images", [{"path": "a.png", "bytes": None}], ("a.png",)),
        ("images", [], ()),
        ("image", "a.png", ("a.png",)),
        ("image", 17, ()),
        ("image", "", ()),
    ],
)
def test_columns_of_images_are_read_as_written(
    tmp_path: Path, column: str, value: Any, images: tuple[str, ...]
) -> None:
    assert read(tmp_path, {"input": "q", "output": "a", column: value}).images == images


def test_an_image_without_an_address_is_refused_in_words(tmp_path: Path) -> None:
    said = fault(tmp_path, {"input": "q", "output": "a", "images": [{"size": 3}]})
    assert "an image must be a path or a URL, not {'size': 3}" in said
    said = fault(tmp_path, {"messages": [turn("user", [{"type": "audio"}]), ANSWER]})
    assert "a part that is no text and no image: {'type': 'audio'}" in said


@pytest.mark.parametrize(
    "marks",
    [
        {"synthetic": True},
        {"synthetic": 1},
        {"synthetic": " Yes "},
        {"meta": {"synthetic": "true"}},
        {"source": "gpt-4o"},
        {"source": "openai/gpt-4o-mini-2024-07-18"},
        {"source": "GPT-4"},
        {"generator": "Qwen/Qwen2.5-7B-Instruct"},
        {"generator": "claude-sonnet-4"},
        {"generator": "claude 3 opus"},
        {"generator": "gemini-pro"},
        {"generator": "Meta-Llama/Llama-3.1-8B"},
        {"generator": "deepseek-r1"},
        {"meta": {"generator": "mistral"}},
    ],
)
def test_a_row_that_a_model_made_is_known_by_its_marks(tmp_path: Path, marks: dict[str, Any]) -> None:
    assert read(tmp_path, {"input": "q", "output": "a", **marks}).synthetic


@pytest.mark.parametrize(
    "marks",
    [
        {},
        {"synthetic": False},
        {"synthetic": "no"},
        {"synthetic": None},
        {"synthetic": [1]},
        {"source": "sparknotes"},
        {"source": "llamas in Peru"},
        {"source": "claude-shannon.txt"},
        {"source": "phishing-2024"},
        {"source": "https://example.org/gpt-4"},
        {"source": 4},
        {"generator": "human"},
        {"model": "gpt-4o"},
        {"meta": "gpt-4o"},
    ],
)
def test_a_row_without_such_a_mark_is_taken_for_one_that_people_wrote(marks: dict[str, Any]) -> None:
    assert not is_synthetic({"input": "q", "output": "a", **marks})
