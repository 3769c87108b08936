"""Exports of the models that people use: what another server sends is, token by token, what was scored."""

import pytest

from rung.models.resolve import resolve
from rung.ship.export import ExportOptions, export
from rung.spec import AnswerSpec, Spec
from rung.system import ref_to, save
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.fixtures_ship import LABELS

ROWS = 3


def prompting(model: str, folder):
    """A System that asks a model as it is."""
    found = resolve(model)
    spec = Spec(
        rung="prompt",
        task="topics",
        kind="label",
        labels=LABELS,
        engine="llama",
        model=ref_to(found, model),
        instruction="Which of these is the text about? Answer with billing, delivery or login.",
        answer=AnswerSpec(form="words", max_tokens=8),
    )
    return save(folder, spec, {})


@pytest.mark.models
@pytest.mark.parametrize("model", ["smollm2-135m", "gemma-3-270m"])
def test_ollama_is_sent_the_prompts_that_were_scored(model, tmp_path):
    system = prompting(model, tmp_path / "system")
    rows = write_rows(tmp_path / "rows.jsonl", label_rows(ROWS))
    options = ExportOptions(target="ollama", rows=rows, force=True)
    gate = export(system.folder, tmp_path / "out", options, Log()).gate
    # How many answers are the same is the model's: it writes a label where the System finds the likeliest.
    assert gate.rows == gate.prompts_same == ROWS and gate.engine_after == "llama"


@pytest.mark.models
def test_vllm_is_sent_the_prompts_that_were_scored(tmp_path):
    system = prompting("smollm2-135m", tmp_path / "system")
    rows = write_rows(tmp_path / "rows.jsonl", label_rows(ROWS))
    options = ExportOptions(target="vllm", rows=rows, force=True)
    gate = export(system.folder, tmp_path / "out", options, Log()).gate
    assert gate.rows == gate.prompts_same == ROWS and gate.engine_after == "torch"
