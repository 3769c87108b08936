"""The catalog's models with a random LoRA, exported: real vocabularies, real types, tied embeddings."""

import json
from pathlib import Path

import pytest
import torch

from rung.engines import lora
from rung.engines.torch import load_model
from rung.errors import ModelError
from rung.models.chat import load_chat
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.ship.export import ExportOptions, export
from rung.spec import AnswerSpec, Spec
from rung.system import ADAPTER_FOLDER, System, ref_to, save
from tests.fixtures_climb import Log

ROWS = Path(__file__).parents[2] / "examples" / "helpdesk" / "rows.jsonl"
LABELS = ("access", "facilities", "hardware", "leave", "network", "payroll", "security", "travel")


def tuned(name: str, folder: Path, size: float) -> System:
    """A System whose adapter was made at random instead of learned."""
    try:
        model = resolve(name)
    except ModelError as error:
        pytest.skip(str(error))
    network = load_model(dequantised(model))
    lora.attach(network, rank=8, alpha=16, seed=0)
    generator = torch.Generator().manual_seed(1)
    for _, layer in lora.layers(network):
        layer.lora_b.data.copy_(torch.empty(layer.lora_b.shape).normal_(0, size, generator=generator))
    lora.save(network, folder / "adapter", base=name)
    chat = load_chat(model)
    spec = Spec(
        rung="sft",
        task="helpdesk",
        kind="label",
        labels=LABELS,
        engine="torch",
        model=ref_to(model, name),
        style="terse",
        answer=AnswerSpec(form="codes", codes=tuple(chat.answer_ids(label, "terse")[0] for label in LABELS)),
    )
    files = {f"{ADAPTER_FOLDER}/{path.name}": path for path in sorted((folder / "adapter").iterdir())}
    return save(folder / "system", spec, files)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "size", "exports"),
    [
        ("smollm2-135m", 0.1, {"gguf": "q8_0"}),
        ("gemma-3-270m", 0.02, {"gguf": "f16", "merged": "bf16"}),
    ],
    ids=["smollm2-135m", "gemma-3-270m"],
)
def test_a_real_model_answers_as_before_whatever_it_is_exported_as(name, size, exports, tmp_path):
    system = tuned(name, tmp_path, size)
    for target, kind in exports.items():
        options = ExportOptions(target=target, type=kind, rows=ROWS, most=48, force=True)
        gate = export(system.folder, tmp_path / target, options, Log()).gate
        assert gate.prompts_same == 48
        assert gate.same >= 46, gate.faults
        assert json.loads((tmp_path / target / "parity.json").read_text())["same"] == gate.same
    assert ("ai.google.dev/gemma/terms" in (tmp_path / "gguf" / "NOTICE").read_text()) == name.startswith(
        "gemma"
    )
