import math

import pytest

from rung.engines import llama_wire as wire
from rung.engines.base import Request


def probabilities(*pairs: tuple[int, float]) -> dict:
    return {"completion_probabilities": [{"top_probs": [{"id": i, "prob": p} for i, p in pairs]}]}


def test_an_answer_never_asks_for_more_than_the_context_has_room_for():
    request = Request(prompt=(1, 2), max_tokens=100)
    assert wire.completion_call(request, 7, 0)["n_predict"] == 7
    assert wire.completion_call(request, 700, 0)["n_predict"] == 100


def test_no_seed_is_the_one_with_which_the_server_draws_its_own():
    sent = [
        wire.completion_call(Request(prompt=(1,), max_tokens=1, seed=seed), 9, 0)["seed"]
        for seed in (-1, 2**32 - 1, *range(-17, -1), *range(17))
    ]
    assert wire.DRAWN_SEED not in sent and sent[0] == sent[1]
    assert len(set(sent[1:])) == len(sent) - 1


def test_a_schema_travels_as_a_grammar_without_white_space():
    request = Request(prompt=(1,), max_tokens=5, schema={"type": "object", "properties": {"a": {}}})
    grammar = wire.completion_call(request, 9, 0)["grammar"]
    assert str(grammar).startswith("%llguidance")
    assert '"whitespace_flexible": false' in str(grammar)
    assert "grammar" not in wire.completion_call(Request(prompt=(1,), max_tokens=5), 9, 0)


def test_probabilities_are_read_in_the_order_asked_and_zero_becomes_minus_infinity():
    found = wire.read_among(probabilities((5, 0.75), (3, 0.25), (4, 0.0)), [3, 4, 5])
    assert found == [math.log(0.25), -math.inf, math.log(0.75)]


@pytest.mark.parametrize("answer", [probabilities((5, 0.5), (99, 0.5)), {"content": "�"}])
def test_probabilities_that_are_not_of_the_tokens_asked_for_are_not_read(answer):
    assert wire.read_among(answer, [3, 5]) is None


def test_a_token_without_a_report_makes_the_sum_unknown():
    steps = [{"id": 1, "logprob": -1.0}, {"id": 3, "logprob": -2.0}]
    assert wire.read_logprob({"tokens": [1, 3, 4], "completion_probabilities": steps}, 2) == -3.0
    assert math.isnan(wire.read_logprob({"tokens": [1, 2, 3], "completion_probabilities": steps}, 3))
    assert math.isnan(wire.read_logprob({"tokens": [1]}, 1))


def test_what_is_no_number_is_read_as_none_is():
    """JSON has no NaN: the server writes null for each."""
    steps = [{"id": 1, "logprob": None}]
    assert math.isnan(wire.read_logprob({"tokens": [1], "completion_probabilities": steps}, 1))
    assert all(map(math.isnan, wire.read_among(probabilities((5, None), (3, None)), [3, 5]) or [0.0]))
    top = {"completion_probabilities": [{"top_logprobs": [{"id": 7, "logprob": None}]}]}
    assert math.isnan(wire.read_top(top)[7])


def test_the_first_stop_token_counts():
    assert wire.first_stop([5, 6, 7, 6], (6, 7)) == 1
    assert wire.first_stop([5, 6], ()) == 2


def test_tokens_that_are_text_of_an_answer_are_named_to_the_server():
    asked = Request(prompt=(1,), max_tokens=1, shown=("<escape>",))
    assert wire.completion_call(asked, 9, 0)["preserved_tokens"] == ["<escape>"]
    assert "preserved_tokens" not in wire.completion_call(Request(prompt=(1,), max_tokens=1), 9, 0)
