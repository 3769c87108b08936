import random
from dataclasses import replace

import pytest

from rung.climb.floor import floor, with_floor
from rung.records import Answer, Decision, Example, RungResult
from rung.scoring.measure import measurement

DECISION = Decision(
    kind="clear_winner", chosen="sft", best="sft", comparisons=(), margin=0.02, sentence="Ship sft: it wins."
)


def rows(outputs, *, groups=None):
    return [
        Example(id=f"r{at}", input=f"{at}", output=output, group=None if groups is None else groups[at])
        for at, output in enumerate(outputs)
    ]


def shipped(examples, answers, metric="accuracy", split="test"):
    found = measurement(
        system="s",
        split=split,
        metric=metric,
        examples=examples,
        answers=[a if isinstance(a, Answer) else Answer(text=str(a), value=a) for a in answers],
    )
    return RungResult(rung="sft", order=1, **{split: found})


def found_for(test, answers, train, metric="accuracy", split="test"):
    return floor(shipped(test, answers, metric, split), rows(train), {split: test}, 0)


def test_a_tune_that_gives_one_answer_to_everything_is_told_not_to_do_better_than_that():
    test = rows(["no"] * 60 + ["yes"] * 40)
    found = found_for(test, ["no"] * 100, ["no", "no", "yes"])
    assert (found.answer, found.split, found.score, found.gain, found.beaten) == ("no", "test", 0.6, 0, False)
    told = with_floor(DECISION, found, "accuracy").sentence
    assert told.startswith("Ship sft: it wins. One and the same answer to every row scores .600 on test")
    assert "sft isn't shown to do better (+0.0 points, " in told


def test_one_that_does_worse_is_told_so():
    test = rows(["no"] * 80 + ["yes"] * 20)
    found = found_for(test, ["yes"] * 100, ["no", "no", "yes"])
    assert found.gain == pytest.approx(-0.6)
    assert "sft does worse (-60.0 points, " in with_floor(DECISION, found, "accuracy").sentence


def test_one_that_learned_something_has_the_verdict_that_it_had():
    test = rows(["no"] * 60 + ["yes"] * 40)
    found = found_for(test, ["no"] * 60 + ["yes"] * 30 + ["no"] * 10, ["no", "no", "yes"])
    assert found.beaten
    assert found.gain == pytest.approx(0.3)
    assert found.p < 0.001
    assert with_floor(DECISION, found, "accuracy") == DECISION


def test_of_errors_the_median_of_the_rows_learned_from_is_the_floor():
    values = [random.Random(at).gauss(2.5, 1.5) for at in range(200)]
    test = rows(values)
    bad = found_for(test, [1.0] * 200, [2.0, 2.5, 7.0], "mae")
    assert (bad.answer, bad.beaten) == ("2.5", False)
    assert bad.gain_interval.high < 0
    assert "does worse (gain \N{MINUS SIGN}" in with_floor(DECISION, bad, "mae").sentence
    assert found_for(test, [v + 0.1 for v in values], [2.0, 2.5, 7.0], "mae").beaten


def test_rows_of_one_group_show_nothing_above_it():
    test = rows(["no"] * 30 + ["yes"] * 30, groups=["one"] * 60)
    assert not found_for(test, ["no"] * 30 + ["yes"] * 30, ["no", "yes"]).beaten


def test_what_broke_is_left_out_of_the_pairs():
    test = rows(["no"] * 50 + ["yes"] * 50)
    answers = ["no"] * 50 + ["yes"] * 40 + [Answer(text="", failure="timed out")] * 10
    found = found_for(test, answers, ["no"])
    assert found.gain == pytest.approx(40 / 90)


def test_dev_counts_where_the_test_was_not_opened_for_it_and_nothing_shipped_has_no_floor():
    dev = rows(["no", "yes"] * 40)
    assert found_for(dev, ["no", "yes"] * 40, ["no"], split="dev").split == "dev"
    assert floor(None, rows(["no"]), {"dev": dev}, 0) is None
    assert floor(RungResult(rung="sft", order=1), rows(["no"]), {"dev": dev}, 0) is None
    assert with_floor(replace(DECISION, chosen=None), None, "accuracy").sentence == DECISION.sentence
