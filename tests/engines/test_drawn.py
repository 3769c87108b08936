"""What the torch engine tells of how an answer was drawn: every token, and what a schema let through."""

import numpy as np
import pytest
import torch

from rung.engines.base import EngineSpec, Request
from rung.engines.torch import TorchEngine
from rung.errors import EngineError
from tests.fixtures_tiny import END, VOCABULARY, reference_logprobs, tiny, tiny_folder

PROMPT = (5, 6, 7)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    model = tiny(dtype=torch.float32)
    folder = tiny_folder(tmp_path_factory.mktemp("weights"), model)
    found = TorchEngine(EngineSpec(engine="torch", weights=folder, context=64, threads=1), model=model)
    yield found
    found.close()


def draws(engine, count: int, **asked):
    requests = [
        Request(prompt=PROMPT, temperature=1.0, seed=seed, **{"max_tokens": 12, "stop_ids": (END,)} | asked)
        for seed in range(count)
    ]
    return requests, engine.generate(requests)


def test_what_was_drawn_are_the_answers_tokens_and_the_one_that_ended_it(engine):
    _, found = draws(engine, 60, max_tokens=200 // 5, stop_ids=(END, *range(100, 130)))
    ended = [one for one in found if not one.truncated]
    assert len(ended) > 20
    for one in ended:
        assert one.drawn[:-1] == one.tokens and one.drawn[-1] in (END, *range(100, 130))
    assert len({one.drawn[-1] for one in ended}) > 5
    assert all(one.drawn == one.tokens for one in found if one.truncated)


def test_tokens_behind_a_stop_string_were_drawn_too(engine):
    _, found = draws(engine, 60, stop=("a", "e", "r", "t"))
    cut = [one for one in found if len(one.tokens) < len(one.drawn) and one.drawn[-1] != END]
    assert cut
    for one in cut:
        assert one.drawn[: len(one.tokens)] == one.tokens


def test_the_tokens_that_a_schema_let_through_are_those_that_were_drawn_from(engine):
    requests, found = draws(engine, 40, schema=SCHEMA)
    free = 0
    for request, one in zip(requests, found, strict=True):
        bits = engine.let_through(request, one.drawn)
        assert bits.shape == (len(one.drawn), -(-VOCABULARY // 8))
        whole = np.unpackbits(bits, axis=1, count=VOCABULARY, bitorder="little").astype(bool)
        assert all(whole[place, token] for place, token in enumerate(one.drawn))
        free += int((whole.sum(1) > 1).sum())
        # Drawn again from these alone, by the same generator, with plain log-probabilities.
        dice = torch.Generator().manual_seed(request.seed)
        logprobs = reference_logprobs(engine.model, (*PROMPT, *one.drawn))[len(PROMPT) - 1 :]
        for place, token in enumerate(one.drawn):
            masked = logprobs[place].double().masked_fill(~torch.from_numpy(whole[place]), -torch.inf)
            ends = masked.softmax(-1).cumsum(-1)
            at = float(torch.rand(1, dtype=torch.float64, generator=dice))
            assert whole[place, token] and ends[token] - masked.softmax(-1)[token] - 1e-4 <= at
            assert at <= ends[token] + 1e-4
    assert free > 80


def test_an_answer_without_a_schema_may_have_any_token(engine):
    requests, found = draws(engine, 1)
    assert engine.let_through(requests[0], found[0].drawn) is None


def test_tokens_that_a_schema_forbids_cannot_have_been_drawn(engine):
    requests, found = draws(engine, 1, schema=SCHEMA)
    with pytest.raises(EngineError, match="token 200 at place 1 isn't one that the JSON Schema lets through"):
        engine.let_through(requests[0], (found[0].drawn[0], 200))
