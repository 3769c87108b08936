import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rung.errors import ModelError
from rung.models.catalog import CATALOG, CHATML, entry_named, entry_with
from rung.models.resolve import at_hand, resolve
from rung.system import ref_to


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from safetensors.numpy import save_file

    made = tmp_path / "my-model"
    made.mkdir()
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, made / "model.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 77}
    (made / "config.json").write_text(json.dumps(config))
    (made / "tokenizer.json").write_text("{}")
    return made


def test_the_catalog_has_three_models_with_names_digests_and_licences_of_their_own() -> None:
    assert len(CATALOG) == 3
    assert len({entry.name for entry in CATALOG}) == len({entry.sha256 for entry in CATALOG}) == 3
    for entry in CATALOG:
        assert entry_named(entry.name) is entry and entry_with(entry.sha256) is entry
        assert entry.licence_note and entry.requirements and entry.hub
        assert all(len(file.sha256) == 64 and file.size > 0 and file.sources for file in entry.files)
    gemma = entry_named("gemma-3-270m")
    assert gemma is not None and "prohibited-use" in gemma.licence_note


def test_a_gguf_path_gives_the_shape_licence_and_template_of_its_metadata(tiny_gguf) -> None:
    path = tiny_gguf()
    model = resolve(str(path))
    assert (model.kind, model.gguf, model.folder) == ("generate", path, None)
    assert (model.architecture, model.context, model.licence) == ("llama", 512, "mit")
    assert model.template is not None and "<|im_start|>" in model.template
    assert model.parameters > 2000 * 64


def test_a_folder_with_one_gguf_is_that_model(tiny_gguf, tmp_path: Path) -> None:
    path = tiny_gguf()
    shutil.copy(path, tmp_path / "m.gguf")
    assert resolve(str(tmp_path)).digest == resolve(str(path)).digest


def test_a_folder_with_two_ggufs_asks_which(tiny_gguf, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny_gguf(), tmp_path / name)
    with pytest.raises(ModelError, match=r"a\.gguf, b\.gguf"):
        resolve(str(tmp_path))


def test_a_safetensors_folder_gives_its_config_and_counts_its_weights(folder: Path) -> None:
    model = resolve(str(folder))
    assert (model.name, model.kind, model.gguf, model.folder) == ("my-model", "generate", None, folder)
    assert (model.context, model.parameters, model.template) == (77, 17, None)


def test_the_digest_of_a_folder_changes_with_any_of_its_files(folder: Path) -> None:
    before = resolve(str(folder)).digest
    assert resolve(str(folder)).digest == before
    (folder / "tokenizer.json").write_text('{"a": 1}')
    assert resolve(str(folder)).digest != before


@pytest.mark.parametrize("in_shards", [False, True])
def test_weights_in_another_format_beside_those_that_are_read_are_no_part_of_a_folder(
    folder: Path, in_shards: bool
) -> None:
    if in_shards:
        sharded(folder, {"a": "model-1.safetensors"})
    other = folder / "consolidated.safetensors"
    other.unlink(missing_ok=True)
    before = resolve(str(folder))
    other.write_bytes(next(folder.glob("model*.safetensors")).read_bytes())
    assert resolve(str(folder)) == before


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_folders_chat_template_is_found_in_either_place(folder: Path, place: str) -> None:
    is_jinja = place.endswith(".jinja")
    content = "T" if is_jinja else json.dumps({"chat_template": [{"name": "default", "template": "T"}]})
    (folder / place).write_text(content)
    assert resolve(str(folder)).template == "T"


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json"])
def test_a_folder_without_a_needed_file_names_it(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ModelError, match=lost):
        resolve(str(folder))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("said", "by"), [({"quant_method": "fp8"}, "'fp8'"), ({"bits": 4}, "some method")])
def test_a_folder_of_packed_weights_is_refused_and_says_what_to_give(
    folder: Path, inside: bool, said: dict, by: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    packed = {"quantization_config": said}
    config |= {"text_config": packed} if inside else packed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"weights that {by} has packed .*plain weights, or its GGUF"):
        resolve(str(folder))


def test_weights_with_an_adapter_beside_them_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter that would change them: merge"):
        resolve(str(folder))


def sharded(folder: Path, weight_map: object) -> str:
    """The folder's weights as a shard beside others of another format, with an index."""
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return str(folder)


def test_of_a_folder_with_an_index_the_files_that_it_names_are_the_weights(folder: Path) -> None:
    assert resolve(sharded(folder, {"a": "model-1.safetensors", "b": "model-1.safetensors"})).parameters == 17


def test_an_index_beside_weights_in_one_file_is_not_read(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert resolve(str(folder)).parameters == 17


def test_weights_that_an_index_names_and_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks 1 of 2 files of weights .*\(model-2\.safetensors\)"):
        resolve(sharded(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"}))


@pytest.mark.parametrize("places", [None, {}, {"a": "../model-1.safetensors"}, {"a": "/x"}, {"a": ["x/y"]}])
def test_an_index_that_names_no_files_of_the_folder_is_refused(folder: Path, places: object) -> None:
    with pytest.raises(ModelError, match="has to name the files beside it"):
        resolve(sharded(folder, places))


@pytest.mark.parametrize("changed", [{"max_position_embeddings": None}, {"text_config": None}])
def test_what_a_config_leaves_empty_is_not_given(folder: Path, changed: dict) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config | changed))
    assert resolve(str(folder)).context == 2048


def test_damaged_safetensors_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="sound safetensors"):
        resolve(str(folder))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickled"):
        resolve(str(tmp_path))


def test_an_unknown_name_gets_the_nearest_catalog_name_and_the_accepted_forms() -> None:
    with pytest.raises(ModelError, match=r"'smolm2-135'.*nearest: smollm2-135m.*\.gguf.*org/name"):
        resolve("smolm2-135")


def test_a_gguf_path_that_is_not_there_is_not_taken_for_a_hub_id() -> None:
    with pytest.raises(ModelError, match="no such file"):
        resolve("models/none.gguf")


def test_a_home_that_nobody_has_is_a_folder_of_that_name(tiny_gguf, tmp_path: Path, monkeypatch) -> None:
    name = "~nobody-here/base.gguf"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="there's no such file or folder"):
        resolve(name)
    assert at_hand(name) is None
    (tmp_path / "~nobody-here").mkdir()
    shutil.copy(tiny_gguf(), tmp_path / name)
    found = at_hand(name)
    assert found is not None and ref_to(found, name).source == str((tmp_path / name).resolve())


@pytest.mark.parametrize("name", ["openai:gpt-5-mini", "http://localhost:1/v1"])
def test_an_endpoint_is_refused_where_files_are_needed(name: str) -> None:
    with pytest.raises(ModelError, match="endpoint"):
        resolve(name)


def test_one_part_of_a_split_gguf_says_how_to_join(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "m-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("w", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="--merge"):
        resolve(str(path))


@pytest.mark.models
def test_a_catalog_model_has_the_shape_that_the_catalog_says(catalog_model) -> None:
    entry = entry_named(catalog_model.name)
    by_path = resolve(str(catalog_model.gguf))
    assert entry is not None
    assert (by_path.digest, by_path.parameters) == (entry.sha256, entry.parameters)
    assert (by_path.architecture, by_path.context) == (entry.architecture, entry.context)
    assert by_path.template == entry.template == catalog_model.template
    assert entry.template in (None, CHATML)
