"""A learned prefix beside peft's: answers, gradients and folders; and in every way that the engine reads."""

import json

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model

from rung.engines import prefix
from rung.engines.base import EngineSpec, Request
from rung.engines.layout import pack
from rung.engines.packed import packed, size_of
from rung.engines.torch import TorchEngine, load_adapter
from rung.errors import ModelError
from tests.fixtures_tiny import DEVICE, tiny, tiny_folder

pytestmark = [
    # PEFT 0.21 asks for what transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]
ROW = (5, 17, 99, 250, 3, 3, 8)
TOKENS = 5


def over_packs(model, row=ROW) -> torch.Tensor:
    """Logits [tokens, vocabulary] after each token of a row, with a gradient."""
    made, memory = packed(model), prefix.memory_of(model)
    once = pack([row], DEVICE, known=size_of(memory))
    hidden = made.hidden(once, once.places([0] * len(row), range(len(row))), memory)
    return model.lm_head(hidden)


def random(model, seed: int = 3) -> None:
    numbers = prefix.prefix_of(model).numbers
    numbers.data.copy_(torch.empty(numbers.shape).normal_(generator=torch.Generator().manual_seed(seed)))


def with_prefix(kind: str = "llama", **changes):
    model = tiny(kind, **changes)
    prefix.attach(model, TOKENS, seed=0)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_answers_and_gradients_are_pefts(tmp_path, kind):
    model = with_prefix(kind)
    random(model)
    prefix.save(model, tmp_path / "a", base="tiny")
    twin = PeftModel.from_pretrained(tiny(kind), tmp_path / "a").eval()
    numbers = twin.prompt_encoder["default"].embedding.weight
    numbers.data = numbers.data.to(torch.float64)
    numbers.requires_grad_(True)
    assert torch.equal(numbers.data, prefix.prefix_of(model).numbers.data)
    ours, theirs = over_packs(model), twin(torch.tensor([ROW], device=DEVICE)).logits[0]
    assert torch.allclose(ours, theirs, atol=1e-9)
    assert not torch.allclose(ours, tiny(kind)(torch.tensor([ROW], device=DEVICE)).logits[0], atol=0.1)
    weighing = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype, device=DEVICE).view(ours.shape)
    (mine,) = torch.autograd.grad((ours * weighing).sum(), [prefix.prefix_of(model).numbers])
    (wanted,) = torch.autograd.grad((theirs * weighing).sum(), [numbers])
    assert torch.allclose(mine, wanted, atol=1e-8) and wanted.abs().max() > 1e-3


def test_what_peft_saves_is_read(tmp_path):
    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    twin = get_peft_model(tiny(), config).eval()
    numbers = twin.prompt_encoder["default"].embedding.weight
    numbers.data = numbers.data.to(torch.float64)
    numbers.requires_grad_(True)
    twin.save_pretrained(tmp_path / "a")
    model = tiny()
    load_adapter(model, tmp_path / "a")
    theirs = twin(torch.tensor([ROW], device=DEVICE)).logits[0]
    assert torch.allclose(over_packs(model), theirs, atol=1e-9)


def test_it_begins_as_the_keys_and_values_of_tokens_drawn_by_the_seed():
    one, same, other = with_prefix(), with_prefix(), tiny()
    prefix.attach(other, TOKENS, seed=1)
    numbers = [prefix.prefix_of(model).numbers for model in (one, same, other)]
    assert torch.equal(numbers[0], numbers[1]) and not torch.equal(numbers[0], numbers[2])
    ids = torch.randint(300, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = tiny()(torch.tensor([[*ids, *ROW]], device=DEVICE)).logits[0, TOKENS:]
    assert torch.allclose(over_packs(one), whole, atol=1e-9)
    assert not any(p.requires_grad for name, p in one.named_parameters() if prefix.NAME not in name)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_the_engine_answers_with_it_whichever_way_it_reads(tmp_path, kind):
    """A prefix that holds the keys and values of some tokens is as if those stood before every prompt."""
    model = with_prefix(kind)
    folder = tiny_folder(tmp_path / "model", tiny(kind))
    ids = torch.randint(300, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    shared = tuple(range(30, 45))
    prompts = [(5, 17, 99), (8, 250), (3, 3, 8, 9, 11), (*shared, 4), (*shared, 7, 9)]
    words = [(20, 21), (20, 22), (30,)]
    spec = EngineSpec(engine="torch", weights=folder, context=400, threads=1)
    learned, plain = TorchEngine(spec, model=model), TorchEngine(spec, model=tiny(kind))
    for some in (prompts[:3], prompts[3:]):
        longer = [(*ids, *prompt) for prompt in some]
        for wanted in ([(7,), (9,), (11,)], words):
            ours, theirs = (
                learned.choose(some, wanted, exhaustive=True),
                plain.choose(longer, wanted, exhaustive=True),
            )
            for one, other in zip(ours, theirs, strict=True):
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        asked = [[Request(prompt=p, max_tokens=6) for p in rows] for rows in (some, longer)]
        given = [[c.tokens for c in e.generate(r)] for e, r in zip((learned, plain), asked, strict=True)]
        assert given[0] == given[1]
        ours, theirs = learned.next_logprobs(some, [1, 2]), plain.next_logprobs(longer, [1, 2])
        assert [n for row in ours for n in row] == pytest.approx([n for row in theirs for n in row], abs=1e-9)


def test_a_prefix_that_does_not_fit_is_refused(tmp_path):
    prefix.save(with_prefix(), tmp_path / "a", base="tiny")
    with pytest.raises(ModelError, match=r"prompt_embeddings is \(5, 64\).*another base model"):
        load_adapter(tiny(num_hidden_layers=3), tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "prefix_projection": True}))
    with pytest.raises(ModelError, match="a network makes aren't read"):
        load_adapter(tiny(), tmp_path / "a")
    path.write_text(json.dumps({**config, "num_virtual_tokens": "some"}))
    with pytest.raises(ModelError, match="num_virtual_tokens"):
        load_adapter(tiny(), tmp_path / "a")
    path.write_text(json.dumps({**config, "num_virtual_tokens": 10**12}))
    with pytest.raises(ModelError, match=r"says num_virtual_tokens: 1000000000000, but .* shape \(5, 64\)"):
        load_adapter(tiny(), tmp_path / "a")
