"""Answers under a vocabulary that puts a blank first: the text is what its tokens spell, cut or whole.

That is so in llama.cpp and in torch, whose decoders take the first blank of a text away.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rung.engines import start
from rung.engines.base import Engine, EngineSpec, Request
from rung.models.chat import load_chat
from rung.models.resolve import Model, resolve
from rung.models.weights import dequantised
from tests.fixtures_spaces import make_spaced_gguf

COUNT = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return resolve(str(make_spaced_gguf(tmp_path_factory.mktemp("spaced") / "spaced.gguf")))


@pytest.fixture(scope="module", params=["llama", "torch"])
def engine(request, model) -> Iterator[Engine]:
    spec = EngineSpec(engine=request.param, context=128, parallel=2, threads=1)
    files = {"gguf": model.gguf} if request.param == "llama" else {"weights": dequantised(model)}
    engine = start(replace(spec, **files))
    yield engine
    engine.close()


def requests(seed: int, **changes) -> list[Request]:
    dice = random.Random(seed)
    prompts = [tuple(dice.randrange(300, 380) for _ in range(6)) for _ in range(COUNT)]
    made = [Request(prompt=prompt, max_tokens=5) for prompt in prompts]
    return [replace(one, temperature=1.5, seed=place, **changes) for place, one in enumerate(made)]


@pytest.fixture(scope="module")
def spell(model):
    tokens = load_chat(model).tokens
    steering = set(tokens.control.values())

    def spelled(ids) -> str:
        return b"".join(tokens.token_bytes(i) for i in ids if i not in steering).decode("utf-8", "replace")

    return spelled


def test_a_first_blank_that_was_written_stands_in_the_text(engine, model, spell):
    tokens = load_chat(model).tokens
    found = engine.generate(requests(seed=1, stop_ids=(2,)))
    whole = [one for one in found if "�" not in one.text]
    assert [one.text for one in whole] == [spell(one.tokens) for one in whole] and len(whole) > 5
    begun = [one for one in found if one.tokens and tokens.texts[one.tokens[0]].startswith("▁")]
    assert begun and all(one.text.startswith(" ") for one in begun)


def test_an_answer_that_a_string_cuts_has_the_fewest_tokens_that_spell_it(engine, spell):
    asked = requests(seed=2)
    cut = 0
    for free, request in zip(engine.generate(asked), asked, strict=True):
        if "�" in free.text or len(free.text) < 3:
            continue
        stop = free.text[len(free.text) // 2 :][:2]
        (one,) = engine.generate([replace(request, stop=(stop,))])
        assert one.text == free.text[: free.text.index(stop)] and not one.truncated
        assert spell(one.tokens).startswith(one.text)
        assert not one.tokens or len(spell(one.tokens[:-1])) < len(one.text)
        cut += 1
    assert cut > 5


def test_an_answer_that_a_token_cuts_is_what_stands_before_it(engine, spell):
    asked = requests(seed=3)
    cut = 0
    for free, request in zip(engine.generate(asked), asked, strict=True):
        place = 2
        if len(free.tokens) <= place or free.tokens[place] in free.tokens[:place]:
            continue
        (one,) = engine.generate([replace(request, stop_ids=(free.tokens[place],))])
        assert one.tokens == free.tokens[:place]
        if "�" not in (text := spell(one.tokens)):
            assert one.text == text
            cut += 1
    assert cut > 5
