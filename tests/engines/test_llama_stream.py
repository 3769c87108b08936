"""Streamed events are read into the pieces that may be shown and the answer that they make."""

import math

import pytest

from rung.engines.base import Request
from rung.engines.closing import Closings
from rung.engines.llama_calls import Calls
from rung.engines.llama_stream import Reading
from rung.engines.work import Refused

STOP = 9


def reading(words=None, **changes) -> Reading:
    """An answer of tokens that spell `words`, by id."""

    def vocabulary():
        assert words is not None, "only a schema and a cut ask how tokens are spelled"
        return [words.get(token, "").encode() for token in range(10)]

    request = Request(**{"prompt": (1, 2, 3), "max_tokens": 8, "stop_ids": (STOP,), **changes})
    return Reading(calls=Calls(context=16, closings=Closings(vocabulary)), request=request)


def event(text, *tokens, predicted, stop=None):
    told = [{"id": token, "logprob": -0.5} for token in tokens]
    made = {"content": text, "tokens": tokens, "tokens_predicted": predicted}
    made["completion_probabilities"] = told
    return made if stop is None else {**made, "stop": True, "stop_type": stop}


def test_pieces_are_shown_as_they_come_and_make_the_whole():
    found = reading()
    shown = [
        found.take(event("Hel", 4, predicted=1)),
        found.take(event("lo", 5, predicted=2)),
        found.take(event("", 7, predicted=3)),
        found.take(event("", predicted=3, stop="eos")),
    ]
    assert [one.text for one in shown if one] == ["Hel", "lo"] and shown[-1] is None
    assert found.sent == "Hello" and not found.over
    whole = found.whole()
    assert (whole.text, whole.truncated, whole.prompt_tokens) == ("Hello", False, 3)
    assert (whole.tokens, whole.completion_tokens) == ((4, 5), 2)


def test_probabilities_of_text_that_was_held_back_come_with_what_is_shown():
    found = reading(stop=("lox",))
    shown = [
        found.take(event("He", 4, predicted=1)),
        found.take(event("", 5, predicted=2)),
        found.take(event("", 6, predicted=3)),
        # It might have ended with the stop string's beginning: the next piece shows that it didn't.
        found.take(event("lo,", 7, predicted=4)),
        found.take(event(" I", 8, predicted=5)),
        found.take(event("", predicted=5, stop="limit")),
    ]
    ids = [[step["id"] for step in one.probabilities] for one in shown if one]
    assert ids == [[4], [5, 6], [7, 8]]
    assert [one.text for one in shown if one] == ["He", "lo,", " I"]


def test_the_token_that_makes_a_stop_string_whole_is_not_counted():
    found = reading({4: "t", 5: "leas", 6: "ta"}, stop=("asta",))
    first, held = found.take(event("t", 4, predicted=1)), found.take(event("", 5, predicted=2))
    cut = found.take(event("le", 6, predicted=3))
    found.take(event("", predicted=3, stop="word"))
    assert held is None and first is not None and cut is not None
    assert [[step["id"] for step in one.probabilities] for one in (first, cut)] == [[4], [5]]
    whole = found.whole()
    assert (whole.text, whole.tokens) == ("tle", (4, 5))


def test_a_cut_answer_is_truncated_and_half_a_character_leaves_a_mark():
    found = reading(max_tokens=2)
    found.take(event("a", 4, predicted=1))
    assert found.take(event("", predicted=2, stop="limit")) is None
    whole = found.whole()
    assert (whole.text, whole.truncated) == ("a\N{REPLACEMENT CHARACTER}", True)
    assert whole.completion_tokens == 2


def test_a_character_of_several_tokens_counts_all_of_them():
    found = reading()
    assert found.take(event("\N{WHITE SMILING FACE}", 6, predicted=3)).text == "\N{WHITE SMILING FACE}"
    found.take(event("", predicted=3, stop="limit"))
    assert found.whole().completion_tokens == 3


def test_nothing_is_shown_from_a_stop_token_on():
    found = reading({4: "yes"})
    found.take(event("yes", 4, predicted=1))
    assert found.take(event("<end>", STOP, predicted=2)) is None and found.over
    whole = found.whole()
    assert (whole.text, whole.tokens, whole.truncated) == ("yes", (4,), False)
    assert math.isclose(whole.logprob, -0.5)


def test_what_cannot_be_asked_is_refused_before_a_call_is_made():
    with pytest.raises(Refused, match="prompt has 16 tokens and the context holds 16"):
        reading(prompt=tuple(range(1, 17)))
    call = reading().call(slot=2, probabilities=0)
    assert (call.path, call.body["id_slot"], call.body["n_probs"], call.body["n_predict"]) == (
        "/completion",
        2,
        0,
        8,
    )


def test_a_token_that_steers_the_model_is_counted_and_not_named_where_an_answer_is_cut():
    words = {4: "a", 5: "b", 6: "\n\n"}
    by_text, by_token = reading(words, stop=("\n\n",)), reading(words)
    for found in (by_text, by_token):
        found.take(event("a", 4, predicted=1))
        found.take(event("", 7, predicted=2))
        found.take(event("b", 5, predicted=3))
    by_text.take(event("", 6, predicted=4))
    by_text.take(event("", predicted=4, stop="word"))
    by_token.take(event("<end>", STOP, predicted=4))
    for found in (by_text, by_token):
        whole = found.whole()
        assert (whole.text, whole.tokens, whole.truncated) == ("ab", (4, 7, 5), False)
