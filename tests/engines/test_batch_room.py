"""How many rows a GPU's memory holds at once. A GPU is what torch tells of it: how many bytes are free."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rung.engines import batch_room as module
from rung.engines.base import EngineSpec, Request
from rung.engines.batch_room import DRAWN, RANKED, SHARE, BatchRoom, batch_room
from rung.engines.decode import Decoder
from rung.engines.held import empty_rows
from rung.engines.packed import packed
from rung.engines.room import GIB
from rung.engines.rows import in_batches
from rung.engines.torch import TorchEngine
from tests.fixtures_peaks import peak_bytes
from tests.fixtures_tiny import END, tiny, tiny_folder

CUDA = torch.device("cuda", 0)
PROMPTS = [(*range(3, 15), 20 + n, *range(40, 40 + n % 7)) for n in range(24)]
PLENTY = 2**40


@pytest.fixture
def on_gpu(monkeypatch):
    """Lets engines count their room as on a GPU that has so many bytes free."""

    def pretend(free: int) -> None:
        monkeypatch.setattr(module, "free_bytes", lambda device: free)
        monkeypatch.setattr(
            "rung.engines.torch.batch_room", lambda model, device, **rest: batch_room(model, CUDA, **rest)
        )

    return pretend


@pytest.fixture(params=["llama", "gemma", "padded"])
def engine(request, tmp_path, monkeypatch):
    """`padded` is a model that isn't known over packs."""
    model = tiny("llama" if request.param == "padded" else request.param)
    if request.param == "padded":
        monkeypatch.setattr("rung.engines.torch.packed", lambda model: None)
    folder = tiny_folder(tmp_path, model)
    spec = EngineSpec(engine="torch", context=64, threads=torch.get_num_threads(), weights=folder)
    return TorchEngine(spec, model=model)


@pytest.fixture
def rows_at_once(monkeypatch):
    """Tells how many rows were given to `owner.name` at a time."""

    def of(owner, name: str) -> list[int]:
        plain, seen = getattr(owner, name), []

        def counted(self, rows, *rest):
            seen.append(len(rows))
            return plain(self, rows, *rest)

        monkeypatch.setattr(owner, name, counted)
        return seen

    return of


def fewer(seen: list[int], on_gpu, little: int, ask):
    """What is asked as on a processor, and where a GPU has plenty of memory free, so little, or none."""
    before = ask()
    usual = seen.copy()
    for free, same in ((PLENTY, True), (little, False), (0, False)):
        on_gpu(free)
        seen.clear()
        found = ask()
        assert sum(seen) == sum(usual) and (seen == usual) is same
        assert free > 0 or max(seen) == 1
        assert free == 0 or max(seen) > 1
        yield before, found


def test_answers_are_written_and_drawn_by_as_many_rows_as_the_gpu_holds(engine, on_gpu, rows_at_once):
    asked = [
        Request(prompt=prompt, max_tokens=8, stop_ids=(END,), temperature=n % 2, seed=n)
        for n, prompt in enumerate(PROMPTS)
    ]
    seen = rows_at_once(Decoder, "run")
    for before, found in fewer(seen, on_gpu, 400_000, lambda: engine.generate(asked)):
        assert [one.tokens for one in found] == [one.tokens for one in before]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in before], abs=1e-9)


@pytest.mark.parametrize("candidates", [[(5,), (9,), (44,)], [(5, 9, 0), (5, 44, 0), (9, 0)]])
def test_labels_are_chosen_by_as_many_rows_as_the_gpu_holds(engine, on_gpu, rows_at_once, candidates):
    seen = rows_at_once(TorchEngine, "_choose_batch")
    for before, found in fewer(seen, on_gpu, 200_000, lambda: engine.choose(PROMPTS, candidates)):
        for one, other in zip(found, before, strict=True):
            assert (one.index, one.failure) == (other.index, None)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)


def test_log_probabilities_are_read_by_as_many_rows_as_the_gpu_holds(engine, on_gpu, rows_at_once):
    seen = rows_at_once(TorchEngine, "_last_hidden")
    for before, found in fewer(seen, on_gpu, 400_000, lambda: engine.next_logprobs(PROMPTS, [7, 299])):
        for one, other in zip(found, before, strict=True):
            assert one == pytest.approx(other, abs=1e-9)


def test_on_a_processor_nothing_is_counted(monkeypatch):
    def asked(device):
        raise AssertionError

    monkeypatch.setattr(module, "free_bytes", asked)
    assert batch_room(tiny(), torch.device("cpu"), packed=True) is None


@pytest.fixture
def plenty(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda device: PLENTY)


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize("over_packs", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma"])
def test_keys_and_values_are_counted_to_the_byte(kind, over_packs):
    model = tiny(kind)
    rows = empty_rows(model, packed(model) if over_packs else None, 3)
    with torch.inference_mode():
        rows.feed([(5, 6, 7, 8)] * 3)
    pairs = rows.own if over_packs else [(layer.keys, layer.values) for layer in rows.cache.layers]
    room = batch_room(model, CUDA, packed=over_packs)
    assert sum(keys.nbytes + values.nbytes for keys, values in pairs) == 3 * 4 * room.kept > 0
    assert batch_room(model, CUDA, packed=over_packs, kept=False).kept == 0


@pytest.mark.usefixtures("plenty")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma"])
def test_what_reading_takes_is_about_what_is_counted(kind):
    model = tiny(kind, hidden_size=256, intermediate_size=512)
    made = packed(model)
    room = batch_room(model, CUDA, packed=True)
    with torch.inference_mode():
        taken = peak_bytes(lambda: made.last([(5, 6, 7, 8) * 12] * 20)) / (48 * 20)
    assert room.read / 3 < taken < room.read


@pytest.mark.usefixtures("plenty")
def test_a_row_takes_its_logits_and_what_it_shares_with_others_unless_that_is_held_once():
    model = tiny()
    alone = batch_room(model, CUDA, packed=True).row
    assert alone == 0
    ranked, drawn = (batch_room(model, CUDA, packed=True, logits=n).row for n in (RANKED, DRAWN))
    assert (ranked, drawn) == (3 * 300 * 8, 6 * 300 * 8)
    once, each = (batch_room(model, CUDA, packed=over, shared=10) for over in (True, False))
    assert each.row - once.row == 10 * each.kept
    assert 0 < once.row < each.row


def of_sizes(**sizes) -> LlamaForCausalLM:
    """A model of these sizes in bf16 whose weights lie nowhere."""
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16)


def test_smollm2_1_7b_on_8_gb_writes_fewer_rows_at_once_and_on_24_as_many_as_ever(monkeypatch):
    model = of_sizes(
        vocab_size=49152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        tie_word_embeddings=True,
    )
    lengths, shared = [325] * 200, 25
    usual = in_batches(lengths, shared, 2**17, 1024)
    for free, same in ((4.2 * GIB, False), (20 * GIB, True)):
        monkeypatch.setattr(module, "free_bytes", lambda device, free=free: int(free))
        room = batch_room(model, CUDA, packed=True, shared=shared, logits=RANKED)
        assert room.kept == 196_608
        batches = in_batches(lengths, shared, 2**17, 1024, room.holds)
        assert (batches == usual) is same
        # Grown by a quarter, with all that is read at once beside it.
        most = max(map(len, batches)) * 300 * (1.25 * room.kept + room.read)
        assert 0.7 * SHARE * free < most < free or same


@settings(deadline=None)
@given(
    st.lists(st.integers(10, 300), min_size=1, max_size=40),
    st.integers(0, 9),
    st.builds(
        BatchRoom,
        free=st.integers(0, 10_000),
        row=st.integers(0, 50),
        read=st.integers(0, 3),
        kept=st.integers(0, 3),
    ),
)
def test_batches_are_as_large_as_memory_holds_and_one_row_at_least(lengths, shared, room):
    cut = in_batches(lengths, shared, 10**6, holds=room.holds)
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) == 1 or room.holds(len(batch), max(lengths[i] for i in batch) - shared)
    for batch, following in zip(cut, cut[1:], strict=False):
        assert not room.holds(len(batch) + 1, min(lengths[i] for i in following) - shared)
