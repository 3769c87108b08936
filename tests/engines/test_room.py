"""What weights take by their files' headers."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rung.engines import device
from rung.engines.base import EngineSpec
from rung.engines.device import off_gpu, roomy_device
from rung.engines.room import free_bytes, weight_bytes
from rung.engines.torch import load_model
from rung.system import Pool
from tests.fixtures_tiny import tiny


def test_the_weights_are_counted_in_the_type_that_they_are_loaded_in(tmp_path):
    save_file({"a": torch.zeros(3, 4, dtype=torch.float16)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(3, 4)}, tmp_path / "consolidated.safetensors")
    assert weight_bytes(tmp_path, torch.float32) == 48
    assert weight_bytes(tmp_path, torch.bfloat16) == 24


def test_numbers_that_are_quantised_already_are_turned_into_no_other_type(tmp_path):
    save_file({"a": torch.zeros(3, 4, dtype=torch.int8), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    assert weight_bytes(tmp_path, torch.float32) == 12 + 20


def test_the_parts_that_an_index_names_are_counted_once_each_and_nothing_beside_them(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for part, size in (("one", 2), ("two", 5)):
        save_file({part: torch.zeros(size)}, folder / f"{part}.safetensors")
    save_file({"other": torch.zeros(99)}, folder / "consolidated.safetensors")
    named = {
        "a": "one.safetensors",
        "b": "one.safetensors",
        "c": "two.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    assert weight_bytes(folder, torch.float32) == 28
    save_file({"whole": torch.zeros(3)}, folder / "model.safetensors")
    assert weight_bytes(folder, torch.float32) == 12, "as transformers, which reads no index beside it"


@pytest.mark.parametrize("place", ["../far.safetensors", "lost.safetensors"])
def test_an_index_that_does_not_fit_its_folder_counts_nothing(tmp_path, place):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (folder / "one.safetensors", tmp_path / "far.safetensors"):
        save_file({"a": torch.zeros(2)}, file)
    named = json.dumps({"weight_map": {"a": "one.safetensors", "b": place}})
    (folder / "model.safetensors.index.json").write_text(named)
    assert weight_bytes(folder, torch.float32) == 0


def test_what_cannot_be_read_counts_nothing(tmp_path):
    assert weight_bytes(tmp_path, torch.float32) == 0
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert weight_bytes(tmp_path, torch.float32) == 0


def test_an_engine_that_is_open_makes_room_for_the_weights_of_another(tmp_path, monkeypatch):
    for name in ("one", "two"):
        tiny().save_pretrained(tmp_path / name)
    one, two = (EngineSpec(engine="torch", weights=tmp_path / name, context=64) for name in ("one", "two"))
    with Pool() as pool:
        # As where the memory holds one of them alone.
        monkeypatch.setattr(device, "loadable_bytes", lambda: 0 if pool.engines else 2**40)
        first = pool.engine(one)
        assert pool.engine(one) is first
        pool.engine(two)
        assert list(pool.engines) == [two]


def test_some_memory_is_free():
    assert free_bytes("cpu") > 2**20


def test_a_model_that_the_gpu_has_no_room_for_is_read_by_the_processor_and_that_is_told(
    tmp_path, monkeypatch
):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert off_gpu(load_model(tmp_path), "tiny") is None
    # As where there is a GPU whose memory is full.
    there = device.Found(gpu="cuda:0", dtype=torch.bfloat16)
    monkeypatch.setattr(device, "found", lambda: there)
    monkeypatch.setattr(device, "free_bytes", lambda device: 2**30 + 11_000)
    read = load_model(tmp_path)
    assert read.lm_head.weight.device.type == "cpu"
    said = str(off_gpu(read, "tiny"))
    assert said.startswith("tiny: the weights in 16 bits, 0.0 GiB, and a batch beside them don't fit the ")
    assert "free memory of the GPU (cuda:0)" in said and "CUDA_VISIBLE_DEVICES" in said
    assert roomy_device(10_000) == "cuda:0"
