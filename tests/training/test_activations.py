"""Models without a packed form: what passes keep, how much goes through at once, blocks that run again."""

from collections.abc import Sequence

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Phi3Config, Phi3ForCausalLM

from rung.engines import lora
from rung.engines.packed import KEPT_SHARE, packed
from rung.engines.parallel import workers
from rung.errors import TrainingError
from rung.task import Tuning
from rung.training import activations, loop
from rung.training.activations import Kept, Room, counted, kept_by, room_for, run_again, within
from rung.training.batches import Row, epoch
from rung.training.learned import Learned
from rung.training.loop import Settings, Trainer, batch_loss
from rung.training.methods import begun
from rung.training.parts import parts
from rung.training.passes import token_s
from tests.fixtures_tiny import DEVICE, SIZES, WINDOW, randomise, tiny
from tests.training.test_loop import ROWS

SETTINGS = Settings(learning_rate=5e-3, batch_size=6, rank=4, alpha=8, warmup=5, seed=1)
COUNTING = 3
"""Passes that count what is kept."""
ALIKE = [Row(prompt=(3, 4, 5, 6, 7), answer=(10 + n % 5, 20, 0)) for n in range(12)]


def unpacked(kind: str, dtype: torch.dtype = torch.float64):
    """Models that packs don't know: `phi` has projections in one matrix, scores of `gemma2` are capped."""
    torch.manual_seed(0)
    if kind == "phi":
        model = Phi3ForCausalLM(Phi3Config(**SIZES))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, sliding_window=WINDOW))
        model.set_attn_implementation("eager")
    model = model.to(DEVICE, dtype).eval()
    assert packed(model) is None
    return model


def tuned(name: str) -> tuple[object, Learned]:
    """A model and what of it learns, by the names that the tests have."""
    kind, method = name.split()
    if kind in ("phi", "gemma2"):
        model = unpacked(kind)
    elif method == "qlora":  # bitsandbytes packs no fp64
        model = tiny(kind, dtype=torch.float32, hidden_size=64, intermediate_size=128)
    else:
        model = tiny(kind)
    learned = begun(model, Tuning(method=method, rank=4), seed=0, longest=20)
    if not learned.own:
        randomise(model)
    return model, learned


TUNED = ("phi lora", "gemma2 lora", "phi dora", "phi full", "llama full", "qwen2 qlora")


def room_of(tokens: int) -> Room:
    return Room(kept=Kept(call=0, token=1, pair=0, state=1, blocks=2), free=tokens)


def reads_of(model) -> list[int]:
    """Grows by the tokens that a block reads, each time that it does."""
    reads: list[int] = []
    mlp = model.model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda module, given: reads.append(given[0].shape[:2].numel()))
    return reads


def slopes_of(model, learned: Learned, room: Room | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    parameters = [p for group, _ in learned.groups for p in group]
    with torch.enable_grad(), run_again(model, room):
        loss = batch_loss(model, ROWS[:6])
        return loss.detach(), list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("training", [True, False])
def test_blocks_that_run_again_change_neither_the_loss_nor_its_gradient(name, training):
    model, learned = tuned(name)
    model.train(training)
    reads = reads_of(model)
    loss, slopes = slopes_of(model, learned, None)
    assert len(reads) == 1
    again, found = slopes_of(model, learned, room_of(1))
    assert len(reads) == 3, "once on the way to, once on the way back"
    close = (
        {"rtol": 1e-9, "atol": 1e-12} if slopes[0].dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    )
    torch.testing.assert_close(again, loss, **close)
    for one, other in zip(found, slopes, strict=True):
        torch.testing.assert_close(one, other, **close)
    assert all(bool(slope.any()) for slope in slopes)
    slopes_of(model, learned, room_of(10_000))
    assert len(reads) == 4, "where there is room nothing runs twice"
    assert model.training == training
    assert all(block.training == training for block in model.model.layers)
    assert not any(block.gradient_checkpointing for block in model.model.layers)


def test_nothing_runs_again_where_nothing_learns():
    model, _ = tuned("phi lora")
    reads = reads_of(model)
    with torch.inference_mode(), run_again(model, room_of(1)):
        batch_loss(model, ROWS[:6])
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("kind", "method", "attention", "dtype"),
    [
        ("llama", "lora", "sdpa", torch.float32),
        ("llama", "full", "sdpa", torch.bfloat16),
        ("llama", "dora", "eager", torch.float32),
        ("qwen3", "lora", "eager", torch.bfloat16),
        ("phi", "lora", "sdpa", torch.bfloat16),
        ("gemma2", "lora", "eager", torch.float32),
    ],
)
def test_what_longer_rows_keep_is_told_by_three_short_ones(kind, method, attention, dtype):
    model = unpacked(kind, dtype) if kind in ("phi", "gemma2") else tiny(kind, dtype, attention)
    begun(model, Tuning(method=method, rank=4), seed=0, longest=20)
    kept = counted(model)
    assert (kept.pair > 0) == (attention == "eager"), "attention's weights are kept"
    for rows, tokens in ((1, 60), (5, 40)):
        told = kept.call + rows * (kept.whole(tokens) - kept.call)
        assert told == pytest.approx(kept_by(model, rows, tokens), rel=0.05)


def test_what_is_counted_is_what_a_blocks_parts_keep():
    """Two norms' inputs and outputs; turned queries, keys, values and what is mixed; four times the MLP."""
    model = tiny(dtype=torch.float32)
    lora.attach(model, rank=4, alpha=8, seed=0)
    width, wide, queries, keys, matrices = 32, 48, 32, 16, 7
    numbers = 4 * width + 2 * queries + 2 * keys + 4 * wide + 4 * matrices
    assert counted(model).token == pytest.approx(4 * 2 * numbers, rel=0.15)
    assert counted(model).state == 4 * width and counted(model).blocks == 2


def test_a_row_whose_blocks_run_again_keeps_less():
    kept = Kept(call=100, token=1000, pair=2, state=50, blocks=4)
    assert kept.whole(10) == 100 + 10_000 + 200
    assert kept.again(10) == 4 * 50 * 10 + 10_300 / 4
    fixed = Kept(call=100, token=1000, pair=2, state=50, blocks=0)
    assert fixed.again(10) == fixed.whole(10), "blocks that transformers can't run again"


def test_room_is_a_share_of_what_is_free_for_each_pass(monkeypatch):
    model, learned = tuned("phi full")
    parameters = [p for group, _ in learned.groups for p in group]
    slopes = sum(p.numel() * 8 for p in parameters)
    monkeypatch.setattr(activations, "free_bytes", lambda device: 10**7)
    room = room_for(model, parameters)
    assert room.free == KEPT_SHARE * (10**7 / workers(DEVICE) - slopes)
    fits = room.tokens(10)
    assert room.kept.call + fits * (room.kept.token + 10 * room.kept.pair) <= room.free
    assert room.kept.call + (fits + 1) * (room.kept.token + 10 * room.kept.pair) > room.free
    room.most = 3
    assert room.tokens(10) == 3
    room.free = -1.0
    assert room.tokens(10) == 1, "a row is passed at least"


def test_parts_are_halved_until_they_fit():
    lengths = [9, 8, 7, 3, 2, 1]

    def padded(part):
        return len(part) * max(lengths[i] for i in part)

    assert within([0, 1, 2, 3, 4, 5], padded, 100) == [[0, 1, 2, 3, 4, 5]]
    assert within([0, 1, 2, 3, 4, 5], padded, 16) == [[0], [1, 2], [3, 4, 5]]
    assert within([0, 1, 2, 3, 4, 5], padded, 1) == [[i] for i in range(6)]


def trainer(folder, name: str, rows: Sequence[Row] = ROWS) -> Trainer:
    model, learned = tuned(name)
    return Trainer(model, rows, SETTINGS, folder, "d", learned=learned)


def test_with_memory_enough_a_batch_is_cut_as_if_none_were_counted(tmp_path):
    ours = trainer(tmp_path, "phi lora")
    for batch in epoch(ROWS, 6, 1, 0):
        lengths = [ROWS[i].tokens for i in batch]
        most = loop.tokens_at_once(DEVICE, None)
        cut = parts(lengths, workers(DEVICE), shared=0, slots=None, most=most)
        assert ours._cut(batch) == [[batch[i] for i in part] for part in cut]


@pytest.mark.parametrize("name", ["phi lora", "gemma2 lora", "llama full"])
def test_where_memory_is_short_less_goes_through_at_once_and_the_steps_are_the_same(
    tmp_path, monkeypatch, name
):
    whole = trainer(tmp_path / "whole", name)
    expected = list(whole.run(6))
    ours = trainer(tmp_path / "short", name)
    room = room_for(ours.model, ours.parameters)
    each = room.kept.token + 10 * room.kept.pair
    slopes = sum(p.numel() * p.element_size() for p in ours.parameters)
    enough = (7.5 * each + room.kept.call) / KEPT_SHARE + slopes
    monkeypatch.setattr(activations, "free_bytes", lambda device: enough * workers(DEVICE))
    passed, reads = [], reads_of(ours.model)
    plain = loop.batch_loss

    def noted(model, rows):
        passed.append((len(rows), max(row.tokens for row in rows)))
        return plain(model, rows)

    monkeypatch.setattr(loop, "batch_loss", noted)
    ticks = list(ours.run(6))
    assert ours._room.tokens(10) == 7
    assert all(rows == 1 or rows * longest <= ours._room.tokens(longest) for rows, longest in passed)
    again = [longest for rows, longest in passed if rows * longest > ours._room.tokens(longest)]
    assert again and len(again) < len(passed)
    assert len(reads) == COUNTING + len(passed) + len(again)
    for tick, other in zip(ticks, expected, strict=True):
        assert tick.loss == pytest.approx(other.loss, rel=1e-6)
        assert tick.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
    for one, other in zip(ours.parameters, whole.parameters, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_a_row_that_a_gpu_does_not_hold_is_learned_from_by_blocks_that_run_again(tmp_path, monkeypatch):
    ours = trainer(tmp_path / "ours", "phi lora", ALIKE)
    expected = [tick.loss for tick in trainer(tmp_path / "whole", "phi lora", ALIKE).run(2)]
    plain = loop.batch_loss

    def held(model, rows):
        tokens, longest = sum(row.tokens for row in rows), max(row.tokens for row in rows)
        if tokens <= ours._room.tokens(longest):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return plain(model, rows)

    monkeypatch.setattr(loop, "batch_loss", held)
    assert [tick.loss for tick in ours.run(2)] == pytest.approx(expected, rel=1e-6)


def test_a_row_that_is_too_much_with_its_blocks_run_again_ends_the_run(tmp_path, monkeypatch):
    broke = []

    def never(model, rows):
        broke.append(len(rows))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(loop, "batch_loss", never)
    monkeypatch.setattr(loop, "workers", lambda device: 1)
    with pytest.raises(TrainingError, match=r"a row of \d+ tokens at step 1: .*used up"):
        list(trainer(tmp_path, "phi lora", ALIKE).run(1))
    assert broke == [6, 3, 1, 1], "and once more with its blocks run again"


def test_a_row_is_timed_as_it_will_be_learned_from(monkeypatch):
    model, learned = tuned("gemma2 lora")
    reads = reads_of(model)
    assert token_s(model, learned, ROWS[:1]) > 0
    assert len(reads) == COUNTING + 2
    monkeypatch.setattr(activations, "free_bytes", lambda device: 1)
    assert token_s(model, learned, ROWS[:1]) > 0
    assert len(reads) == COUNTING + 2 + COUNTING + 4, "each of two passes ran again on its way back"


def test_counting_draws_none_of_the_trainings_random_numbers():
    model, _ = tuned("phi lora")
    for block in model.model.layers:
        block.resid_mlp_dropout.p = 0.5
    model.train()
    before = torch.get_rng_state()
    counted(model)
    assert torch.equal(torch.get_rng_state(), before)
    model.model(torch.tensor([[3, 4, 5]], device=DEVICE), use_cache=False)
    assert DEVICE.type == "cuda" or not torch.equal(torch.get_rng_state(), before)
