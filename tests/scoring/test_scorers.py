import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from rung.records import MetricName
from rung.scoring.extract import read_answer
from rung.scoring.scorers import SCORERS, micro_f1, secondary, worst_error

GOLD = {
    "label": ["yes", "no", "no", "maybe", "yes"],
    "json": [{"a": 1, "b": ["x", "y"]}, {}, {"items": []}, [1, {"a": None}], {"a": {"b": True}}],
    "text": ["the cat sat", "!!!", "日本語", "Ünïcode", "a"],
    "number": [1, 2.5, -3, 0, 1e6],
    "tool_call": [[], [{"name": "a", "arguments": {}}], [{"name": "a", "arguments": {"x": [1]}}] * 2, [], []],
}
CONTRACT = [(name, kind) for name in SCORERS if name != "judge" for kind in sorted(SCORERS[name].kinds)]
"""But for the metric whose rows aren't answers but what a model said of them."""


def test_the_table_holds_every_metric():
    assert len(SCORERS) == 11
    assert tuple(SCORERS) == typing.get_args(MetricName)
    assert all(name == scorer.name for name, scorer in SCORERS.items())
    assert len(CONTRACT) == 15


@pytest.mark.parametrize(("name", "kind"), CONTRACT)
def test_the_gold_answer_scores_full_marks(name, kind):
    scorer, gold = SCORERS[name], GOLD[kind]
    full = 1.0 if scorer.higher_is_better else 0.0
    assert scorer.rows(gold, gold) == [full] * len(gold)
    assert scorer.summary(gold, gold) == full


@pytest.mark.parametrize(("name", "kind"), CONTRACT)
def test_an_unreadable_answer_scores_worst_and_never_full_marks(name, kind):
    scorer, gold = SCORERS[name], GOLD[kind]
    silent = [None] * len(gold)
    worst = 0.0 if scorer.higher_is_better else 1e6 + 3
    assert scorer.rows(silent, gold) == [worst] * len(gold)
    assert scorer.summary(silent, gold) == pytest.approx(worst)
    one = scorer.summary([None, *gold[1:]], gold)
    full = scorer.summary(gold, gold)
    assert one < full if scorer.higher_is_better else one > full


@pytest.mark.parametrize(("name", "kind"), CONTRACT)
def test_every_row_score_is_finite_and_binary_ones_are_zero_or_one(name, kind):
    scorer, gold = SCORERS[name], GOLD[kind]
    rows = scorer.rows(gold[::-1], gold)
    assert all(np.isfinite(rows))
    if scorer.binary:
        assert set(rows) <= {0.0, 1.0}


def test_verdicts_are_scored_as_they_are_an_unreadable_answer_as_a_loss_and_a_bare_answer_not_at_all():
    scorer, gold = SCORERS["judge"], GOLD["text"][:4]
    assert scorer.rows([1.0, 0.5, 0.0, None], gold) == [1.0, 0.5, 0.0, 0.0]
    assert scorer.summary([1.0, 0.5, 0.0, None], gold) == 0.375
    with pytest.raises(ValueError, match="not a number: 'the cat sat'"):
        scorer.rows(gold, gold)


def test_no_rows_are_no_score():
    for scorer in SCORERS.values():
        with pytest.raises(ValueError, match="no rows"):
            scorer.summary([], [])


labels = st.sampled_from(["a", "b", "c", "d"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.one_of(st.none(), labels), labels), min_size=1))
def test_macro_f1_and_accuracy_are_those_of_scikit_learn(pairs):
    answers = [answer for answer, _ in pairs]
    targets = [target for _, target in pairs]
    said = [answer or "?" for answer in answers]
    expected = f1_score(targets, said, labels=sorted(set(targets)), average="macro", zero_division=0)
    assert SCORERS["macro_f1"].summary(answers, targets) == pytest.approx(expected)
    assert SCORERS["accuracy"].summary(answers, targets) == pytest.approx(accuracy_score(targets, said))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3))
def test_spearman_is_that_of_scipy_and_zero_where_no_order_is_shown(pairs):
    answers, targets = [list(side) for side in zip(*pairs, strict=True)]
    found = SCORERS["spearman"].summary(answers, targets)
    if answers == targets:
        assert found == 1
    elif len(set(answers)) == 1 or len(set(targets)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(spearmanr(answers, targets).statistic)


def test_macro_f1_of_a_resample_leaves_out_the_classes_that_it_lacks():
    metric = SCORERS["macro_f1"].of_set
    assert metric is not None
    answers, targets = metric.encode(["a", "c", "a", None, "b"], ["a", "c", "b", "c", "b"])
    assert metric.of_codes(answers[[0, 1]], targets[[0, 1]]) == 1
    assert metric.of_codes(answers[[0, 2]], targets[[0, 2]]) == pytest.approx(1 / 3)
    assert metric.of_codes(answers[[0, 4]], targets[[0, 4]]) == 1


def test_spearman_shrinks_with_the_share_of_unreadable_answers():
    assert SCORERS["spearman"].summary([1, 2, None, None], [10, 20, 30, 40]) == pytest.approx(0.5)
    assert SCORERS["spearman"].summary([1, None, None], [10, 20, 30]) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1))
def test_mae_is_that_of_scikit_learn(pairs):
    answers, targets = [list(side) for side in zip(*pairs, strict=True)]
    expected = mean_absolute_error(targets, answers)
    assert SCORERS["mae"].summary(answers, targets) == pytest.approx(expected)


def test_silence_costs_the_range_of_the_targets_or_their_size():
    assert worst_error([1, 5, 2]) == 4
    assert worst_error([-3, -3]) == 3
    assert worst_error([0]) == 1
    assert SCORERS["mae"].rows([None, 4], [1, 5]) == [4.0, 1.0]


def test_a_wild_answer_leaves_the_mean_error_finite():
    assert np.isfinite(SCORERS["mae"].summary([1e308, -1e308], [0, 1]))


ascii_text = st.text(alphabet="ab cd.,", max_size=30)


@settings(deadline=None)
@given(ascii_text, ascii_text)
def test_rouge_l_is_that_of_rouge_score(answer, target):
    expected = RougeScorer(["rougeL"]).score(target, answer)["rougeL"].fmeasure
    if " ".join(answer.split()) == " ".join(target.split()):
        expected = 1.0
    assert SCORERS["rouge_l"].row(answer, target) == pytest.approx(expected)


@pytest.mark.parametrize(("answer", "target"), [("की", "का"), ("কি", "কা"), ("ม่", "ม้")])
def test_rouge_l_tells_words_apart_that_differ_in_a_vowel_sign(answer, target):
    assert SCORERS["rouge_l"].row(answer, target) == 0.0


def test_rouge_l_scores_scripts_without_spaces_by_character():
    assert SCORERS["rouge_l"].row("日本", "日本語") == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("answer", "target", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 1),
        ({"a": 1.0}, {"a": 1}, 1),
        ({"a": True}, {"a": 1}, 0),
        ({"a": None}, {}, 0),
        ([1, 2], [2, 1], 0),
        ({"a": []}, {"a": {}}, 0),
        ({"a": "x"}, {"a": "X"}, 0),
        ({"a": "1"}, {"a": 1}, 0),
        ({"a": [[1], [2]]}, {"a": [[1, 2]]}, 0),
        ("a  b\n", "a b", 1),
        ("e\u0301", "\u00e9", 1),
        ("A", "a", 0),
        (3, 3.0, 1),
    ],
)
def test_exact_compares_canonical_values(answer, target, same):
    assert SCORERS["exact"].row(answer, target) == same


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ({"a": " THE  Cat", "b": 2}, {"a": "the cat", "b": 3}, 0.5),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}, 1.0),
        ({"a": ["x", "x"]}, {"a": ["x"]}, 2 / 3),
        ({"a": "x"}, {"a": "x", "b": "y"}, 2 / 3),
        ({"a": "x", "b": "y", "c": "z"}, {"a": "x"}, 0.5),
        ({"b": "x"}, {"a": "x"}, 0.0),
        ({"a": []}, {}, 0.0),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, 1.0),
    ],
)
def test_field_f1_compares_leaves(answer, target, score):
    assert SCORERS["field_f1"].row(answer, target) == pytest.approx(score)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(json_values, json_values)
def test_field_f1_is_symmetric_and_one_wherever_exact_is(one, other):
    score = SCORERS["field_f1"].row
    assert score(one, other) == score(other, one)
    assert 0 <= score(one, other) <= 1
    if one is not None:
        assert score(one, one) == 1
    if SCORERS["exact"].row(one, other) and one is not None and not isinstance(one, str):
        assert score(one, other) == 1


def test_json_nested_as_deep_as_an_answer_may_be_is_scored():
    deep = read_answer('{"a":' * 99 + "1" + "}" * 99, kind="json")
    assert deep is not None
    assert SCORERS["field_f1"].row(deep, deep) == SCORERS["exact"].row(deep, deep) == 1


def test_micro_f1_pools_fields_where_field_f1_averages_rows():
    targets = [{"a": 1}, {"a": 1, "b": 2, "c": 3}]
    answers = [{"a": 1}, {"a": 0, "b": 0, "c": 0}]
    assert SCORERS["field_f1"].summary(answers, targets) == 0.5
    assert micro_f1(answers, targets) == 0.25
    assert micro_f1([None, None], targets) == 0


def test_the_other_numbers_of_each_kind_are_named():
    assert secondary("accuracy", ["a", None, "a"], ["a", "a", "b"]) == (
        ("macro_f1", pytest.approx(0.25)),
        ("readable", pytest.approx(2 / 3)),
    )
    names = {
        (metric, kind): [name for name, _ in secondary(metric, GOLD[kind], GOLD[kind])]
        for metric, kind in CONTRACT
    }
    assert names["field_f1", "json"] == ["exact", "micro_f1", "readable"]
    assert names["exact", "json"] == ["field_f1", "micro_f1", "readable"]
    assert names["rouge_l", "text"] == ["exact", "readable"]
    assert names["mae", "number"] == ["spearman", "readable"]
    assert names["exact", "number"] == ["mae", "spearman", "readable"]
    assert names["exact", "text"] == ["readable"]
    assert names["execution", "text"] == ["runs", "exact", "readable"]
    assert names["tool_call", "tool_call"] == ["names_right", "readable"]


def test_macro_f1_takes_labels_for_the_same_that_accuracy_does():
    answers, targets = ["é", "credit card", "b"], ["e\u0301", "credit\u00a0 card", "b"]
    assert SCORERS["accuracy"].summary(answers, targets) == SCORERS["macro_f1"].summary(answers, targets) == 1
    assert SCORERS["macro_f1"].summary(["E", "b"], ["e", "b"]) == 0.5
