"""A request in chat form asks what a row of the same conversation asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.data.conversations import Question, asked
from rung.data.rows import MAX_ROW_BYTES
from rung.data.sources import read_source

USER = {"role": "user", "content": "q"}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Riga"}'}}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = TEXTS.filter(str.strip)
PARTS = st.lists(SAID.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS, lambda v: st.lists(v, max_size=2)
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3)
FUNCTIONS = st.builds(
    lambda name, arguments, as_text: {
        "name": name,
        "arguments": json.dumps(arguments) if as_text else arguments,
    },
    st.sampled_from(["weather", "lookup"]),
    ARGUMENTS,
    st.booleans(),
)
CALLS = FUNCTIONS.map(lambda function: {"id": "1", "type": "function", "function": function})


def turns(roles: list[str], content: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda role, said: {"role": role, "content": said}, st.sampled_from(roles), content)


USERS = turns(["user"], SAID | PARTS)
TOOLS = turns(["tool"], TEXTS | PARTS)
ASSISTANTS = turns(["assistant"], TEXTS) | st.builds(
    lambda said, calls: {"role": "assistant", "content": said, "tool_calls": calls},
    st.none() | TEXTS,
    st.lists(CALLS, max_size=2),
).filter(lambda turn: turn["content"] is not None or turn["tool_calls"] is not None)
SYSTEMS = turns(["system", "developer"], SAID | PARTS)
CONVERSATIONS = st.builds(
    lambda system, before, last: [*system, *before, last],
    st.lists(SYSTEMS, max_size=2),
    st.lists(USERS | TOOLS | ASSISTANTS | SYSTEMS, max_size=5),
    USERS | TOOLS,
).filter(lambda said: any(turn["role"] == "user" for turn in said))
OFFERED = st.none() | st.lists(
    st.builds(
        lambda name, wrapped: {"type": "function", "function": {"name": name}} if wrapped else {"name": name},
        SAID,
        st.booleans(),
    ),
    max_size=2,
)


@given(messages=CONVERSATIONS, tools=OFFERED, answer=SAID)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_request_asks_what_the_row_with_its_answer_asks(
    tmp_path: Path, messages: list[Any], tools: Any, answer: str
) -> None:
    row = {"messages": [*messages, {"role": "assistant", "content": answer}], "tools": tools}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (example,) = read_source(file).examples
    assert asked(messages, tools) == Question(input=example.input, context=example.context)


def test_a_single_turn_is_asked_as_it_stands_and_several_with_their_speakers() -> None:
    assert asked([USER]) == Question(input="q", context=None)
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    found = asked(
        [
            {"role": "developer", "content": "be kind"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "now?"}],
            },
            call,
            {"role": "tool", "content": "", "tool_call_id": "1"},
        ],
        [{"type": "function", "function": {"name": "weather"}}],
    )
    assert found.input == (
        'User: what now?\nAssistant: {"calls": [{"arguments": {"city": "Riga"}, "name": "weather"}]}\nTool: '
    )
    assert found.context == 'be kind\n\nFunctions (JSON):\n[{"name": "weather"}]'


def test_parts_as_openais_decisions_have_them_are_read_as_their_text() -> None:
    data = {"b": [1, "é"], "a": None}
    content = [{"type": "input_text", "text": "why? "}, {"type": "input_json", "data": data}]
    assert asked([{"role": "user", "content": content}]).input == 'why? {"b": [1, "é"], "a": null}'
    said = [{"type": "output_text", "text": "so. "}, {"type": "refusal", "refusal": "no."}]
    assert asked([USER, {"role": "assistant", "content": said}, USER]).input == (
        "User: q\nAssistant: so. no.\nUser: q"
    )


DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages must be a list of turns, not None"),
        ([], "messages must be a list of turns, not []"),
        (["q"], "a turn of messages must be an object, not 'q'"),
        ([{"role": "system", "content": "s"}], "messages holds no turn of the user; add what is asked"),
        ([{"role": "tool", "content": "t"}], "messages holds no turn of the user"),
        ([{"role": "wizard", "content": "q"}], "unknown role 'wizard'; known: system, developer, user"),
        ([{"content": "q"}], "unknown role None"),
        ([{"role": "user", "content": " \n"}], "turn 1 of messages is the user's and empty"),
        ([USER, {"role": "user", "content": ""}], "turn 2 of messages is the user's and empty"),
        ([{"role": "user", "content": None}], "content must be text, not None"),
        ([{"role": "user", "content": []}], "content must be text, not []"),
        ([{"role": "user"}], "content must be text, not None"),
        ([USER, {"role": "assistant", "content": "a"}], "a turn of the user or of a tool, not of the assist"),
        ([USER, {"role": "system", "content": "s"}], "not of the system"),
        ([{"role": "system", "content": " "}, USER], "the system's text in messages is empty (' ')"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}],
            "holds an image: this System",
        ),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "answers text alone; take the image out"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "a part that is no text and no image"),
        (
            [USER, {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}],
            "messages holds an item of type 'function_call', which is no message",
        ),
        ([{"role": "user", "content": [{"type": "input_json", "data": "q"}]}], "a part that is no text"),
        ([{"role": "user", "content": "half \ud800"}], "messages or tools: holds half a character"),
        ([{"role": "user", "content": DEEP}], "messages or tools: nested deeper than 64 levels"),
        ([{"role": "user", "content": "x" * (MAX_ROW_BYTES + 1)}], "messages hold over 1 MB of text"),
        (
            [
                USER,
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                USER,
            ],
            "arguments of the call of 'f': broken JSON",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_cannot_be_asked_is_refused_in_words(messages: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        asked(messages)
    assert said in str(caught.value) and "row" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ([1], "tools must be a list of functions, not [1]"),
        ("[{", "tools: broken JSON"),
        ({"name": "f"}, "tools must be a list of functions"),
        ([{"name": DEEP}], "nested deeper than 64 levels"),
    ],
    ids=["no objects", "broken", "no list", "deep"],
)
def test_functions_that_cannot_be_offered_are_refused_in_words(tools: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        asked([USER], tools)
    assert said in str(caught.value)


def test_a_text_that_speaks_of_an_image_is_no_image() -> None:
    assert asked([{"role": "user", "content": "where is the <image>?"}]).input == "where is the <image>?"
