"""The merged GGUF: metadata of the base, weights with the LoRA in them, and the same answers as torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine
from rung.engines.torch import TorchEngine, load_model
from rung.errors import ModelError
from rung.models.chat import load_chat
from rung.models.gguf_file import write_merged
from rung.models.resolve import resolve
from rung.models.weight_types import BLOCKS, MIXED, PLAIN, WRITTEN, dequantise, quantise, size_of
from rung.models.weights import dequantised
from rung.ship.merged import write_merged_folder
from rung.training import adapter
from rung.training.lora_delta import Delta, deltas_by_gguf_name, deltas_by_module
from tests.fixtures_ship import make_adapter, make_gguf

ARCHITECTURES = ("llama", "gemma3")
TEXTS = ("my parcel is late again please", "refund the invoice", "password")


class Base:
    """A tiny model with an adapter, and what the adapter adds by llama.cpp's names."""

    def __init__(self, folder: Path, architecture: str, kind: str) -> None:
        self.gguf = make_gguf(folder / "base.gguf", architecture, kind)
        self.model = resolve(str(self.gguf))
        self.adapter = make_adapter(self.model, folder / "adapter")
        self.weights = dequantised(self.model)
        self.config = json.loads((self.weights / "config.json").read_text(encoding="utf-8"))
        self.deltas = deltas_by_gguf_name(self.adapter, self.config)
        self.folder = folder

    def merged(self, kind: str, **changes) -> Path:
        out = self.folder / f"{kind}.gguf"
        write_merged(self.gguf, self.deltas, out, wanted=WRITTEN[kind], changes=changes)
        return out


@pytest.fixture(scope="module", params=[(a, k) for a in ARCHITECTURES for k in ("f32", "q8_0")], ids="-".join)
def base(request, tmp_path_factory) -> Base:
    return Base(tmp_path_factory.mktemp("base"), *request.param)


def fields(path: Path) -> dict:
    reader = GGUFReader(path)
    return {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def raw(field) -> list[bytes]:
    return [part.tobytes() for part in field.parts]


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_1"])
def test_every_key_of_the_base_is_there_byte_for_byte_but_for_those_that_were_to_change(base, kind):
    ours, theirs = fields(base.merged(kind, **{"general.name": "other"})), fields(base.gguf)
    changed = {key for key in theirs if raw(ours[key]) != raw(theirs[key])}
    assert changed == {"general.name"}
    assert ours["general.name"].contents() == "other"
    new = set(ours) - set(theirs)
    versioned = {"general.quantization_version"} if kind.startswith("q") else set()
    assert new == {"general.file_type"} | versioned
    assert [key for key in ours if key in theirs] == list(theirs)


@pytest.mark.parametrize("kind", sorted(WRITTEN))
def test_a_touched_weight_is_the_base_and_the_delta_up_to_the_types_own_error(base, kind):
    before = {t.name: t for t in GGUFReader(base.gguf).tensors}
    after = {t.name: t for t in GGUFReader(base.merged(kind)).tensors}
    assert list(after) == list(before)
    for name, delta in base.deltas.items():
        assert after[name].tensor_type == WRITTEN[kind].kind
        exact = quants.dequantize(before[name].data, before[name].tensor_type) + delta.rows(0, delta.shape[0])
        found = quants.dequantize(after[name].data, after[name].tensor_type)
        assert np.array_equal(
            found, dequantise(quantise(exact, WRITTEN[kind]), WRITTEN[kind].kind, exact.shape)
        )


def test_a_quantised_file_copies_what_the_adapter_leaves_alone(base):
    before = {t.name: t for t in GGUFReader(base.gguf).tensors}
    for tensor in GGUFReader(base.merged("q4_1")).tensors:
        if tensor.name in base.deltas:
            continue
        old = before[tensor.name]
        if tensor.name == "token_embd.weight":
            assert tensor.tensor_type == GGMLQuantizationType.Q8_0
        else:
            assert (tensor.tensor_type, tensor.data.tobytes()) == (old.tensor_type, old.data.tobytes())


def test_a_plain_file_has_no_quantised_weight_left(base):
    kinds = {t.name: t.tensor_type for t in GGUFReader(base.merged("f16")).tensors}
    assert all(kind == GGMLQuantizationType.F16 for name, kind in kinds.items() if "norm" not in name)
    assert all(kind == GGMLQuantizationType.F32 for name, kind in kinds.items() if "norm" in name)


def logprobs(engine, base: Base) -> np.ndarray:
    chat = load_chat(base.model)
    prompts = [(1, *chat.tokens.encode(text, special=False)) for text in TEXTS]
    try:
        return np.array(engine.next_logprobs(prompts, range(3, 80)))
    finally:
        engine.close()


def by_torch(base: Base, folder: Path) -> np.ndarray:
    spec = EngineSpec(engine="torch", weights=folder, context=256, threads=1)
    return logprobs(TorchEngine(spec, model=load_model(folder, dtype=torch.float32)), base)


def by_llama(base: Base, gguf: Path) -> np.ndarray:
    return logprobs(
        LlamaEngine(EngineSpec(engine="llama", gguf=gguf, context=256, parallel=1, threads=1)), base
    )


def test_llama_cpp_with_the_merged_file_says_what_torch_says_with_the_merged_folder(
    base, tmp_path, monkeypatch
):
    write_merged_folder(
        base.weights, deltas_by_module(base.adapter), tmp_path, kind="f32", template="", stop_ids=(2,)
    )
    ours, unmerged = by_torch(base, tmp_path), by_torch(base, base.weights)
    assert np.abs(ours - unmerged).max() > 1
    assert np.abs(by_llama(base, base.merged("f16")) - ours).max() < 0.1
    if base.config["model_type"] == "llama":
        monkeypatch.setattr(adapter, "PERMUTED", frozenset())
        base.deltas = deltas_by_gguf_name(base.adapter, base.config)
        assert np.abs(by_llama(base, base.merged("f16")) - ours).max() > 0.5
        monkeypatch.undo()
        base.deltas = deltas_by_gguf_name(base.adapter, base.config)


def test_rows_are_merged_in_portions_without_a_seam(base, monkeypatch):
    whole = base.merged("q4_0").read_bytes()
    monkeypatch.setattr("rung.models.gguf_file.CHUNK_WEIGHTS", 640)
    assert base.merged("q4_0").read_bytes() == whole


def test_an_adapter_of_another_model_is_refused(base, tmp_path):
    wrong = Delta(a=np.ones((2, 8), np.float32), b=np.ones((8, 2), np.float32), scale=1.0)
    for name in ("blk.0.attn_q.weight", "blk.9.attn_q.weight"):
        with pytest.raises(ModelError, match="made for another model"):
            write_merged(base.gguf, {name: wrong}, tmp_path / "x", wanted=WRITTEN["f16"], changes={})
    assert not (tmp_path / "x").exists()


def test_a_row_that_is_no_whole_number_of_blocks_is_written_in_f16(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("w.weight", np.ones((4, 40), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    delta = Delta(a=np.ones((1, 40), np.float32), b=np.ones((4, 1), np.float32), scale=2.0)
    write_merged(
        tmp_path / "odd.gguf", {"w.weight": delta}, tmp_path / "out.gguf", wanted=WRITTEN["q8_0"], changes={}
    )
    (tensor,) = GGUFReader(tmp_path / "out.gguf").tensors
    assert tensor.tensor_type == GGMLQuantizationType.F16 and np.all(tensor.data == 3)


def test_types_have_the_numbers_that_the_gguf_package_gives_them():
    from gguf import LlamaFileType

    assert len(WRITTEN) == len(PLAIN) + len(BLOCKS) == 8
    for found in WRITTEN.values():
        assert GGMLQuantizationType(found.kind).name == found.name.upper()
        assert (
            LlamaFileType(found.file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
            == found.name.upper()
        )
    assert all(hasattr(LlamaFileType, f"MOSTLY_{name.upper()}") for name in MIXED)


def step(row: np.ndarray, kind: str) -> float:
    """The distance of neighbouring values in a block: what rounding can do, but for that of the scale."""
    low, high = min(0.0, float(row.min())), max(0.0, float(row.max()))
    size = max(-low, high)
    return {
        "f32": 0.0,
        "f16": size * 2**-10,
        "bf16": size * 2**-7,
        "q8_0": size / 127,
        "q5_1": (float(row.max()) - float(row.min())) / 31,
        "q5_0": size / 16,
        "q4_1": (float(row.max()) - float(row.min())) / 15,
        "q4_0": size / 8,
    }[kind]


LEVELS = {
    "f32": 0, "f16": 1, "bf16": 1, "q8_0": 127, "q5_1": 31 + 1, "q5_0": 16, "q4_1": 15 + 1, "q4_0": 8,
}  # fmt: skip
"""How often a scale in F16, with the minimum where a block has one, stands in a weight at most."""


@settings(max_examples=60, deadline=None)
@example(rows=np.full((3, 32), 1e-44, np.float32), kind="q8_0")
@example(rows=np.full((3, 32), 5e-6, np.float32), kind="q8_0")
@given(
    rows=arrays(np.float32, (3, 32), elements=st.floats(-8, 8, width=32)),
    kind=st.sampled_from(sorted(WRITTEN)),
)
def test_quantising_and_back_errs_by_no_more_than_a_step_of_the_block(rows, kind):
    wanted = WRITTEN[kind]
    data = quantise(rows, wanted)
    assert data.size == size_of(rows.shape, wanted)
    back = dequantise(data, wanted.kind, rows.shape)
    for before, after in zip(rows, back, strict=True):
        scale = float(np.abs(before).max()) * 2**-9  # scale and minimum are kept in F16
        # Below 2^-14 its values are 2^-24 apart.
        assert np.abs(before - after).max() <= step(before, kind) + scale + LEVELS[kind] * 2**-25


def test_weights_of_an_unknown_type_are_refused():
    with pytest.raises(ModelError, match="type 199"):
        dequantise(np.zeros(32, np.uint8), 199, (1, 32))
