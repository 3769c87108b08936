"""Where a number ends under a schema: where the model ends it, and not where no more digits fit."""

import random

import pytest

from rung.engines.base import EngineSpec, Request
from rung.engines.llama import LlamaEngine
from rung.engines.schema import grammar
from rung.engines.torch import TorchEngine
from rung.models.chat import Message, load_chat
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from tests.fixtures_climb import make_tiny_gguf

WHOLE = {"type": "integer", "minimum": 0, "maximum": 99999}


def test_the_grammar_lets_any_of_the_stop_tokens_end_the_answer():
    assert grammar(WHOLE) == "%llguidance {}\nstart: %json " + grammar(WHOLE).split("%json ")[1]
    assert grammar(WHOLE, (2, 0, 2)).splitlines()[:3] == [
        "%llguidance {}",
        "start: value end",
        "end: <[0,2]> |",
    ]


def test_llama_ends_a_number_where_torch_does(tmp_path):
    model = resolve(str(make_tiny_gguf(tmp_path / "tiny.gguf")))
    chat, dice = load_chat(model), random.Random(0)
    engines = (
        LlamaEngine(EngineSpec(engine="llama", gguf=model.gguf, context=128, threads=1)),
        TorchEngine(EngineSpec(engine="torch", weights=dequantised(model), context=128, threads=1)),
    )
    requests = [
        Request(
            prompt=tuple(dice.randrange(3, 300) for _ in range(5)),
            max_tokens=8,
            stop_ids=chat.stop_ids,
            schema=WHOLE,
        )
        for _ in range(40)
    ]
    try:
        ours, theirs = ([one.text for one in engine.generate(requests)] for engine in engines)
    finally:
        for engine in engines:
            engine.close()
    assert min(map(len, theirs)) < 5
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    assert same >= 38, list(zip(ours, theirs, strict=True))


@pytest.mark.models
def test_a_real_model_ends_a_number_under_a_schema_as_it_does_without_one():
    model = resolve("smollm2-135m")
    chat = load_chat(model)
    turns = [Message(role=role, content=said) for said in "479" for role in ("user", "assistant")]
    prompt = chat.render([*turns, Message(role="user", content="3")])
    engine = LlamaEngine(EngineSpec(engine="llama", gguf=model.gguf, context=512, threads=1))
    asked = [
        Request(prompt=prompt, max_tokens=8, stop_ids=chat.stop_ids, schema=schema)
        for schema in (None, WHOLE)
    ]
    try:
        assert [one.text for one in engine.generate(asked)] == ["3", "3"]
    finally:
        engine.close()
