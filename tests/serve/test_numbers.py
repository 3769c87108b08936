"""A head that gives numbers, served: the same numbers as where it was scored, and what it doesn't take."""

import json

import openai
import pytest

from rung.rungs.teacher import draws_of
from tests.fixtures_serve import also, make_number_head, row, said

TEXTS = ("my refund please", "the parcel is late", "help")


@pytest.fixture(scope="module")
def worth(tmp_path_factory):
    return make_number_head(tmp_path_factory.mktemp("number") / "worth")


@pytest.fixture(scope="module")
def server(tiny, worth):
    with also(tiny, {"worth": worth.folder}) as found:
        yield found


def test_a_number_is_served_as_it_was_scored_whatever_is_said_of_drawing(server, worth, pool):
    for text, more in zip(TEXTS, ({}, {"temperature": 1}, {"max_tokens": 1}), strict=True):
        (answer,) = worth.answer([row(text)], pool)
        found = server.user.chat.completions.create(model="worth", messages=said(text), **more)
        assert found.choices[0].message.content == answer.text == json.dumps(answer.value)
        pieces = server.user.chat.completions.create(model="worth", messages=said(text), stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices]
        assert "".join(parts) == answer.text
    whole = server.user.completions.create(model="worth", prompt=list(TEXTS))
    assert [choice.text for choice in whole.choices] == [
        a.text for a in worth.answer([*map(row, TEXTS)], pool)
    ]


@pytest.mark.parametrize(
    ("field", "value"), [("logprobs", True), ("response_format", {"type": "json_object"})]
)
def test_what_a_head_of_numbers_does_not_take_is_refused_by_name(server, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        server.user.chat.completions.create(model="worth", messages=said("x"), **{field: value})
    assert caught.value.param == field and "number" in str(caught.value)


def test_as_a_teacher_it_is_asked_once(worth):
    assert draws_of(worth) == 1
