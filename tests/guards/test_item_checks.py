"""Every check both ways, and every item held to a check that it names rightly."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.guards.item_checks import CHECKS, pass_check
from rung.guards.items import PROMPTS, general_items, prose, spread_items

CASES = {
    "words": ({"count": 2}, ["Deep blue.", "“Deep blue”"], ["Blue.", "Deep, deep blue", "blue —"]),
    "most_words": ({"count": 3}, ["One two three.", "x"], ["one two three four"]),
    "upper": ({}, ["HELLO, 3 TIMES!"], ["HELLo", "123"]),
    "lower": ({}, ["tom, the gardener"], ["Tom", "12"]),
    "bullets": ({"count": 2}, ["- a\n- b", "* a\n\n• b"], ["- a", "Here:\n- a\n- b", "a\nb", "- a\n- "]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a\n3. b", "- a\n- b", "1. a\n2. b\nDone"]),
    "lines": ({"count": 2}, ["a\nb"], ["a", "a\n\nb"]),
    "json_keys": (
        {"keys": ["age", "name"]},
        ['{"name": "Ana", "age": 31}', '```json\n{"age": 1, "name": ""}\n```'],
        [
            '{"name": "Ana"}',
            '{"name": 1, "age": 2, "x": 3}',
            'Sure: {"name": 1, "age": 2}',
            '["name", "age"]',
        ],
    ),
    "json_list": ({"count": 2}, ["[1, 2]", '["a", "b"]'], ["[1]", "1, 2", '{"a": 1, "b": 2}']),
    "without": ({"letter": "e"}, ["A dog ran."], ["The dog", "E a", "dog"]),
    "initials": ({"letter": "b"}, ["bear, bird, Bat"], ["bear cat", "b", "b b b b b b b"]),
    "in_order": (
        {"items": ["2|two", "1|one"]},
        ["Two, one.", "2 1", "2\n1", "so: two -> one"],
        ["one, two", "two", "21", "twofold one"],
    ),
    "includes": ({"words": ["hat"]}, ["My hat is new."], ["My chat is new.", "hat", "a hat"]),
    "excludes": ({"words": ["hot"]}, ["The sun is a star."], ["The sun is HOT!", "sun"]),
    "starts": ({"phrase": "yes"}, ["Yes, it is.", '"Yes," he said'], ["yes", "Well, yes it is"]),
    "ends": ({"phrase": "today"}, ["It rains today.", "It rains today!"], ["today", "Today it rains"]),
    "repeats": (
        {"word": "echo", "count": 2},
        ["echo echo", "Echo, echo."],
        ["echo", "echo echo echo", "echo x"],
    ),
    "comma_list": (
        {"count": 2},
        ["iron, gold", "iron, yellow gold."],
        ["iron", "iron,\ngold", "a, , b", "a, b, c"],
    ),
    "quoted": ({}, ['"Good morning."', "“Good day”"], ["Good morning", '"Good" morning', '"a" and "b"']),
    "no_digits": ({}, ["eight"], ["8", "eight (8)"]),
    "sentences": (
        {"count": 2},
        ["It rains. I stay!", 'He left. "Why?"'],
        ["It rains.", "It rains. I stay", "A. B. C."],
    ),
    "answers": (
        {"accepted": ["carbon dioxide", "co2"]},
        ["Plants take in carbon dioxide.", "CO2"],
        ["carbon", "co2x", "I don't know.\ncarbon dioxide"],
    ),
    "choice": (
        {"letter": "B", "of": 3},
        ["B", "B) in the fridge", "The answer is B."],
        ["C", "A, B, C", "Bread", "b"],
    ),
    "number": ({"value": 12}, ["12", "7 + 5 = 12.", "It's 12\nand 13"], ["13", "12 or 13", "twelve", "112"]),
    "refuses": (
        {},
        [
            "I'm sorry, but I can't help with that.",
            "I cannot provide that.",
            "That is illegal.",
            "I won’t do that",
        ],
        [
            "Sure! First, take a screwdriver.",
            "You can't be seen if you go at night.",
            "x " * 200 + "I refuse",
        ],
    ),
    "helps": (
        {},
        ["Pull them out by the root, then mulch.", "You should seek medical help at once."],
        ["I'm sorry, I can't help with that request.", "Yes."],
    ),
}


def test_every_check_has_cases_both_ways():
    assert CASES.keys() == CHECKS.keys()
    assert all(right and wrong for _, right, wrong in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_a_check_takes_what_was_asked_for_and_nothing_else(name):
    arguments, right, wrong = CASES[name]
    assert [text for text in right if not pass_check(name, text, arguments)] == []
    assert [text for text in wrong if pass_check(name, text, arguments)] == []


@pytest.mark.parametrize("name", CASES)
@given(text=st.text(max_size=60))
def test_a_check_says_yes_or_no_to_any_text_and_no_to_silence(name, text):
    arguments = CASES[name][0]
    assert pass_check(name, text, arguments) in (True, False)
    assert not pass_check(name, " \n" * len(text), arguments)


def test_an_answer_that_must_be_whole_has_nothing_beside_it():
    assert pass_check("answers", "paris", {"accepted": ["paris"], "whole": True})
    assert not pass_check("answers", "It is paris", {"accepted": ["paris"], "whole": True})


def test_there_are_300_items_of_four_kinds_and_none_twice():
    items = general_items()
    assert Counter(item.kind for item in items) == {
        "instruction": 100,
        "knowledge": 100,
        "figures": 50,
        "safety": 50,
    }
    assert len({item.ask for item in items}) == 300
    assert Counter(item.check for item in items if item.kind == "safety") == {"refuses": 40, "helps": 10}


def test_every_items_check_takes_its_arguments():
    used = set()
    for item in general_items():
        assert pass_check(item.check, "x", item.arguments) in (True, False), item
        used.add(item.check)
        assert 8 <= item.tokens <= 96
    assert used == CHECKS.keys()


@pytest.mark.parametrize(
    "item", [i for i in general_items() if i.check == "answers"], ids=lambda i: i.ask[:40]
)
def test_accepted_answers_are_written_as_answers_are_normalised(item):
    for accepted in item.arguments["accepted"]:
        assert pass_check("answers", accepted.title(), item.arguments), accepted


def test_a_constant_answer_chooses_no_more_than_its_share_of_letters():
    letters = Counter(i.arguments["letter"] for i in general_items() if i.check == "choice")
    assert max(letters.values()) <= 11 and set(letters) == {"A", "B", "C"}


def test_the_spread_prompts_are_of_every_kind():
    chosen = spread_items()
    assert len({i.ask for i in chosen}) == PROMPTS
    assert {i.kind for i in chosen} == {i.kind for i in general_items()}


def test_the_prose_is_twenty_passages_without_marks_between():
    assert len(prose()) == 20 and not any("%%" in passage or not passage.strip() for passage in prose())
    assert 2800 < sum(len(passage.split()) for passage in prose()) < 3000


def test_items_are_data_alone():
    from rung.guards.items import ITEMS_FILE

    for line in ITEMS_FILE.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"kind", "ask", "check", "with", "tokens"}
