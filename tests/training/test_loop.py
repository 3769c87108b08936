import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from rung.engines import lora, packed
from rung.errors import RunError, TrainingError
from rung.training import loop
from rung.training.batches import Row, epoch
from rung.training.loop import Settings, Trainer, batch_loss
from tests.fixtures_tiny import DEVICE, randomise, tiny

ROWS = [
    Row(prompt=tuple(range(3, 5 + i % 7)), answer=(10 + i % 5, 20 + i % 3, 0)[i % 2 :]) for i in range(37)
]
SETTINGS = Settings(learning_rate=5e-3, batch_size=4, rank=4, alpha=8, warmup=5, seed=1)


def trainer(folder: Path, *, model=None, rows=ROWS, settings=SETTINGS, digest: str = "d") -> Trainer:
    return Trainer(model or tiny(), rows, settings, folder, digest)


def parameters(one: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in one.parameters]


def same(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def plain_rate(step: int, decay: tuple[int, int] | None) -> float:
    """Warm-up over 5 steps to 5e-3, then constant, then a straight line towards 0; `step` counts from 0."""
    rate = 5e-3 * (step + 1) / 5 if step < 5 else 5e-3
    if decay and step >= decay[0]:
        rate *= (decay[1] - step) / (decay[1] - decay[0])
    return rate


def test_twenty_steps_are_those_of_torchs_adamw_with_clipping_warm_up_and_decay(tmp_path):
    ours = trainer(tmp_path)
    norms = [tick.grad_norm for tick in ours.run(12)] + [t.grad_norm for t in ours.run(20, decay=(12, 20))]
    model = tiny()
    lora.attach(model, rank=4, alpha=8, seed=1)
    theirs = lora.parameters(model)
    groups = [{"params": theirs[0::2], "times": 1}, {"params": theirs[1::2], "times": 16}]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    cut = [batch for number in range(2) for batch in epoch(ROWS, 4, 1, number)]
    for step in range(20):
        for group in optimiser.param_groups:
            group["lr"] = group["times"] * plain_rate(step, (12, 20) if step >= 12 else None)
        optimiser.zero_grad()
        batch_loss(model, [ROWS[i] for i in cut[step]]).backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        assert norms[step] == pytest.approx(float(norm), rel=1e-9)
        optimiser.step()
    assert max(norms) > 1
    for one, other in zip(ours.parameters, [*theirs[0::2], *theirs[1::2]], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 12, 25])
def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(tmp_path, monkeypatch, tokens):
    whole = trainer(tmp_path / "whole")
    expected = list(whole.run(3))
    monkeypatch.setattr(loop, "TOKENS_AT_ONCE", tokens)
    ours = trainer(tmp_path / "parts")
    for tick, plain in zip(ours.run(3), expected, strict=True):
        assert tick.loss == pytest.approx(plain.loss, rel=1e-12)
        assert tick.grad_norm == pytest.approx(plain.grad_norm, rel=1e-10)
    for one, other in zip(ours.parameters, whole.parameters, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")


def on_a_processor() -> None:
    torch.empty(2**55, dtype=torch.uint8)


def short_of_memory(monkeypatch, most: int, break_off=on_a_gpu) -> list[int]:
    """Lets so many tokens through a model at once; tells of each pass that had more."""
    broke, plain = [], loop.packed_loss

    def held(model, rows, shared=0):
        if (tokens := sum(row.tokens for row in rows)) > most:
            broke.append(tokens)
            break_off()
        return plain(model, rows, shared)

    monkeypatch.setattr(loop, "packed_loss", held)
    return broke


@pytest.mark.parametrize("break_off", [on_a_gpu, on_a_processor])
def test_where_memory_runs_out_parts_get_smaller_and_nothing_else_changes(tmp_path, monkeypatch, break_off):
    whole = trainer(tmp_path / "whole")
    expected = list(whole.run(6))
    monkeypatch.setattr(loop, "workers", lambda device: 1)
    broke = short_of_memory(monkeypatch, 16, break_off)
    ours = trainer(tmp_path / "parts")
    ticks = list(ours.run(6))
    assert 0 < len(broke) < 6, "it's kept that less goes through at once"
    for tick, plain in zip(ticks, expected, strict=True):
        assert tick.loss == pytest.approx(plain.loss, rel=1e-12)
        assert tick.grad_norm == pytest.approx(plain.grad_norm, rel=1e-10)
    for one, other in zip(ours.parameters, whole.parameters, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_a_row_that_alone_is_too_much_for_a_gpu_ends_the_run_with_the_way_out(tmp_path, monkeypatch):
    broke = short_of_memory(monkeypatch, 4)
    said = r"a row of \d+ tokens at step 1: .*used up(?=.*qlora)(?=.*shorter rows)"
    with pytest.raises(TrainingError, match=said):
        list(trainer(tmp_path).run(3))
    assert len(broke) > 1


def test_a_row_that_a_gpu_holds_where_less_is_kept_for_the_way_back_is_learned_from(tmp_path, monkeypatch):
    plain = loop.packed_loss

    def held(model, rows, shared=0):
        if sum(row.tokens for row in rows) <= model.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return plain(model, rows, shared)

    alike = [Row(prompt=(3, 4, 5, 6, 7), answer=(10 + n % 5, 20, 0)) for n in range(8)]
    expected = [tick.loss for tick in trainer(tmp_path / "alike", rows=alike).run(2)]
    monkeypatch.setattr(loop, "packed_loss", held)
    found = [tick.loss for tick in trainer(tmp_path / "kept", rows=alike).run(2)]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def two_workers():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU one part goes through at once anyway")
def test_what_a_processor_has_no_memory_for_is_halved_and_long_rows_go_through_one_at_a_time(
    tmp_path, monkeypatch, two_workers
):
    long = [Row(prompt=tuple(3 + (7 * i + n) % 290 for i in range(60)), answer=(10 + n, 0)) for n in range(8)]
    expected = list(trainer(tmp_path / "whole", rows=long).run(2))
    monkeypatch.setattr(loop, "TOKENS_AT_ONCE", 256)
    alone, plain, tokens = threading.Lock(), loop.packed_loss, []

    def held(model, rows, shared=0):
        tokens.append(sum(row.tokens for row in rows))
        if not alone.acquire(blocking=False):
            on_a_processor()
        try:
            time.sleep(0.05)
            return plain(model, rows, shared)
        finally:
            alone.release()

    monkeypatch.setattr(loop, "packed_loss", held)
    ours = trainer(tmp_path / "ours", rows=long)
    ticks = list(ours.run(2))
    assert ours._most is not None and ours._most < 61 and ours._beside == 1
    assert max(tokens) == 122 and tokens[-4:] == [61] * 4
    for tick, other in zip(ticks, expected, strict=True):
        assert tick.loss == pytest.approx(other.loss, rel=1e-12)
        assert tick.grad_norm == pytest.approx(other.grad_norm, rel=1e-10)


def of_all_lengths(folder: Path, dtype: torch.dtype) -> Trainer:
    """Of rows with 5 to 302 tokens: attention at once, in blocks, and with its weights made again."""
    rows = [
        Row(prompt=tuple(3 + (7 * i + n) % 290 for i in range(4 + 27 * (n % 12))), answer=(10 + n % 5, 0))
        for n in range(37)
    ]
    return trainer(folder, rows=rows, model=tiny(dtype=dtype))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU's kernels add in no fixed order")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_run_that_goes_on_with_little_memory_free_is_the_uninterrupted_run_bit_by_bit(
    tmp_path, monkeypatch, two_workers, dtype
):
    whole = of_all_lengths(tmp_path / "whole", dtype)
    list(whole.run(9))
    assert whole.packed.room == packed.KEPT_TOKENS, "this machine has memory enough"
    first = of_all_lengths(tmp_path / "parts", dtype)
    list(first.run(4))
    first.close()
    ran, tokens, hidden = [], [], packed.Packed.hidden

    def noted(*given, **how):
        ran.append(1)
        return checkpoint(*given, **how)

    def read(made, pack, *more):
        tokens.append(len(pack.ids))
        return hidden(made, pack, *more)

    monkeypatch.setattr(packed, "checkpoint", noted)
    monkeypatch.setattr(packed.Packed, "hidden", read)
    each = sum(map(packed._kept_bytes, whole.packed.blocks))
    monkeypatch.setattr(packed, "free_bytes", lambda device: 2 * 200 * each / packed.KEPT_SHARE)
    rest = of_all_lengths(tmp_path / "parts", dtype)
    list(rest.run(9))
    assert rest.packed.room == 200
    long = sum(count > 200 for count in tokens)
    assert 0 < long < len(tokens) and len(ran) == 2 * long
    assert same(parameters(rest), parameters(whole))
    assert same(rest.moments, whole.moments)


def test_what_else_breaks_in_a_pass_is_not_tried_again(tmp_path, monkeypatch):
    passes = []

    def broken(*_):
        passes.append(1)
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(loop, "workers", lambda device: 1)
    monkeypatch.setattr(loop, "packed_loss", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(trainer(tmp_path).run(3))
    assert len(passes) == 1


def test_where_less_goes_through_at_once_no_more_is_kept_for_the_way_back(tmp_path, two_workers):
    ours = trainer(tmp_path)
    ours.packed.room = 3
    ours._halve(ours._batch(), "used up")
    assert ours.packed.room <= 3


def test_log_probabilities_of_a_batch_that_a_gpu_does_not_hold_are_read_in_halves(monkeypatch):
    model, plain = tiny(), loop.summed_logprobs
    whole, states = loop.answer_logprobs(model, ROWS), loop.answer_states(model, ROWS)

    def held(model, rows, *more):
        if len(rows) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return plain(model, rows, *more)

    monkeypatch.setattr(loop, "summed_logprobs", held)
    assert torch.allclose(loop.answer_logprobs(model, ROWS), whole, atol=1e-10)
    read = loop._padded_states

    def held_states(model, rows):
        if len(rows) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
        return read(model, rows)

    monkeypatch.setattr(loop, "_padded_states", held_states)
    for one, before in zip(loop.answer_states(model, ROWS), states, strict=True):
        assert torch.allclose(one, before, atol=1e-10)


def test_the_loss_falls_and_what_a_tick_says_is_so(tmp_path):
    one = trainer(tmp_path)
    model = tiny()
    lora.attach(model, rank=4, alpha=8, seed=1)
    first = batch_loss(model, [ROWS[i] for i in epoch(ROWS, 4, 1, 0)[0]]).item()
    ticks = list(one.run(80))
    assert [t.step for t in ticks] == list(range(1, 81))
    assert ticks[0].loss == pytest.approx(first, abs=1e-12)
    assert sum(t.loss for t in ticks[-10:]) < 0.5 * sum(t.loss for t in ticks[:10])
    assert all(t.rows_per_s > 0 and t.tokens_per_s > t.rows_per_s for t in ticks)
    assert not one.model.training
    assert list(one.run(80)) == []


def test_the_base_is_frozen(tmp_path):
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(trainer(tmp_path, model=model).run(5))
    after = dict(model.named_parameters())
    assert before.keys() < after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_in_parts_is_the_run_at_once(tmp_path):
    whole = trainer(tmp_path / "whole")
    list(whole.run(23))
    for until in (1, 9, 10, 23):
        part = trainer(tmp_path / "parts")
        assert part.step == {1: 0, 9: 1, 10: 9, 23: 10}[until]
        list(part.run(until))
        part.close()
    assert same(parameters(whole), parameters(part))


def test_arms_take_turns_on_one_model_without_touching_each_other(tmp_path):
    alone = {}
    for rate in (1e-3, 1e-2):
        settings = Settings(learning_rate=rate, batch_size=4, rank=4, alpha=8, warmup=5, seed=1)
        one = trainer(tmp_path / f"alone-{rate}", settings=settings)
        list(one.run(9))
        alone[rate] = parameters(one)
    model, arms = tiny(), {}
    for rate in alone:
        settings = Settings(learning_rate=rate, batch_size=4, rank=4, alpha=8, warmup=5, seed=1)
        arms[rate] = trainer(tmp_path / f"arm-{rate}", settings=settings, model=model)
    for until in (4, 9):
        for rate in alone:
            randomise(model)
            arms[rate].restart()
            list(arms[rate].run(until))
            if until == 9:
                assert same(parameters(arms[rate]), alone[rate])


TRAIN = """
import sys
from pathlib import Path
import torch
from tests.training.test_loop import trainer
torch.set_num_threads(int(sys.argv[2]))
one = trainer(Path(sys.argv[1]))
for tick in one.run(10**6):
    print(tick.step, flush=True)
"""


def test_a_run_killed_in_the_middle_and_resumed_is_the_uninterrupted_run_bit_by_bit(tmp_path):
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(tmp_path / "killed"), str(torch.get_num_threads())],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 11:
            break
    time.sleep(0.013)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    child.stdout.close()
    resumed = trainer(tmp_path / "killed")
    reached = resumed.step
    assert reached >= 11
    list(resumed.run(reached + 7))
    whole = trainer(tmp_path / "whole")
    list(whole.run(reached + 7))
    assert same(parameters(resumed), parameters(whole))
    assert same(resumed.moments, whole.moments)


def test_other_settings_or_rows_are_refused(tmp_path):
    one = trainer(tmp_path)
    list(one.run(2))
    one.close()
    with pytest.raises(RunError, match="another digest"):
        trainer(tmp_path, digest="e")


def test_a_rate_that_is_far_too_high_ends_the_run_with_the_rate(tmp_path):
    settings = Settings(learning_rate=1e200, batch_size=4, rank=4, alpha=8, warmup=0)
    one = trainer(tmp_path, settings=settings)
    with pytest.raises(TrainingError, match=r"at step \d+ with learning rate 1e\+200; a lower rate"):
        list(one.run(20))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([Row(prompt=(1,), answer=())], "no supervised"),
        ([Row(prompt=(), answer=(1,))], "no supe"),
    ],
)
def test_rows_that_teach_nothing_are_refused(tmp_path, rows, message):
    with pytest.raises(TrainingError, match=message):
        trainer(tmp_path, rows=rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_in_coarser_types_too(tmp_path, dtype):
    one = trainer(tmp_path, model=tiny(dtype=dtype))
    ticks = list(one.run(60))
    assert all(math.isfinite(t.loss) for t in ticks)
    assert sum(t.loss for t in ticks[-10:]) < 0.6 * sum(t.loss for t in ticks[:10])
    assert all(p.dtype == torch.float32 for p in one.parameters)
