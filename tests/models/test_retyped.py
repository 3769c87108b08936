"""The same model with its matrices in another type: what is written, when it's worth it, and once only."""

import shutil
from collections import namedtuple
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from gguf import GGUFReader

from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine
from rung.errors import ModelError
from rung.models import retyped as module
from rung.models.resolve import read_header, resolve
from rung.models.retyped import retyped, room_to_retype, worth_retyping
from rung.models.weight_types import WRITTEN, dequantise, quantise
from tests.fixtures_ship import make_gguf

Disk = namedtuple("Disk", "total used free")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", kind="q4_1")


def tensors(path):
    return {
        found.name: (found.tensor_type.value, tuple(map(int, reversed(found.shape))), found.data.tobytes())
        for found in GGUFReader(path).tensors
    }


def test_every_matrix_holds_the_same_numbers_rounded_once_and_all_else_is_the_same(gguf):
    found = retyped(resolve(str(gguf)), "q8_0")
    assert found.gguf is not None
    before, after = tensors(gguf), tensors(found.gguf)
    assert before.keys() == after.keys()
    kinds = set()
    for name, (kind, shape, data) in before.items():
        kinds.add(kind)
        if len(shape) == 1:
            assert after[name] == (kind, shape, data)
        else:
            exact = dequantise(np.frombuffer(data, np.uint8), kind, shape)
            assert after[name] == (WRITTEN["q8_0"].kind, shape, quantise(exact, WRITTEN["q8_0"]).tobytes())
    assert kinds == {WRITTEN["q4_1"].kind, WRITTEN["f32"].kind}
    ours, theirs = read_header(found.gguf).values, read_header(gguf).values
    assert ours["general.file_type"] == 7
    told = {"general.file_type", "general.quantization_version"}
    assert {k: v for k, v in ours.items() if k not in told} == {
        k: v for k, v in theirs.items() if k not in told
    }


def test_llama_cpp_runs_it_and_says_nearly_the_same(gguf):
    found = retyped(resolve(str(gguf)), "q8_0")
    chances = []
    for file in (gguf, found.gguf):
        spec = EngineSpec(engine="llama", gguf=file, context=128, parallel=1, threads=1)
        with closing(LlamaEngine(spec)) as engine:
            chances.append(np.array(engine.next_logprobs([(5, 6, 7), (9, 8)], list(range(20)))))
    assert 0 < np.abs(chances[0] - chances[1]).max() < 0.1


def test_it_is_made_once_and_its_digest_says_the_model_and_the_type(gguf):
    model = resolve(str(gguf))
    first = retyped(model, "q8_0")
    assert first.gguf is not None
    made = first.gguf.stat()
    second = retyped(resolve(str(gguf)), "q8_0")
    assert second == first and second.gguf is not None
    assert (second.gguf.stat().st_ino, second.gguf.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert first.digest == f"{model.digest}-q8_0" and first.name == model.name
    (file,) = first.files
    assert file.path == first.gguf and file.digest == module.noted(first.gguf).digest


def test_a_copy_under_another_name_takes_what_was_made(gguf, tmp_path):
    shutil.copyfile(gguf, tmp_path / "other.gguf")
    assert (
        retyped(resolve(str(gguf)), "q8_0").gguf
        == retyped(resolve(str(tmp_path / "other.gguf")), "q8_0").gguf
    )


def test_without_another_type_it_is_the_model(gguf):
    model = resolve(str(gguf))
    assert retyped(model, None) is model


def test_a_file_that_was_replaced_since_is_not_taken_for_the_model(gguf, tmp_path):
    path = tmp_path / "copy.gguf"
    shutil.copyfile(gguf, path)
    model = resolve(str(path))
    make_gguf(path, "gemma3", kind="q4_1")
    with pytest.raises(ModelError, match="was replaced or changed"):
        retyped(model, "q8_0")


def test_a_folder_of_safetensors_has_no_types(gguf, tmp_path):
    model = replace(resolve(str(gguf)), gguf=None, folder=tmp_path)
    assert not worth_retyping(model, "q8_0")
    with pytest.raises(ModelError, match="has no GGUF file"):
        retyped(model, "q8_0")


@pytest.mark.parametrize(
    ("kind", "worth"), [("q4_1", True), ("q5_0", True), ("f16", True), ("q8_0", False), ("f32", False)]
)
def test_it_is_worth_a_file_where_most_weights_would_be_others(tmp_path, kind, worth):
    model = resolve(str(make_gguf(tmp_path / "tiny.gguf", kind=kind)))
    assert worth_retyping(model, "q8_0") is worth


def test_it_is_not_worth_it_for_a_large_model_or_on_a_full_disk_unless_it_is_there(gguf, monkeypatch):
    model = resolve(str(gguf))
    assert worth_retyping(model, "q8_0") and room_to_retype(model, "q8_0")
    assert not worth_retyping(replace(model, parameters=module.MOST_WEIGHTS + 1), "q8_0")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Disk(1e12, 1e12, 4 * model.parameters))
    assert not room_to_retype(model, "q8_0")
    retyped(model, "q8_0")
    assert room_to_retype(model, "q8_0"), "nothing has to be written"


def test_there_is_no_room_where_nothing_may_be_written_or_looked_at(gguf, monkeypatch):
    model = resolve(str(gguf))
    with monkeypatch.context() as within:
        within.setattr(module.os, "access", lambda place, how: False)
        assert not room_to_retype(model, "q8_0")
    assert room_to_retype(model, "q8_0")

    def refuse(place):
        raise PermissionError(13, "no entry", str(place))

    monkeypatch.setattr(module.shutil, "disk_usage", refuse)
    assert not room_to_retype(model, "q8_0")
