"""The files of a full tune: written whole or not at all, and on the disk once."""

import shutil

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from rung.engines.lora import block_linears
from rung.engines.torch import load_model
from rung.errors import RunError
from rung.models.weights import dequantised
from rung.rungs.learned_files import is_learned, llama_files, torch_files
from rung.rungs.probe import LLAMA, TORCH, under_each_engine
from rung.rungs.sft import answer_forms
from rung.system import WEIGHTS_GGUF
from rung.training.full import TUNED_FILE
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    gguf = make_tiny_gguf(folder / "tiny.gguf")
    with opened(gguf, write_rows(folder / "topics.jsonl", label_rows(160)), folder) as found:
        yield found


@pytest.fixture
def tuned(context):
    """Makes a folder of weights that are the base's times a number."""

    def of(times: float):
        folder = context.work / "best"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        layers = block_linears(load_model(dequantised(context.model)))
        save_file(
            {f"{name}.weight": (times * layer.weight.detach()).contiguous() for name, layer in layers},
            folder / TUNED_FILE,
        )
        return folder

    return of


def test_systems_of_a_full_tune_share_its_weights_and_a_later_tune_leaves_them_as_they_were(context, tuned):
    def made(name: str, times: float):
        folder = tuned(times)
        files = {**torch_files(context, folder), **llama_files(context, folder)}
        return under_each_engine(context, name, answer_forms(context)["words"], files)

    first = made("first", 0.5)
    names = [name for name in first[TORCH].spec.files if is_learned(name)]
    assert WEIGHTS_GGUF in names and "weights/model.safetensors" in names
    for name in names:
        assert (first[LLAMA].folder / name).samefile(first[TORCH].folder / name)
    assert (first[LLAMA].folder / WEIGHTS_GGUF).samefile(context.work / WEIGHTS_GGUF)
    kept = {name: (first[TORCH].folder / name).read_bytes() for name in names}
    second = made("second", 2.0)
    for name in (WEIGHTS_GGUF, "weights/model.safetensors"):
        assert (second[TORCH].folder / name).read_bytes() != kept[name]
    assert {name: (first[TORCH].folder / name).read_bytes() for name in names} == kept


@pytest.mark.parametrize("error", [SafetensorError("I/O error: no space left"), OSError(28, "no space left")])
def test_a_full_disk_leaves_no_half_of_the_weights_and_is_an_error_of_the_run(
    context, tuned, monkeypatch, error
):
    folder = tuned(1.0)

    class Full:
        """A model that the disk has no room for."""

        def __getattr__(self, name):
            return getattr(self._model, name)

        def __init__(self, model):
            self.__dict__["_model"] = model

        def to(self, device):
            return self

        def save_pretrained(self, out):
            (out / "config.json").write_text("{")
            raise error

    monkeypatch.setattr("rung.engines.torch.load_model", lambda base: Full(load_model(base)))
    before = {p.name for p in folder.parent.iterdir()} - {"best-whole"}
    with pytest.raises(RunError, match="no space left"):
        torch_files(context, folder)
    assert {p.name for p in folder.parent.iterdir()} - {"best-whole"} == before
