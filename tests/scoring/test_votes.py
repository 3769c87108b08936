"""Votes over several answers: majorities by value, objects by fields, and the text most like the others."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.scoring.scorers import SCORERS
from rung.scoring.votes import commonest, medoid, vote

LABELS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=7)
TEXTS = st.lists(st.text("xyz ", min_size=1, max_size=12).map(str.strip).filter(bool), min_size=1, max_size=5)
OBJECTS = st.lists(
    st.dictionaries(st.sampled_from("pqr"), st.sampled_from(["1", "2"])), min_size=1, max_size=5
)


@given(LABELS)
def test_a_label_wins_that_no_other_outnumbers(values):
    counts = Counter(values)
    assert counts[vote(values, "label")] == max(counts.values())


@given(LABELS)
def test_of_equally_common_ones_that_wins_which_came_first(values):
    counts = Counter(values)
    first = next(value for value in values if counts[value] == max(counts.values()))
    assert vote(values, "label") == first


@given(LABELS, st.integers(0, 3))
def test_what_cant_be_read_has_no_vote(values, gaps):
    assert vote([None] * gaps + list(values), "label") == vote(values, "label")


@pytest.mark.parametrize("kind", ["label", "number", "json", "text"])
def test_without_a_readable_answer_there_is_none(kind):
    assert vote([None, None], kind) is None


def test_numbers_are_the_same_by_value_and_truth_is_no_number():
    assert vote([2, 1.0, 1], "number") == 1.0
    assert commonest([True, 1, 1]) == 1 and commonest([True, 1, 1]) is not True


def test_white_space_makes_no_other_answer():
    assert vote(["no", " yes  sir", "yes sir"], "text") == " yes  sir"


@given(OBJECTS)
def test_each_field_of_an_object_is_the_commonest_of_those_given(objects):
    found = vote(objects, "json")
    assert isinstance(found, dict)
    for name in "pqr":
        given_ = [one[name] for one in objects if name in one]
        if 2 * len(given_) > len(objects):
            assert Counter(given_)[found[name]] == max(Counter(given_).values())
        if 2 * len(given_) < len(objects):
            assert name not in found


def test_a_majority_of_fields_may_be_nobodys_whole_answer():
    objects = [
        {"a": 1, "b": 2, "c": {"d": 9}},
        {"a": 1, "b": 3, "c": {"d": 3}},
        {"a": 0, "b": 3, "c": {"d": 3}},
    ]
    assert vote(objects, "json") == {"a": 1, "b": 3, "c": {"d": 3}}


def test_where_the_fields_dont_go_together_a_given_object_wins():
    objects = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 0, "b": 3}]
    found = vote(objects, "json", lambda value: value != {"a": 1, "b": 3})
    assert found == {"a": 1, "b": 3}, "the middle one shares a field with each of the others"
    assert vote(objects, "json", lambda value: value in objects) in objects


def test_lists_and_mixed_values_are_compared_whole():
    assert vote([[1, 2], [2, 1], [1, 2]], "json") == [1, 2]
    assert vote([{"a": 1}, "none", "none"], "json") == "none"


def test_what_the_metric_holds_for_the_same_votes_together():
    a, b, c = ({"name": name, "arguments": {}} for name in "abc")
    assert vote([[c], [a, b], [b, a]], "tool_call") == [a, b]
    given_ = [{"items": ["x"]}, {"items": ["Tea", "Milk"]}, {"items": ["milk", "tea"]}]
    assert vote(given_, "json") == {"items": ["Tea", "Milk"]}
    assert vote([["x"], ["Tea", "Milk"], ["milk", "tea"]], "json") == ["Tea", "Milk"]
    rome, none, again = {"in": "Rome"}, None, {"in": "ROME"}
    assert vote([{"at": at} for at in (rome, none, again)], "json") == {"at": rome}


def test_of_those_that_vote_together_the_commonest_is_given():
    assert vote([[1, 2], [2, 1], [3], [2, 1]], "json") == [2, 1]
    assert vote(["acme", "ACME", "ACME", "x"], "json") == "ACME"
    assert vote([[2, 1], [1, 2]], "json") == [2, 1]


def test_the_order_of_an_arguments_list_tells_calls_apart():
    one, other = ([{"name": "a", "arguments": {"ids": ids}}] for ids in ([1, 2], [2, 1]))
    assert vote([one, other, other], "tool_call") == other


@settings(deadline=None)  # the package of the metric is loaded by the first
@given(TEXTS)
def test_a_text_is_one_of_those_given_and_a_clear_majority_always_wins(texts):
    found = vote(texts, "text")
    assert found in texts
    text, count = Counter(" ".join(t.split()) for t in texts).most_common(1)[0]
    if 2 * count > len(texts):
        assert " ".join(str(found).split()) == text


@settings(deadline=None)
@given(TEXTS)
def test_the_medoid_is_the_one_that_a_search_over_all_pairs_finds(texts):
    def similar(one, other):
        return SCORERS["rouge_l"].row(one, other)

    sums = dict.fromkeys(range(len(texts)), 0.0)
    for one, other in itertools.permutations(range(len(texts)), 2):
        sums[one] += similar(texts[other], texts[one])
    best = max(sums.values())
    found = medoid(texts, similar)
    assert any(texts[place] == found and sums[place] == pytest.approx(best) for place in sums)


@given(OBJECTS, st.randoms(use_true_random=False))
def test_a_unanimous_vote_is_what_all_said_and_order_decides_ties_alone(objects, dice):
    assert vote([objects[0]] * 3, "json") == objects[0]
    if len(objects) % 2 and len({json.dumps(one, sort_keys=True) for one in objects}) <= 2:
        shuffled = dice.sample(objects, len(objects))
        assert vote(shuffled, "json") == vote(objects, "json")
