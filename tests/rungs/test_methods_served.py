"""What each way to tune ends as: a System that answers as the model that was trained, and its exports."""

import json
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from rung.checks.rows import prepare
from rung.climb.options import Options, config_of
from rung.engines import lora
from rung.errors import TaskError
from rung.guards.drift import divergence, open_pair
from rung.guards.gate import labels_alone
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.rungs import tuning as tunes
from rung.rungs.batching import batch_size
from rung.rungs.learned_files import as_gguf
from rung.rungs.lesson import LESSON_FILE
from rung.rungs.sft import Sft, answer_forms, settled_system
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune, rows_of
from rung.runs import read_json
from rung.ship.export import ExportOptions, export
from rung.system import System, save
from rung.task import Tuning
from rung.training.blocked import blocks_for
from rung.training.methods import METHODS
from tests.fixtures_climb import (
    Log,
    label_rows,
    make_tiny_gguf,
    make_tiny_gguf_in_blocks,
    opened,
    write_rows,
)
from tests.fixtures_serve import Server, said

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
STEPS = 30


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@contextmanager
def tuned(gguf, folder, **tuning):
    """A context, what a few steps of a tune made of the model, and the answers that it gave then."""
    data = write_rows(folder / "topics.jsonl", label_rows(160))
    with opened(gguf, data, folder) as found:
        task = found.task.model_copy(update={"tuning": Tuning(**tuning)})
        context = replace(found, task=task)
        forms = answer_forms(context)
        plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
        with Tune(context, forms, plan) as tune:
            arm = Arm(form="codes", rate=(20 if tune.learned.own else 4) * tune.method.rates[2])
            tune.run(arm, STEPS)
            tune.keep(arm, STEPS)
            answers = tune.answers(arm, context.dev)
        yield context, forms["codes"], plan.folder / BEST_FOLDER, answers


def save_as(context, system, engine):
    """The same System under another engine."""
    files = {name: system.folder / name for name in system.spec.files}
    return save(context.work / engine, system.spec.model_copy(update={"engine": engine}), files)


def values(answers) -> list:
    return [a.value for a in answers]


@pytest.mark.parametrize("tuning", [{"method": "rslora", "rank": 64}, {"method": "lora", "rank": 2}])
def test_llama_cpp_scales_an_adapter_as_torch_does(gguf, tmp_path, tuning):
    with tuned(gguf, tmp_path, **tuning) as (context, spec, adapter, before):
        system, parity, note = settled_system(context, spec, adapter)
        assert parity is not None and parity.agreement >= 0.99
        assert parity.mean_difference < 0.05
        assert system.adapter_gguf is not None and note.startswith("engine ")
        assert values(system.answer(context.dev, context.pool)) == values(before)
        config = json.loads((adapter / lora.ADAPTER_CONFIG).read_text())
        assert (config["r"], config["use_rslora"]) == (tuning["rank"], tuning["method"] == "rslora")


def test_full_tuning_ends_in_whole_weights_for_both_engines(gguf, tmp_path):
    with tuned(gguf, tmp_path, method="full") as (context, spec, adapter, before):
        system, parity, note = settled_system(context, spec, adapter)
        assert parity is not None and parity.agreement >= 0.99 and parity.mean_difference < 0.05
        assert note.startswith("engine ")
        assert system.adapter is None and system.is_tuned
        assert system.weights is not None and system.weights_gguf is not None
        loaded = System.load(system.folder)
        assert values(loaded.answer(context.dev, context.pool)) == values(before)
        base = context.pool.engine(loaded.engine_spec(context.pool, tuned=False))
        prompts = loaded.prompts(context.dev[:4], context.pool)
        tokens = list(spec.answer.codes)
        ours, theirs = (e.next_logprobs(prompts, tokens) for e in (loaded.open(context.pool), base))
        assert max(abs(a - b) for a, b in zip(ours[0], theirs[0], strict=True)) > 0.5
        under_llama = save_as(context, system, "llama")
        given = under_llama.answer(context.dev[:8], context.pool)
        with Server(f"desk={under_llama.folder}", home=tmp_path) as server:
            told = [
                server.user.chat.completions.create(model="desk", messages=said(row.input))
                for row in context.dev[:8]
            ]
        assert [one.choices[0].message.content for one in told] == values(given)
        for target, kind in (("gguf", "q8_0"), ("merged", "f32"), ("vllm", "f32")):
            options = ExportOptions(
                target=target, type=kind, rows=tmp_path / "topics.jsonl", most=40, force=True
            )
            made = export(system.folder, tmp_path / target, options, Log())
            assert made.gate.same >= 0.97 * made.gate.compared > 0, target
            assert "a full tune of" in (made.folder / "README.md").read_text()
        with pytest.raises(TaskError, match="all of its weights were tuned, so there is no adapter"):
            export(system.folder, tmp_path / "no", ExportOptions(target="peft"), Log())
        with pytest.raises(TaskError, match="There is q8_0"):
            export(system.folder, tmp_path / "no", ExportOptions(target="gguf", type="adapter"), Log())


def test_a_prefix_is_answered_by_torch_as_it_was_trained(gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    with tuned(gguf, tmp_path, method="prefix") as (context, spec, adapter, before):
        system, parity, note = settled_system(context, spec, adapter)
        assert (system.spec.engine, parity) == ("torch", None)
        assert note == "engine torch: llama.cpp has no learned prefixes"
        assert system.adapter_gguf is None and system.adapter_form == "prefix"
        assert values(System.load(system.folder).answer(context.dev, context.pool)) == values(before)
        options = ExportOptions(target="peft", rows=tmp_path / "topics.jsonl", most=40, force=True)
        made = export(system.folder, tmp_path / "peft", options, Log())
        assert made.gate.same >= 0.98 * made.gate.compared > 0
        assert "a learned prefix of" in (made.folder / "README.md").read_text()
        for target in ("merged", "gguf", "ollama", "vllm", "hub-folder"):
            with pytest.raises(TaskError, match="before its prompts, not in its weights; --to peft"):
                export(system.folder, tmp_path / "no", ExportOptions(target=target), Log())
        model, base = open_pair(dequantised(context.model), system.adapter, system.weights)
        assert base is None
        read = divergence(model, rows_of(context, spec, context.dev[:10]))
        assert read.kl > 0.01 and read.tuned_loss < read.base_loss
        assert labels_alone(system).endswith("other requests are read after its prefix")


def test_a_dora_is_answered_by_torch_as_it_was_trained(gguf, tmp_path):
    with tuned(gguf, tmp_path, method="dora") as (context, spec, adapter, before):
        system, parity, note = settled_system(context, spec, adapter)
        assert (system.spec.engine, parity) == ("torch", None)
        assert note.startswith("engine torch: llama.cpp has no DoRA")
        assert system.adapter_gguf is None and system.adapter_form == "dora"
        assert values(System.load(system.folder).answer(context.dev, context.pool)) == values(before)
        with pytest.raises(Exception, match="llama.cpp has no adapters for"):
            as_gguf(context, adapter)
        for target, kind in (("gguf", "f16"), ("merged", "f32"), ("peft", "adapter")):
            options = ExportOptions(
                target=target, type=kind, rows=tmp_path / "topics.jsonl", most=40, force=True
            )
            gate = export(system.folder, tmp_path / target, options, Log()).gate
            assert gate.same >= 0.98 * gate.compared > 0, target
        for target in ("gguf", "vllm"):
            with pytest.raises(TaskError, match="no DoRA adapters; another type has it merged"):
                export(system.folder, tmp_path / "no", ExportOptions(target=target, type="adapter"), Log())


def test_what_qlora_learned_is_a_plain_adapter_over_the_bases_own_weights(gguf, tmp_path):
    with tuned(gguf, tmp_path, method="qlora") as (context, spec, adapter, _):
        system, parity, note = settled_system(context, spec, adapter)
        assert parity is not None and parity.agreement >= 0.99
        assert system.adapter_gguf is not None and note.startswith("engine ")


def test_what_was_learned_over_a_files_own_blocks_is_served_over_them(tmp_path):
    """llama.cpp answers over the numbers that were learned over; no package is needed for it."""
    model = make_tiny_gguf_in_blocks(tmp_path / "blocks.gguf", "q4_1")
    with tuned(model, tmp_path, method="qlora") as (context, spec, adapter, before):
        assert blocks_for(context.model, "qlora") == model
        kept = [read_json(path)["how"] for path in context.work.rglob(LESSON_FILE)]
        assert [how[:2] for how in kept] == [["qlora", "blocks"]]
        system, parity, note = settled_system(context, spec, adapter)
        assert parity is not None and parity.agreement >= 0.99
        assert system.adapter_gguf is not None and note.startswith("engine ")
        assert values(system.answer(context.dev, context.pool)) == values(before)


@pytest.mark.parametrize(
    ("tuning", "said_so"),
    [({"method": "dora", "rank": 4}, "DoRA r = 4, "), ({"method": "full"}, "full tuning, ")],
)
def test_a_rung_tunes_as_the_task_says_and_tells_so(gguf, tmp_path, tuning, said_so, monkeypatch):
    monkeypatch.setattr(tunes, "MOST_EPOCHS", 2)
    data = write_rows(tmp_path / "topics.jsonl", label_rows(160))
    with opened(gguf, data, tmp_path, deadline=time.monotonic() + 90) as found:
        context = replace(found, task=found.task.model_copy(update={"tuning": Tuning(**tuning)}))
        made = Sft().build(context)
        assert made.what.startswith(said_so) and made.system.is_tuned
        rate = METHODS[tuning["method"]].rates_for(batch_size(len(context.train)))[1]
        assert all(f", rate {rate:g}, " in t.name for t in made.trials[:-1]), "too few steps for a search"
        chosen = made.trials[-1]
        assert context.measure(made.system, context.dev, "again").score == chosen.score
        again = Sft().build(context)
        assert again.system.digest == made.system.digest and again.trials[:-1] == made.trials[:-1]


def test_a_run_that_is_tuned_otherwise_is_another_one_and_the_usual_one_stays_what_it_was(gguf, tmp_path):
    options = Options(models=(str(gguf),))
    prepared = prepare(write_rows(tmp_path / "topics.jsonl", label_rows(160)), options)
    model = resolve(str(gguf))
    usual = config_of(prepared, [model], options)
    assert "tuning" not in usual["task"]
    task = prepared.task.model_copy(update={"tuning": Tuning(method="dora")})
    other = config_of(replace(prepared, task=task), [model], options)
    assert other == usual | {"task": usual["task"] | {"tuning": {"method": "dora", "rank": 16}}}
