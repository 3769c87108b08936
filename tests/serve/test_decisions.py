import json
import math
import re
from itertools import permutations
from pathlib import Path

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Decision as TheirDecision
from pydantic import ValidationError

from rung.models.head import counted, fit_tfidf, head_files
from rung.serve.decision_wire import DecisionRequest, SystemOneRequest
from rung.serve.decisions import (
    answers,
    check_questions,
    check_systemone,
    choice_confidence,
    decision,
    input_text,
    score_confidence,
    systemone_answers,
    systemone_decision,
)
from rung.spec import Spec
from rung.system import save
from tests.fixtures_serve import LABELS

TOPICS = ("billing", "delivery", "login")
SHARES = (0.2, 0.7, 0.1)
DISTRIBUTIONS = st.lists(st.floats(0.001, 1), min_size=2, max_size=10).map(
    lambda xs: [x / math.fsum(xs) for x in xs]
)


def request(*questions, text="The parcel is late."):
    body = {"model": "m", "input": text, "questions": [{"instructions": "?", **q} for q in questions]}
    return DecisionRequest.model_validate(body)


def asked(question, labels=TOPICS, shares=SHARES):
    (answer,) = answers(request(question).questions, labels, shares)
    return answer


def choice(*values, **more):
    return {"type": "choice", "choices": [{"value": value} for value in values], **more}


def score(*labels, **more):
    return {"type": "score", "levels": [{"label": label} for label in labels], **more}


def one(question, labels=TOPICS, shares=SHARES, name="q"):
    body = {"model": "m", "state": "x", "questions": {name: {"instructions": "?", **question}}}
    return systemone_answers(SystemOneRequest.model_validate(body).questions, labels, shares)[name]


def test_openais_client_gets_what_it_expects_from_a_server_that_answers_so():
    sent = {}

    def serve(call: httpx2.Request) -> httpx2.Response:
        sent.update(json.loads(call.content))
        found = decision(DecisionRequest.model_validate(sent), TOPICS, SHARES, input_tokens=31)
        return httpx2.Response(200, json=found.model_dump())

    client = openai.OpenAI(
        api_key="k",
        base_url="http://here/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(serve)),
    )
    found = client.decisions.create(
        model="winner",
        input="The parcel is late.",
        questions=[
            {
                "type": "choice",
                "name": "topic",
                "instructions": "?",
                "choices": [{"value": t} for t in TOPICS],
            },
            {"type": "predicate", "name": "login", "instructions": "?"},
            {"type": "score", "instructions": "?", "levels": [{"label": t} for t in TOPICS]},
        ],
        safety_identifier="x",
    )
    TheirDecision.model_validate(found.model_dump(), strict=True)
    topic, login, level = found.answers
    assert topic.type == "choice" and topic.choice == "delivery" and topic.name == "topic"
    assert {p.value: p.probability for p in topic.probabilities} == pytest.approx(
        dict(zip(TOPICS, SHARES, strict=True))
    )
    assert login.type == "predicate" and login.probability == pytest.approx(0.1)
    assert level.type == "score" and level.name is None and level.score == pytest.approx(0.9)
    assert [(p.label, p.value) for p in level.probabilities] == [(t, i) for i, t in enumerate(TOPICS)]
    assert (found.model, found.usage.input_tokens, found.usage.output_tokens) == ("winner", 31, 0)
    assert found.usage.total_tokens == 31


@pytest.mark.parametrize("order", permutations(range(3)))
def test_a_choice_takes_the_labels_in_any_order_and_answers_in_the_questions(order):
    found = asked(choice(*(TOPICS[i] for i in order)))
    assert found.choice == "delivery"
    assert [(p.value, p.probability) for p in found.probabilities] == [
        (TOPICS[i], pytest.approx(SHARES[i])) for i in order
    ]


def test_a_choice_among_some_labels_is_of_these_alone():
    found = asked(choice("login", "billing"))
    assert found.choice == "billing"
    assert [p.probability for p in found.probabilities] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    none = asked(choice("login", "billing"), shares=(0.0, 1.0, 0.0))
    assert [p.probability for p in none.probabilities] == [0.5, 0.5] and none.confidence == 0


@pytest.mark.parametrize(
    ("labels", "yes"), [(("no", "yes"), 0.7), (("True", "False"), 0.3), (("0", "1"), 0.7)]
)
def test_booleans_stand_for_labels_that_read_as_yes_and_no(labels, yes):
    found = asked(choice(True, False), labels, (0.3, 0.7))
    assert [(p.value, p.probability) for p in found.probabilities] == [
        (True, pytest.approx(yes)),
        (False, pytest.approx(1 - yes)),
    ]
    assert found.choice is (yes > 0.5)
    assert asked({"type": "predicate"}, labels, (0.3, 0.7)).probability == pytest.approx(yes)
    assert one({"type": "noul"}, labels, (0.3, 0.7)).noul == pytest.approx(yes)


def test_a_boolean_and_a_string_that_stand_for_one_label_are_refused():
    with pytest.raises(ValueError, match="two options stand for the label 'true'"):
        asked(choice(True, "true"), ("true", "false"), (0.5, 0.5))


def test_a_yes_no_question_may_name_a_label_and_then_is_about_that():
    labels, shares = ("positive", "negative"), (0.8, 0.2)
    assert asked({"type": "predicate", "name": "negative"}, labels, shares).probability == 0.2
    assert asked({"type": "predicate", "name": "happy"}, labels, shares).probability == 0.8
    assert one({"type": "noul", "criteria": {"true": "…"}}, name="Delivery").noul == 0.7


def test_levels_are_labels_in_the_questions_order():
    found = asked(score("login", "billing", "delivery"))
    assert found.score == pytest.approx(0.2 * 1 + 0.7 * 2)
    low = one({"type": "score", "criteria": ["login", "delivery"]})
    assert low.score == pytest.approx(0.7 / 0.8) and low.legend == {"0": "login", "1": "delivery"}


def test_levels_that_are_no_labels_stand_for_numbers_in_the_order_of_their_value():
    labels, shares = ("10", "9", "-1.5"), (0.5, 0.3, 0.2)
    found = one({"type": "score", "criteria": ["bad", {"so": "so"}, "good"]}, labels, shares)
    assert found.probabilities == pytest.approx({"0": 0.2, "1": 0.3, "2": 0.5})
    assert found.score == pytest.approx(1.3) and found.legend["1"] == {"so": "so"}
    numbers = one({"type": "score", "criteria": [9, 10]}, labels, shares)
    assert numbers.probabilities == pytest.approx({"0": 0.375, "1": 0.625})


@pytest.mark.parametrize(
    "question",
    [
        choice("delivery", "refund"),
        choice(True, False),
        choice("delivery", "Delivery "),
        score("low", "high"),
        score("low", "mid", "high"),
        score("billing", "mid", "login"),
        {"type": "predicate", "name": "refund"},
        {"type": "predicate"},
    ],
)
def test_a_question_about_anything_else_is_refused_with_the_systems_labels(question):
    with pytest.raises(
        ValueError, match=r"^questions\.0.*the System's labels are 'billing', 'delivery', 'login'$"
    ):
        check_questions(request(question).questions, TOPICS)


@pytest.mark.parametrize(
    "question",
    [
        {"type": "choice", "criteria": {"delivery": None, "refund": None}},
        {"type": "noul"},
        {"type": "score", "criteria": ["low", "high"]},
    ],
)
def test_system_ones_questions_are_refused_in_the_same_way(question):
    body = {"model": "m", "state": "x", "questions": {"q": {"instructions": "?", **question}}}
    with pytest.raises(ValueError, match=r"^questions\.q: .*the System's labels are"):
        check_systemone(SystemOneRequest.model_validate(body).questions, TOPICS)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"type": "choice", "criteria": {"delivery": None}}, "2 to 255 options"),
        ({"type": "choice"}, "2 to 255 options"),
        ({"type": "score", "criteria": {"a": 1}}, "2 to 10 levels"),
        ({"type": "score", "criteria": [str(i) for i in range(11)]}, "2 to 10 levels"),
        ({"type": "noul", "criteria": ["yes"]}, "criteria of a noul are an object"),
    ],
)
def test_criteria_of_another_shape_are_refused(question, said):
    with pytest.raises(ValueError, match=said):
        one(question)


def test_many_labels_are_named_in_part():
    with pytest.raises(ValueError, match=r"'t19' and 57 more$"):
        asked(choice("a", "b"), [f"t{i}" for i in range(77)], [1 / 77] * 77)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "guess", "instructions": "?"}]}, "questions.0"),
        ({"questions": [{"type": "choice", "instructions": "?", "choices": [{"value": 1}]}]}, "choices"),
        ({"input": 7}, "input"),
        ({"model": None}, "model"),
    ],
)
def test_a_body_that_is_no_request_is_refused_with_the_place(changes, said):
    body = {"model": "m", "input": "x", "questions": [{"type": "predicate", "instructions": "?"}], **changes}
    with pytest.raises(ValidationError) as error:
        DecisionRequest.model_validate(body)
    place = ".".join(map(str, error.value.errors()[0]["loc"]))
    assert said in place and (said != "questions" or place == said)


@pytest.mark.parametrize("changes", [{"state": None}, {"questions": {}}, {"images": ["data:image/png;…"]}])
def test_a_body_that_is_no_system_one_request_is_refused(changes):
    body = {"model": "m", "state": "x", "questions": {"q": {"type": "noul", "instructions": "?"}}, **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        SystemOneRequest.model_validate(body)


def test_system_ones_answer_has_its_shape():
    body = {
        "model": "winner",
        "state": {"ticket": "The parcel is late."},
        "questions": {
            "topic": {
                "type": "choice",
                "instructions": {"ask": "?"},
                "criteria": {"login": "…", "delivery": None, "billing": None},
            },
            "login": {"type": "noul", "instructions": ["?"]},
        },
    }
    found = systemone_decision(SystemOneRequest.model_validate(body), TOPICS, SHARES, input_tokens=9)
    assert found.model_dump() == {
        "model": "winner",
        "answers": {
            "topic": {
                "type": "choice",
                "choice": "delivery",
                "confidence": pytest.approx((0.7 - 1 / 3) / (2 / 3)),
                "probabilities": pytest.approx({"login": 0.1, "delivery": 0.7, "billing": 0.2}),
            },
            "login": {"type": "noul", "noul": 0.1},
        },
        "usage": {"input_tokens": 9, "output_tokens": 0},
    }
    assert list(found.answers["topic"].probabilities) == ["login", "delivery", "billing"]


@given(DISTRIBUTIONS)
def test_confidences_go_from_0_where_all_are_alike_to_1_where_one_has_all(shares):
    for confidence in (choice_confidence, score_confidence):
        n = len(shares)
        assert 0 <= confidence(shares) <= 1
        assert confidence([1 / n] * n) == pytest.approx(0, abs=1e-12)
        assert confidence([0.0] * (n - 1) + [1.0]) == 1


def test_a_scale_is_less_sure_the_farther_its_levels_lie_apart():
    near, far = score_confidence([0.6, 0.4, 0, 0]), score_confidence([0.6, 0, 0, 0.4])
    assert near == pytest.approx(1 - 0.4) and far == 0
    assert choice_confidence([0.6, 0.4, 0, 0]) == choice_confidence([0.6, 0, 0, 0.4])


@given(DISTRIBUTIONS, st.data())
def test_probabilities_of_any_question_sum_to_one_and_the_choice_is_the_likeliest(shares, data):
    labels = [f"l{i}" for i in range(len(shares))]
    some = data.draw(st.lists(st.sampled_from(labels), min_size=2, unique=True))
    found = asked(choice(*some), labels, shares)
    of = {p.value: p.probability for p in found.probabilities}
    assert math.fsum(of.values()) == pytest.approx(1) and of[found.choice] == max(of.values())
    level = asked(score(*some), labels, shares)
    assert 0 <= level.score <= len(some) - 1 + 1e-9
    assert math.fsum(p.probability for p in level.probabilities) == pytest.approx(1)


def test_inputs_become_the_systems_text():
    turns = [{"role": "user", "content": "Where is it?"}]

    def read(messages):
        return " / ".join(turn["content"] for turn in messages)

    assert input_text("as it is", read) == "as it is"
    assert input_text(turns, read) == input_text({"messages": turns}, read) == "Where is it?"
    assert input_text({"a": ["é", 1]}, read) == '{"a": ["é", 1]}'
    assert input_text([1, 2], read) == "[1, 2]"
    assert input_text({"messages": turns, "more": 1}, read).startswith('{"messages"')


def test_messages_in_parts_are_decided_as_their_text_is(tiny):
    def decided(given):
        questions = [choice(*LABELS, instructions="?")]
        return tiny.user.decisions.create(model="desk", input=given, questions=questions).answers

    def parts(*content):
        return [{"role": "user", "content": [*content]}]

    text = "The refund of my invoice is late"
    assert decided(parts({"type": "input_text", "text": text})) == decided(text)
    assert decided(parts({"type": "input_json", "data": {"invoice": 1}})) == decided('{"invoice": 1}')
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    with pytest.raises(openai.BadRequestError, match="'function_call', which is no message") as caught:
        decided([*parts({"type": "input_text", "text": text}), call])
    assert caught.value.param == "input"


def blocks(language):
    page = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def test_the_pages_requests_are_answered():
    labels, shares = ("facilities", "hardware", "network", "other"), (0.1, 0.1, 0.6, 0.2)
    ours, theirs = map(json.loads, blocks("json"))
    queue, network = answers(DecisionRequest.model_validate(ours).questions, labels, shares)
    assert queue.choice == "network" and network.probability == 0.6
    found = systemone_answers(SystemOneRequest.model_validate(theirs).questions, labels, shares)
    assert found["queue"].probabilities == {p.value: p.probability for p in queue.probabilities}
    assert found["network"].noul == 0.6 and found["queue"].confidence == queue.confidence


def test_the_pages_program_runs(tmp_path, monkeypatch, capsys):
    texts, targets = ["the Wi-Fi is down", "no network", "a broken mouse"], ["network", "network", "hardware"]
    made = fit_tfidf(counted(texts), targets, 1.0, 0)
    spec = Spec(rung="head", task="t", kind="label", labels=made.labels, engine="head", features="tfidf")
    save(tmp_path / "runs" / "demo" / "winner", spec, head_files(made))
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    exec(compile(program, "docs/decisions.md", "exec"), {})
    (answer,) = TheirDecision.model_validate_json(capsys.readouterr().out).answers
    assert answer.type == "predicate" and answer.probability > 0.5
