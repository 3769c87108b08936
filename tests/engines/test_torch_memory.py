"""Batches that a GPU's memory doesn't hold: torch's error is raised in the place of more than a few rows."""

import pytest
import torch

from rung.engines.base import EngineSpec, Request
from rung.engines.decode import Decoder
from rung.engines.torch import TorchEngine
from rung.errors import EngineError
from tests.fixtures_tiny import END, tiny, tiny_folder

PROMPTS = [(*range(3, 15), 20 + n, *range(40, 40 + n % 4)) for n in range(9)]


@pytest.fixture(params=["llama", "gemma"])
def engine(request, tmp_path):
    model = tiny(request.param)
    spec = EngineSpec(
        engine="torch", context=64, threads=torch.get_num_threads(), weights=tiny_folder(tmp_path, model)
    )
    return TorchEngine(spec, model=model)


@pytest.fixture
def short_of_memory(monkeypatch):
    """Lets `owner.name` work on so many rows at once; its `rows`th argument has them. Tells of each break."""
    broke = []

    def of(owner, name: str, most: int, rows: int = 0):
        plain = getattr(owner, name)

        def held(self, *given):
            if len(given[rows]) > most:
                broke.append(len(given[rows]))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
            return plain(self, *given)

        monkeypatch.setattr(owner, name, held)
        return broke

    return of


@pytest.mark.parametrize("candidates", [[(5,), (9,), (44,)], [(5, 9, 0), (5, 44, 0), (9, 0)]])
def test_labels_are_chosen_as_in_one_batch(engine, short_of_memory, candidates):
    whole = engine.choose(PROMPTS, candidates)
    broke = short_of_memory(TorchEngine, "_choose_batch", 2)
    found = engine.choose(PROMPTS, candidates)
    assert broke
    for one, before in zip(found, whole, strict=True):
        assert (one.index, one.failure, one.prompt_tokens) == (before.index, None, before.prompt_tokens)
        assert one.logprobs == pytest.approx(before.logprobs, abs=1e-9)


def test_answers_are_written_and_drawn_as_in_one_batch(engine, short_of_memory):
    asked = [
        Request(prompt=prompt, max_tokens=8, stop_ids=(END,), temperature=n % 2, seed=n)
        for n, prompt in enumerate(PROMPTS)
    ]
    whole = engine.generate(asked)
    told = []
    broke = short_of_memory(Decoder, "run", 2)
    found = engine.generate(asked, progress=lambda done, total: told.append(done))
    assert broke and told[-1] == len(asked)
    assert [one.tokens for one in found] == [one.tokens for one in whole]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in whole], abs=1e-9)


def test_log_probabilities_are_read_as_in_one_batch(engine, short_of_memory):
    whole = engine.next_logprobs(PROMPTS, [7, 299, 0])
    broke = short_of_memory(TorchEngine, "_last_hidden", 2)
    for row, before in zip(engine.next_logprobs(PROMPTS, [7, 299, 0]), whole, strict=True):
        assert row == pytest.approx(before, abs=1e-9)
    assert broke


def test_a_row_that_is_too_much_alone_and_a_beginning_that_is_are_the_engines_errors(
    engine, short_of_memory, monkeypatch
):
    short_of_memory(Decoder, "run", 0)
    with pytest.raises(EngineError, match=r"the GPU's memory is used up .*a smaller model"):
        engine.generate([Request(prompt=(5, 6), max_tokens=2)])

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr("rung.engines.torch.empty_rows", full)
    with pytest.raises(EngineError, match="the GPU's memory is used up"):
        engine.choose(PROMPTS, [(5,), (9,)])
