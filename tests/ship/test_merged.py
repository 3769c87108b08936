"""The merged folder beside what peft merges, and what stands around its weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rung.errors import ModelError, RunError
from rung.models.resolve import Model, resolve
from rung.models.weights import dequantised, quiet
from rung.runs import atomic_folder
from rung.ship.merged import write_merged_folder
from rung.training.lora_delta import Delta, deltas_by_module
from tests.fixtures_disk import little_room
from tests.fixtures_ship import make_adapter, make_gguf

# peft asks transformers for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
TEMPLATE = "{{ messages[0]['content'] }}<|im_end|>"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def tuned(request, tmp_path_factory) -> tuple[Model, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    model = resolve(str(make_gguf(folder / "base.gguf", request.param)))
    return model, make_adapter(model, folder / "adapter")


def merged(tuned: tuple[Model, Path], out: Path, kind, base: Path | None = None) -> Path:
    model, adapter = tuned
    out.mkdir()
    write_merged_folder(
        base or dequantised(model),
        deltas_by_module(adapter),
        out,
        kind=kind,
        template=TEMPLATE,
        stop_ids=(2, 0),
    )
    return out


def load(folder: Path, dtype=torch.float32):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def test_merged_weights_are_pefts_to_a_millionth(tuned, tmp_path):
    model, adapter = tuned
    with quiet():
        theirs = PeftModel.from_pretrained(load(dequantised(model)), adapter).merge_and_unload()
    ours = load(merged(tuned, tmp_path / "out", "f32"))
    wanted = dict(theirs.named_parameters())
    found = dict(ours.named_parameters())
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-6, atol=1e-6), name
    before = dict(load(dequantised(model)).named_parameters())
    assert sum(not torch.equal(before[name], found[name]) for name in found) == len(deltas_by_module(adapter))


def test_bf16_is_what_was_added_in_fp32_rounded_once(tuned, tmp_path):
    exact = load_file(merged(tuned, tmp_path / "f32", "f32") / "model.safetensors")
    found = load_file(merged(tuned, tmp_path / "bf16", "bf16") / "model.safetensors")
    assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in exact.items())
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load(tmp_path / "bf16", dtype="auto").dtype == torch.bfloat16


def test_embeddings_that_are_the_output_too_stay_so(tuned, tmp_path):
    out = merged(tuned, tmp_path / "out", "bf16")
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    network = load(out)
    assert network.lm_head.weight.data_ptr() == network.get_input_embeddings().weight.data_ptr()


def test_generation_ends_at_the_stop_tokens_and_the_prompt_is_the_template(tuned, tmp_path):
    out = merged(tuned, tmp_path / "out", "bf16")
    settings = GenerationConfig.from_pretrained(out)
    assert (settings.eos_token_id, settings.do_sample) == ([2, 0], False)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == TEMPLATE
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "hi<|im_end|>"


@pytest.fixture
def parts(tuned, tmp_path) -> Path:
    """The base's folder with its weights in two files and an index of them."""
    model, _ = tuned
    parts = tmp_path / "parts"
    shutil.copytree(dequantised(model), parts)
    tensors = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(places.values()):
        save_file(
            {n: tensors[n] for n in names if places[n] == file}, parts / file, metadata={"format": "pt"}
        )
    index = {"metadata": {}, "weight_map": places}
    (parts / INDEX).write_text(json.dumps(index))
    return parts


def test_weights_in_several_files_are_merged_in_each(tuned, parts, tmp_path):
    split = dict(load(merged(tuned, tmp_path / "split", "f32", parts)).named_parameters())
    whole = dict(load(merged(tuned, tmp_path / "whole", "f32")).named_parameters())
    assert all(torch.equal(split[name], tensor) for name, tensor in whole.items())


def test_weights_in_another_format_beside_those_of_an_index_are_left_out(tuned, parts, tmp_path):
    """Mistral's folders hold all weights twice: these would be shipped as they were before the tune."""
    shutil.copyfile(dequantised(tuned[0]) / "model.safetensors", parts / "consolidated.safetensors")
    out = merged(tuned, tmp_path / "out", "bf16", parts)
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert {path.name for path in out.glob("*.safetensors*")} == {*shards, INDEX}


def test_files_that_nobody_reads_beside_the_whole_weights_take_no_part_of_an_adapter(tuned, parts, tmp_path):
    whole = tmp_path / "left"
    shutil.copytree(dequantised(tuned[0]), whole)
    for path in parts.glob("model-*"):
        shutil.copyfile(path, whole / path.name)
    shutil.copyfile(parts / INDEX, whole / INDEX)
    out = merged(tuned, tmp_path / "out", "f32", whole)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    wanted = load_file(merged(tuned, tmp_path / "whole", "f32") / "model.safetensors")
    assert all(torch.equal(load_file(out / "model.safetensors")[name], wanted[name]) for name in wanted)


def test_a_full_disk_is_an_error_of_the_export_and_leaves_nothing(tuned, tmp_path):
    deltas, base = deltas_by_module(tuned[1]), dequantised(tuned[0])
    with pytest.raises(RunError, match="can.t write .*out.*free some space"):
        with atomic_folder(tmp_path / "out") as draft, little_room():
            write_merged_folder(base, deltas, draft, kind="f32", template=TEMPLATE, stop_ids=(2, 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.layers.9.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"])
def test_an_adapter_of_another_model_is_refused(tuned, tmp_path, name):
    delta = Delta(a=torch.ones(2, 5).numpy(), b=torch.ones(5, 2).numpy(), scale=1.0)
    with pytest.raises(ModelError, match="made for another model"):
        write_merged_folder(
            dequantised(tuned[0]), {name: delta}, tmp_path, kind="f32", template="", stop_ids=(2,)
        )


@pytest.mark.parametrize("damage", ["lora_A", "lora_B"])
def test_an_adapter_that_lacks_a_matrix_is_refused(tuned, tmp_path, damage):
    shutil.copytree(tuned[1], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(key for key in tensors if damage in key)]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"lacks .*{damage.lower()}"):
        deltas_by_module(tmp_path / "adapter")


def test_an_exported_adapter_is_loaded_by_peft_with_the_base_that_it_names(tuned, tmp_path):
    """What a user does: peft alone, and the path that the export has put into the settings."""
    from rung.ship.subject import load_subject
    from rung.ship.targets import write_peft
    from rung.system import Pool
    from tests.fixtures_ship import make_tuned

    model, _ = tuned
    system = make_tuned(model.gguf, tmp_path / "system")
    (tmp_path / "out").mkdir()
    write_peft(load_subject(system, Pool()), tmp_path / "out", "adapter")
    with quiet():
        theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([[1, 20, 30, 40]])
    ours = load(merged((model, system.folder / "adapter"), tmp_path / "merged", "f32"))
    with torch.inference_mode():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(load(dequantised(model))(ids).logits, ours(ids).logits, atol=0.1)
