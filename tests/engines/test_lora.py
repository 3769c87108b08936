import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from rung.engines import lora
from rung.engines.layout import pack
from rung.engines.packed import packed
from rung.errors import ModelError
from tests.fixtures_tiny import DEVICE, randomise, tiny

# PEFT 0.21 asks for a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([[5, 17, 99, 250, 3, 3, 8]], device=DEVICE)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def peft_twin(rank: int = 4, kind: str = "llama", **changes) -> PeftModel:
    """The tiny model under PEFT, every A and B random."""
    config = LoraConfig(r=rank, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **changes)
    twin = get_peft_model(tiny(kind), config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in twin.named_parameters():
        if "lora_A" in name or "lora_B" in name:
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
    layer = lora.LoraLinear(base, lora.Form(rank=2, alpha=3.0))
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


@pytest.mark.parametrize("change", [{"bias": "all"}, {"rank_pattern": {"q_proj": 2}}, {"peft_type": "IA3"}])
def test_what_is_no_lora_of_one_form_is_refused(tmp_path, change):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    lora.save(model, tmp_path, base="tiny")
    path = tmp_path / lora.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="only LoRA adapters"):
        lora.load(tiny(), tmp_path)


def test_a_folder_without_an_adapter_is_named(tmp_path):
    with pytest.raises(ModelError, match="no readable adapter"):
        lora.load(tiny(), tmp_path)
    (tmp_path / lora.ADAPTER_CONFIG).write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    (tmp_path / lora.ADAPTER_WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="no readable adapter weights"):
        lora.load(tiny(), tmp_path)


FORMS = [{"use_rslora": True}, {"use_dora": True}, {"use_rslora": True, "use_dora": True}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("over_packs", [False, True])
def test_each_form_has_pefts_answers_and_pefts_gradients(tmp_path, form, kind, over_packs):
    """qwen2 has biases, which DoRA leaves out of what it scales."""
    twin = peft_twin(kind=kind, **form)
    for name, parameter in twin.named_parameters():
        if lora.MAGNITUDE in name:
            parameter.data *= torch.linspace(0.5, 2, len(parameter), dtype=parameter.dtype)
    twin.save_pretrained(tmp_path / "a")
    model = tiny(kind)
    lora.load(model, tmp_path / "a")
    if over_packs:
        made = packed(model)
        assert made is not None
        once = pack([IDS[0].tolist()], DEVICE)
        hidden = made.hidden(once, once.places([0] * IDS.shape[1], range(IDS.shape[1])))
        ours = model.lm_head(hidden)
    else:
        ours = model(IDS).logits[0]
    theirs = twin(IDS).logits[0]
    assert torch.allclose(ours, theirs, atol=1e-11)
    assert torch.allclose(logits(model)[0], theirs, atol=1e-11)
    assert not torch.allclose(ours, tiny(kind)(IDS).logits[0], atol=0.1)
    weighing = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype, device=DEVICE).view(ours.shape)
    learned = [*lora.parameters(model), *lora.magnitudes(model)]
    wanted = {name.replace(".default", ""): p for name, p in twin.named_parameters() if p.requires_grad}
    found = dict(lora._named(model))
    assert len(found) == len(learned) == len(wanted)
    grads = torch.autograd.grad((theirs * weighing).sum(), list(wanted.values()))
    expected = {key.removesuffix(".weight"): g for key, g in zip(wanted, grads, strict=True)}
    ours_by_name = zip(found, torch.autograd.grad((ours * weighing).sum(), list(found.values())), strict=True)
    for key, gradient in ours_by_name:
        assert torch.allclose(gradient, expected[key.removesuffix(".weight")], atol=1e-9), key
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("form", [{"rslora": True}, {"dora": True}])
def test_peft_reads_each_form(tmp_path, form):
    model = tiny("qwen2")
    lora.attach(model, rank=4, alpha=6, seed=0, **form)
    assert torch.allclose(logits(model), logits(tiny("qwen2")), atol=1e-12)
    randomise(model)
    for magnitude in lora.magnitudes(model):
        magnitude.data *= 1.5
    lora.forget_lengths(model)
    lora.save(model, tmp_path / "a", base="tiny")
    twin = PeftModel.from_pretrained(tiny("qwen2"), tmp_path / "a", autocast_adapter_dtype=False).eval()
    assert torch.allclose(logits(twin), logits(model), atol=1e-11)
    again = tiny("qwen2")
    lora.load(again, tmp_path / "a")
    assert torch.equal(logits(again), logits(model))
    assert lora.form_of(lora.read_config(tmp_path / "a")) == lora.Form(rank=4, alpha=6, **form)


def test_a_switched_off_dora_is_the_base_and_comes_back():
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0, dora=True)
    randomise(model)
    for magnitude in lora.magnitudes(model):
        magnitude.data *= 1.5
    on = logits(model)
    with lora.switched_off(model):
        assert torch.equal(logits(model), logits(tiny()))
    assert torch.equal(logits(model), on)


def test_what_is_learned_counts_from_the_next_answer_on():
    """The lengths that are kept for answering are let go of by whatever changes A, B or the mode."""
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0, dora=True)
    before = logits(model)
    randomise(model)
    model.eval()
    with_new = logits(model)
    assert torch.allclose(with_new, model(IDS).logits, atol=1e-12)
    assert not torch.allclose(with_new, before, atol=0.1)
    lora.draw(model, seed=0)
    assert torch.allclose(logits(model), before, atol=1e-12)


def test_layers_are_attached_once():
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    with pytest.raises(ModelError, match="LoRA layers already"):
        lora.attach(model, rank=4, alpha=6, seed=0)
    assert all(p.requires_grad for p in lora.parameters(model))


def test_a_rank_that_the_tensors_dont_have_is_refused_before_layers_are_made(tmp_path):
    model = tiny()
    lora.attach(model, rank=4, alpha=6, seed=0)
    lora.save(model, tmp_path, base="tiny")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 10**12}))
    with pytest.raises(ModelError, match=r"says r: 1000000000000, but .*lora_A\.weight' has the shape \(4, "):
        lora.load(tiny(), tmp_path)
