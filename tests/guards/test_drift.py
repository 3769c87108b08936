"""KL and losses against formulas written out."""

import pytest
import torch

from rung.engines import lora, prefix
from rung.engines.packed import packed
from rung.guards import drift
from rung.guards.drift import divergence
from rung.training.batches import Row
from tests.fixtures_tiny import randomise, reference_logprobs, tiny

ROWS = [
    Row(prompt=(5, 6, 7), answer=(8, 9)),
    Row(prompt=(11,), answer=(12, 13, 14, 15, 16, 17)),
    Row(prompt=(3, 3, 3, 3, 3), answer=(2,)),
]


def adapted(kind: str = "llama", size: float = 0.3):
    model = tiny(kind)
    lora.attach(model, rank=4, alpha=8, seed=0)
    randomise(model, size)
    return model


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen3"])
def test_divergence_is_the_sum_over_the_vocabulary_written_out(kind):
    model, base = adapted(kind), tiny(kind)
    kl = base_loss = tuned_loss = 0.0
    count = 0
    for row in ROWS:
        p, q = (reference_logprobs(m, (*row.prompt, *row.answer)) for m in (base, model))
        for place, token in enumerate(row.answer, start=len(row.prompt) - 1):
            kl += sum(float(p[place, v].exp() * (p[place, v] - q[place, v])) for v in range(p.shape[1]))
            base_loss -= float(p[place, token])
            tuned_loss -= float(q[place, token])
            count += 1
    found = divergence(model, ROWS)
    assert found.tokens == count == 9
    assert found.kl == pytest.approx(kl / count, rel=1e-5)
    assert found.base_loss == pytest.approx(base_loss / count, rel=1e-5)
    assert found.tuned_loss == pytest.approx(tuned_loss / count, rel=1e-5)
    assert found.kl > 0.01


def test_an_untrained_adapter_has_moved_nowhere():
    model = tiny()
    lora.attach(model, rank=4, alpha=8, seed=0)
    found = divergence(model, ROWS)
    assert found.kl == 0.0 and found.base_loss == found.tuned_loss


def test_the_adapter_is_on_again_afterwards_also_when_the_block_breaks():
    model = adapted()
    before = reference_logprobs(model, range(3, 9))
    with pytest.raises(RuntimeError), lora.switched_off(model):
        assert not torch.allclose(reference_logprobs(model, range(3, 9)), before)
        raise RuntimeError
    assert torch.equal(reference_logprobs(model, range(3, 9)), before)


def test_how_many_rows_are_read_together_changes_nothing(monkeypatch):
    model = adapted()
    whole = divergence(model, ROWS)
    monkeypatch.setattr(drift, "TOKENS_AT_ONCE", 1)
    monkeypatch.setattr(drift, "LOGITS_AT_ONCE", 1)
    apart = divergence(model, ROWS)
    assert apart.kl == pytest.approx(whole.kl, rel=1e-6)
    assert apart.tuned_loss == pytest.approx(whole.tuned_loss, rel=1e-6)


def test_rows_that_a_gpus_memory_does_not_hold_together_are_read_in_halves(monkeypatch):
    model, plain, read = adapted(), drift._sums, []
    whole = divergence(model, ROWS)

    def held(model, rows, *more):
        read.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return plain(model, rows, *more)

    monkeypatch.setattr(drift, "_sums", held)
    assert divergence(model, ROWS).kl == pytest.approx(whole.kl, rel=1e-6) and max(read) == 3


def test_a_model_with_a_prefix_is_made_ready_once_for_all_batches(monkeypatch):
    model, made = tiny(), []
    prefix.attach(model, 4, 0)

    def counted(given):
        made.append(packed(given))
        return made[-1]

    monkeypatch.setattr(drift, "packed", counted)
    monkeypatch.setattr(drift, "TOKENS_AT_ONCE", 1)
    assert divergence(model, ROWS).kl > 0 and len(made) == 1


def test_a_larger_update_moves_further():
    sizes = [divergence(adapted(size=size), ROWS).kl for size in (0.05, 0.15, 0.45)]
    assert sizes == sorted(sizes) and sizes[0] > 0


def test_no_positions_are_refused():
    with pytest.raises(ValueError, match="no positions"):
        divergence(adapted(), [])
