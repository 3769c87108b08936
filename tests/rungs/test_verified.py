import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.records import Answer
from rung.rungs.verified import AGREED, decided, verified, verified_by_gold


def said(*values, **fields):
    return [Answer(text=str(value), value=value, **fields) for value in values]


BROKEN = Answer(text="", failure="the engine died")
UNREADABLE = Answer(text="???", value=None)


def test_the_answer_that_most_draws_give_is_kept():
    assert verified(said("a", "b", "a"), "label").value == "a"
    assert verified(said({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 3}), "json").value == {"x": 1, "y": 2}


def test_draws_agree_where_the_metrics_would_take_them_for_the_same():
    euros = said({"total": 12, "in": "EUR"}, {"in": "EUR", "total": 12.0}, {"total": 12.0, "in": "USD"})
    assert verified(euros, "json").value == {"total": 12, "in": "EUR"} and decided(euros[:2], "json")
    assert verified(said(12, 12.0, 13), "number").value == 12 and decided(said(12, 12.0), "number")
    assert not decided(said(1, True), "json") and not decided(said([1, 2], [2, 1]), "json")
    first, second = ({"name": name, "arguments": {"at": 9}} for name in ("book", "cancel"))
    both = said([first, second], [second, first])
    assert verified(both, "tool_call").value == [first, second] and decided(both, "tool_call")
    assert not decided(said([first], [first, first]), "tool_call")


@pytest.mark.parametrize(
    ("draws", "reason"),
    [
        (said("a", "b", "c"), "the draws disagree"),
        ([*said("a"), UNREADABLE, UNREADABLE], "the draws disagree"),
        ([UNREADABLE, UNREADABLE], "unreadable"),
        ([BROKEN, BROKEN], "the call broke"),
    ],
)
def test_what_the_draws_do_not_agree_on_is_dropped_with_a_reason(draws, reason):
    kept = verified(draws, "label")
    assert (kept.value, kept.reason) == (None, reason)


def test_a_broken_draw_counts_neither_for_nor_against():
    assert verified([*said("a", "a"), BROKEN], "label").value == "a"
    assert verified([*said("a b", "a b"), BROKEN], "text").value == "a b"


@pytest.mark.parametrize("kind", ["label", "text"])
def test_of_several_draws_one_alone_agrees_with_nothing_however_many_calls_broke(kind):
    assert verified([*said("a"), BROKEN, BROKEN], kind).reason == "the call broke"
    assert verified([*said("a", "b"), BROKEN], kind).reason == "the draws disagree"
    assert verified([*said("a"), UNREADABLE, BROKEN], kind).reason == "the draws disagree"
    assert verified(said("a"), kind).value == "a", "one that is asked once settles it"


def test_a_chosen_label_needs_a_probability_of_a_half():
    assert verified(said("a", probability=0.5), "label").value == "a"
    assert verified(said("a", probability=0.49), "label").reason == "unsure"


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_a_kept_label_was_given_by_at_least_the_agreed_share_and_by_two(labels):
    kept = verified(said(*labels), "label")
    counts = {label: labels.count(label) for label in labels}
    needed = max(AGREED * len(labels), min(2, len(labels)))
    if kept.reason is None:
        assert counts[kept.value] == max(counts.values()) >= needed
    else:
        assert max(counts.values()) < needed


ANSWERS = {
    "label": said("a", "b", "c"),
    "json": said({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 3}, [1]),
    "number": said(1.0, 2.0, 12),
    "text": said("a b c d", "A b, c d!", "a b c", "b c d", "d c b a", "x y", "?", "!!"),
}


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(ANSWERS)))
def test_a_third_draw_is_left_out_only_where_it_would_change_nothing_that_is_kept(data, kind):
    draw = st.sampled_from([*ANSWERS[kind], BROKEN, UNREADABLE])
    first, second, third = (data.draw(draw) for _ in range(3))
    if decided([first, second], kind):
        few, all_ = verified([first, second], kind), verified([first, second, third], kind)
        assert few.value == all_.value and (few.reason is None) == (all_.reason is None)


@settings(deadline=None)
@given(st.data(), st.sampled_from(["label", "json", "number"]))
def test_a_third_draw_is_made_wherever_some_answer_would_change_what_is_kept(data, kind):
    draw = st.sampled_from([*ANSWERS[kind], BROKEN, UNREADABLE])
    first, second = data.draw(draw), data.draw(draw)
    changes = any(
        verified([first, second], kind).value != verified([first, second, third], kind).value
        for third in [*ANSWERS[kind], BROKEN, UNREADABLE]
    )
    assert decided([first, second], kind) is not changes


@pytest.mark.parametrize(
    ("draws", "kind", "is_decided"),
    [
        (said("a", "a"), "label", True),
        (said("a", "b"), "label", False),
        ([*said("a"), BROKEN], "label", False),
        ([BROKEN, UNREADABLE], "json", True),
        (said("the parcel was sent", "The parcel was sent!"), "text", True),
        (said("the parcel was sent on Monday", "the parcel was sent Monday"), "text", False),
    ],
)
def test_two_draws_decide_where_they_agree_or_say_nothing(draws, kind, is_decided):
    assert decided(draws, kind) is is_decided


def test_of_texts_the_one_most_like_the_others_is_kept():
    draws = said("the parcel was sent on Monday", "the parcel was sent Monday", "no idea at all about that")
    assert verified(draws, "text").reason == "the draws disagree"
    draws = said("the parcel was sent on Monday", "the parcel was sent Monday", "parcel was sent on Monday")
    assert verified(draws, "text").value in ("the parcel was sent on Monday",)
    assert verified(said("alone"), "text").value == "alone"


def test_against_gold_an_answer_has_to_be_right():
    assert verified_by_gold(said("b", "a"), "a", "accuracy").value == "a"
    assert verified_by_gold(said("b", "c"), "a", "accuracy").reason == "wrong"
    assert verified_by_gold(said(4.0, 5.0), 5, "mae").value == 5.0
    assert verified_by_gold(said(4.0), 5, "mae").reason == "wrong"
    assert verified_by_gold([UNREADABLE], 5, "mae").reason == "unreadable"
    assert verified_by_gold([BROKEN], 5, "mae").reason == "the call broke"


def test_a_text_may_say_nearly_the_same_in_other_words():
    gold = "The parcel was sent on Monday."
    kept = verified_by_gold(said("Nothing.", "On Monday the parcel was sent"), gold, "rouge_l")
    assert kept.value == "On Monday the parcel was sent"
    assert verified_by_gold(said("Nothing."), gold, "rouge_l").reason == "wrong"
    # A judge isn't asked here: what it would score goes by its wording.
    assert verified_by_gold(said("Nothing.", "On Monday the parcel was sent"), gold, "judge") == kept
    assert verified_by_gold(said("Nothing."), gold, "judge").reason == "wrong"


def test_without_draws_there_is_nothing_to_verify():
    with pytest.raises(ValueError, match="no draws"):
        verified([], "label")
