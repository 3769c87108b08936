import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from rung.engines import lora
from rung.errors import ModelError
from tests.fixtures_tiny import DEVICE, randomise, tiny

# PEFT 0.21 asks for a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([[5, 17, 99, 250, 3, 3, 8]], device=DEVICE)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def peft_twin(rank: int = 4, **changes) -> PeftModel:
    """The tiny model under PEFT, every A and B random."""
    config = LoraConfig(r=rank, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **changes)
    twin = get_peft_model(tiny(), config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in twin.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.empty(parameter.shape).normal_(0, 0.3, generator=generator))
    return twin.eval()


def test_a_fresh_adapter_changes_nothing_and_a_filled_one_does():
    model, plain = tiny(), tiny()
    lora.attach(model, rank=4, alpha=8, seed=0)
    assert torch.equal(logits(model), logits(plain))
    randomise(model)
    assert not torch.allclose(logits(model), logits(plain), atol=0.1)


def test_every_linear_layer_of_the_blocks_and_nothing_else_is_trained():
    model = tiny()
    lora.attach(model, rank=4, alpha=8, seed=0)
    names = [name for name, _ in lora.layers(model)]
    assert len(names) == 2 * 7
    assert not any("lm_head" in name for name in names)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.lora_{m}" for name in names for m in "ab"}
    assert len(lora.parameters(model)) == 2 * len(names)


def test_the_start_depends_on_the_seed_alone():
    models = [tiny(), tiny(), tiny()]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        lora.attach(model, rank=4, alpha=8, seed=seed)
    first, same, other = (lora.parameters(m) for m in models)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])
    randomise(models[0])
    lora.draw(models[0], seed=2)
    assert all(torch.equal(a, b) for a, b in zip(lora.parameters(models[0]), other, strict=True))


@pytest.mark.parametrize(
    ("dtype", "master"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_master_weights_are_fp32_or_finer(dtype, master):
    model = tiny(dtype=dtype)
    lora.attach(model, rank=4, alpha=8, seed=0)
    assert {p.dtype for p in lora.parameters(model)} == {master}
    model(IDS).logits.float().sum().backward()
    assert {p.grad.dtype for p in lora.parameters(model)} == {master}


def test_the_gradient_is_that_of_the_formula():
    torch.manual_seed(0)
    base = torch.nn.Linear(5, 3).double().requires_grad_(False)
    layer = lora.LoraLinear(base, rank=2, alpha=3.0)
    torch.nn.init.normal_(layer.lora_a)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, a, b: lora._LoraFunction.apply(x, layer.weight, layer.bias, a, b, layer.scale),
        (x, layer.lora_a, layer.lora_b),
    )
    with torch.no_grad():
        without = layer(x)
    assert torch.allclose(layer(x), without, atol=1e-14)


def test_peft_reads_what_is_saved(tmp_path):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    lora.save(model, tmp_path / "a", base="tiny")
    twin = PeftModel.from_pretrained(tiny(), tmp_path / "a", autocast_adapter_dtype=False).eval()
    assert torch.allclose(logits(twin), logits(model), atol=1e-12)
    assert not torch.allclose(logits(twin), logits(tiny()), atol=0.1)


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"]])
def test_what_peft_saves_is_read(tmp_path, modules):
    twin = peft_twin()
    if modules != "all-linear":
        config = LoraConfig(r=3, lora_alpha=5, target_modules=modules, init_lora_weights=False)
        twin = get_peft_model(tiny(), config, autocast_adapter_dtype=False).eval()
    twin.save_pretrained(tmp_path / "a")
    model = tiny()
    lora.load(model, tmp_path / "a")
    assert torch.allclose(logits(model), logits(twin), atol=1e-12)
    assert not torch.allclose(logits(model), logits(tiny()), atol=0.1)


def test_saving_and_loading_loses_no_bit(tmp_path):
    model = tiny(dtype=torch.bfloat16)
    lora.attach(model, rank=4, alpha=6, seed=0)
    randomise(model)
    lora.save(model, tmp_path, base="tiny")
    again = tiny(dtype=torch.bfloat16)
    lora.load(again, tmp_path)
    assert all(torch.equal(lora.state(model)[k], v) for k, v in lora.state(again).items())
    assert torch.equal(logits(model), logits(again))


def test_an_adapter_for_another_model_is_refused_with_the_first_tensor(tmp_path):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    lora.save(model, tmp_path, base="tiny")
    with pytest.raises(ModelError, match="misshapen, the first is .*down_proj.*another base model"):
        lora.load(tiny(intermediate_size=40), tmp_path)


@pytest.mark.parametrize("change", [{"use_rslora": True}, {"use_dora": True}, {"peft_type": "IA3"}])
def test_what_is_no_plain_lora_is_refused(tmp_path, change):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    lora.save(model, tmp_path, base="tiny")
    path = tmp_path / lora.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"only (plain )?LoRA adapters are read"):
        lora.load(tiny(), tmp_path)


def test_a_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(ModelError, match="no readable adapter"):
        lora.load(tiny(), tmp_path)
    (tmp_path / lora.ADAPTER_CONFIG).write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    (tmp_path / lora.ADAPTER_WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="no readable adapter weights"):
        lora.load(tiny(), tmp_path)


def test_layers_are_attached_once():
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    with pytest.raises(ModelError, match="LoRA layers already"):
        lora.attach(model, rank=4, alpha=6, seed=0)
    assert all(p.requires_grad for p in lora.parameters(model))
