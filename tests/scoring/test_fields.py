import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.scoring import fields
from rung.scoring.scorers import SCORERS

FIELD_F1 = SCORERS["field_f1"].row
VALUES = st.sampled_from(["a", "b", 1, None])
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=12,
).filter(lambda value: value is not None)
FLAT = st.dictionaries(st.sampled_from("xyz"), VALUES, min_size=1, max_size=3)


def mixed(value, dice):
    """The same value with its keys and the items of its lists in another order."""
    if isinstance(value, dict):
        return {key: mixed(value[key], dice) for key in dice.sample(list(value), len(value))}
    if isinstance(value, list):
        return [mixed(item, dice) for item in dice.sample(value, len(value))]
    return value


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ([{"n": "pen", "p": 1}, {"n": "ink", "p": 9}], [{"n": "ink", "p": 9}, {"n": "pen", "p": 1}], 1.0),
        ([{"n": "pen", "p": 9}, {"n": "ink", "p": 1}], [{"n": "pen", "p": 1}, {"n": "ink", "p": 9}], 0.5),
        ({"of": [{"tags": ["a", "b"], "n": 1}]}, {"of": [{"n": 1, "tags": ["b", "a"]}]}, 1.0),
        ([[1, 2], [3, 4]], [[1, 4], [3, 2]], 0.5),
        ([[1], [2]], [[1, 2]], 0.5),
        (["x", "y", "x"], ["x", "x", "z"], 2 / 3),
        ([{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}], 0.5),
        ([{}, {"a": 1}], [{"a": 1}, []], 0.5),
        ([{"a": 1}], [[1]], 0.0),
    ],
)
def test_the_objects_of_a_list_are_matched_one_to_one(answer, target, score):
    assert FIELD_F1(answer, target) == pytest.approx(score)
    assert FIELD_F1(target, answer) == pytest.approx(score)


@settings(deadline=None, max_examples=200)
@given(JSON, st.randoms(use_true_random=False))
def test_the_same_value_in_another_order_scores_full_marks(value, dice):
    assert FIELD_F1(mixed(value, dice), value) == 1.0


@settings(deadline=None, max_examples=300)
@given(JSON, JSON, st.randoms(use_true_random=False))
def test_the_score_is_alike_both_ways_and_hangs_on_no_order(answer, target, dice):
    score = FIELD_F1(answer, target)
    assert score == FIELD_F1(target, answer) == FIELD_F1(mixed(answer, dice), mixed(target, dice))
    assert 0 <= score <= 1
    one, other = fields.parts(answer), fields.parts(target)
    assert fields.shared(one, other) <= min(fields.count(one), fields.count(other))


@settings(deadline=None, max_examples=200)
@given(st.lists(FLAT, max_size=4), st.lists(FLAT, min_size=1, max_size=4))
def test_no_other_matching_shares_more(answer, target):
    few, many = sorted(([fields.parts(one) for one in side] for side in (answer, target)), key=len)
    best = max(
        sum(len(one.items() & other.items()) for one, other in zip(few, order, strict=True))
        for order in itertools.permutations(many, len(few))
    )
    assert fields.shared(few, many) == best


def test_very_many_objects_are_matched_by_their_rarest_fields_and_in_time():
    dice = random.Random(0)
    target = [
        {"id": at, "sort": at % 3, "tags": [dice.randrange(9), dice.randrange(9)]} for at in range(1000)
    ]
    assert fields.count(fields.parts(target)) ** 2 > fields.MOST_PAIRS
    other = [row | {"sort": 7} for row in target]
    begun = time.process_time()
    assert FIELD_F1(mixed(target, dice), target) == 1.0
    assert FIELD_F1(other, target) == FIELD_F1(mixed(other, dice), target) == pytest.approx(0.75)
    swapped = [row | {"id": target[at - 1]["id"]} for at, row in enumerate(target)]
    assert FIELD_F1(swapped, target) < 0.9
    assert time.process_time() - begun < 5


def test_a_hostile_answer_is_scored_in_time():
    target = {"of": [{"a": at, "b": "x", "c": None} for at in range(60)]}
    begun = time.process_time()
    assert FIELD_F1({"of": [{"b": "x", "c": at % 7} for at in range(3000)]}, target) < 0.1
    assert FIELD_F1({"of": [[]] * 3000 + [{"a": 1}] * 3000}, target) < 0.1
    assert time.process_time() - begun < 5
