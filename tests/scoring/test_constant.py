import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.scoring.constant import CANDIDATES, constant_answer, spread
from rung.scoring.scorers import SCORERS
from rung.task.accepted import bare_calls


def score(answer, outputs, metric):
    return SCORERS[metric].summary([answer] * len(outputs), outputs)


@pytest.mark.parametrize("metric", ["accuracy", "exact", "macro_f1"])
@settings(deadline=None)
@given(outputs=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_no_label_scores_more_than_the_one_that_is_taken(metric, outputs):
    best = score(constant_answer(outputs, metric), outputs, metric)
    assert best == max(score(label, outputs, metric) for label in outputs)


@settings(deadline=None)
@given(
    outputs=st.lists(st.integers(-1000, 1000) | st.floats(-1e3, 1e3), min_size=1, max_size=30),
    other=st.floats(-2e3, 2e3),
)
def test_no_number_has_a_smaller_mean_error_than_the_median(outputs, other):
    assert score(constant_answer(outputs, "mae"), outputs, "mae") <= score(other, outputs, "mae") + 1e-9


TEXTS = [" ".join(words) for words in itertools.product(("red", "green"), ("boat", "car"), ("came", "went"))]


@settings(max_examples=25, deadline=None)
@given(outputs=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=20))
def test_of_few_texts_the_one_nearest_to_all_is_taken_though_it_is_not_the_commonest(outputs):
    best = score(constant_answer(outputs, "rouge_l"), outputs, "rouge_l")
    assert best == pytest.approx(max(score(text, outputs, "rouge_l") for text in outputs))


def test_objects_are_taken_whole_and_scored_by_field():
    outputs = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1, "c": 3}, {"d": 9}, {"d": 9}]
    assert constant_answer(outputs, "field_f1") == {"a": 1, "b": 1}


def test_calls_are_made_as_an_answer_makes_them_without_what_else_is_accepted():
    call = {"name": "f", "arguments": {"x": 1}, "accepted": {"x": [1, 2]}, "optional": []}
    outputs = [[call], [call], [], [{"name": "g", "arguments": {}}]]
    found = constant_answer(outputs, "tool_call")
    assert found == bare_calls([call])
    assert score(found, outputs, "tool_call") == 0.5
    assert constant_answer([[], [], [call]], "tool_call") == []


def test_a_metric_for_which_no_such_answer_is_known_has_none():
    assert [constant_answer(["a", "b"], m) for m in ("style", "judge")] == [None, None]
    assert constant_answer([1.0, 2.0], "spearman") is None
    assert constant_answer([], "accuracy") is None


def test_of_many_texts_some_from_all_over_the_rows_are_tried():
    outputs = [f"only here {at}" for at in range(500)] + ["twice", "twice"]
    assert constant_answer(outputs, "rouge_l") == "only here 0"
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), CANDIDATES) == [0, 1, 2]
