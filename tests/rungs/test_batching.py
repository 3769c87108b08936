"""Rows a step: as many as the rows' number allows, fewer where time is short, never so few as not to pay."""

import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rung.engines import lora
from rung.rungs.batching import ENOUGH_STEPS, FEWEST_ROWS, FEWEST_TOKENS, batch_size, fewer
from rung.rungs.tune import Plan, Tune
from rung.training.batches import Row
from rung.training.learned import low_rank
from rung.training.passes import token_s
from tests.fixtures_tiny import randomise, tiny


@given(st.sampled_from([4, 8, 16, 32]), st.floats(1, 1e5), st.floats(2, 2000))
def test_a_step_is_halved_until_there_are_enough_and_no_further(most, fitting, tokens):
    size = fewer(most, fitting=fitting, tokens=tokens)
    assert FEWEST_ROWS <= size <= most
    assert most % size == 0
    if size < most:
        assert size * tokens >= FEWEST_TOKENS
        assert fitting < ENOUGH_STEPS * 2 * size, "twice as many rows would have been too few steps"
    if fitting >= ENOUGH_STEPS * most:
        assert size == most


def test_long_rows_get_small_steps_and_short_ones_keep_theirs():
    assert fewer(16, fitting=300, tokens=427) == 4
    assert fewer(32, fitting=1900, tokens=76) == 16
    assert fewer(32, fitting=1e4, tokens=76) == 32
    assert fewer(32, fitting=300, tokens=15) == 4
    assert fewer(32, fitting=300, tokens=5) == 16
    assert [batch_size(rows) for rows in (10, 199, 200, 1999, 2000, 5000)] == [4, 4, 8, 8, 16, 32]


def a_tune(plan: Plan, records: list[dict], device: str = "cpu") -> Tune:
    """One that was begun, without its model: what settling the batch looks at."""
    made = object.__new__(Tune)
    made.plan, made.records, made.journal = plan, records, plan.folder / "journal.jsonl"
    made.rows = {"words": [Row(prompt=(1,) * 400, answer=(2, 3))] * 50}
    made.lesson = SimpleNamespace(batch=16)  # type: ignore[assignment]
    weight = SimpleNamespace(device=SimpleNamespace(type=device))
    made.model = SimpleNamespace(lm_head=SimpleNamespace(weight=weight))  # type: ignore[assignment]
    made.learned = None  # type: ignore[assignment]
    made.batch = 16
    return made


def test_a_batch_is_settled_once_by_the_time_that_a_token_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("rung.rungs.tune.token_s", lambda *_: 0.01)
    plan = Plan(folder=tmp_path, budget_s=0.0, reserve_s=0.0, seed=0)
    first = a_tune(plan, [])
    first.settle_batch("words", 360.0)
    assert 360.0 / 0.01 / 401 < ENOUGH_STEPS * 4
    assert first.batch == 4
    assert first.find(kind="batch") == {"kind": "batch", "rows": 4}
    monkeypatch.setattr("rung.rungs.tune.token_s", lambda *_: pytest.fail("it's settled"))
    first.settle_batch("words", 360.0)
    given = a_tune(Plan(folder=tmp_path, budget_s=0.0, reserve_s=0.0, seed=0, batch=8), [])
    given.settle_batch("words", 360.0)
    assert given.records == []
    on_gpu = a_tune(plan, [], "cuda")
    on_gpu.settle_batch("words", 360.0)
    assert on_gpu.batch == 16, "there a few rows take as long as many"


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_pass_that_is_timed_teaches_nothing(kind):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=8, seed=0)
    randomise(model)
    before = lora.state(model)
    rows = [Row(prompt=tuple(range(1, size)), answer=(5, 6)) for size in (200, 90, 200)]
    start = time.perf_counter()
    found = token_s(model, low_rank(model), rows)
    assert 0 < found * 292 < time.perf_counter() - start, "the first two rows, once of two times"
    for name, value in lora.state(model).items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())
