import json
import math

import pytest

from rung.engines.base import EngineSpec, Request
from rung.engines.fake import FakeEngine, bytes_of, text_of
from rung.errors import EngineError

SPEC = EngineSpec(engine="fake", context=256)
PROMPTS = [bytes_of(f"question {number}\n") for number in range(200)]
LABELS = [bytes_of(label + "\0") for label in ("spam", "ham", "other")]


def test_bytes_and_text_are_inverses():
    assert text_of(bytes_of("naïve 🦜")) == "naïve 🦜"


def test_a_known_answer_is_given_by_generate_and_by_choose():
    engine = FakeEngine(SPEC, answers={prompt: LABELS[2] for prompt in PROMPTS})
    (completion,) = engine.generate([Request(prompt=PROMPTS[0], max_tokens=20, stop_ids=(0,))])
    assert completion.text == "other"
    assert not completion.truncated
    assert {choice.index for choice in engine.choose(PROMPTS, LABELS)} == {2}


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_about_the_asked_share_of_known_answers_is_followed(accuracy):
    engine = FakeEngine(SPEC, answers={prompt: LABELS[0] for prompt in PROMPTS}, accuracy=accuracy)
    requests = [Request(prompt=prompt, max_tokens=20, stop_ids=(0,)) for prompt in PROMPTS]
    right = sum(completion.text == "spam" for completion in engine.generate(requests))
    assert right / len(PROMPTS) == pytest.approx(accuracy, abs=0.1)


def test_another_seed_gives_other_answers():
    requests = [Request(prompt=PROMPTS[0], max_tokens=20)]
    assert (
        FakeEngine(SPEC, seed=1).generate(requests)[0].text
        != FakeEngine(SPEC, seed=2).generate(requests)[0].text
    )


def test_the_distribution_is_normalised_over_its_whole_vocabulary():
    engine = FakeEngine(SPEC)
    (logprobs,) = engine.next_logprobs([PROMPTS[0]], range(1 << 20))
    assert math.fsum(map(math.exp, logprobs)) == pytest.approx(1.0, abs=1e-9)


def test_a_schema_is_answered_by_its_smallest_instance():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    (completion,) = FakeEngine(SPEC).generate([Request(prompt=PROMPTS[0], max_tokens=50, schema=schema)])
    assert json.loads(completion.text) == {"a": ""}
    assert bytes_of(completion.text) == completion.tokens


def test_a_stop_string_and_what_follows_it_are_left_out_of_text_and_tokens():
    engine = FakeEngine(SPEC, answers={PROMPTS[0]: bytes_of("one\ntwo")})
    (completion,) = engine.generate([Request(prompt=PROMPTS[0], max_tokens=50, stop=("\n",))])
    assert completion.text == "one"
    assert completion.tokens == bytes_of("one")
    assert not completion.truncated


def test_an_id_outside_the_vocabulary_is_named():
    with pytest.raises(EngineError, match="1048576"):
        FakeEngine(SPEC).next_logprobs([PROMPTS[0]], [1 << 20])


def test_an_accuracy_that_is_no_share_is_refused():
    with pytest.raises(EngineError, match="1.5"):
        FakeEngine(SPEC, accuracy=1.5)
