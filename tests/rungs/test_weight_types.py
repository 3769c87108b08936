"""A System whose base has its matrices in another type: proved, kept, served and exported as scored."""

import dataclasses
import json
from collections import namedtuple
from contextlib import closing

import numpy as np
import pytest

from rung.engines.base import EngineSpec
from rung.engines.llama import LlamaEngine
from rung.engines.torch import TorchEngine
from rung.errors import EngineError, TrainingError
from rung.models.resolve import read_header, resolve
from rung.models.retyped import retyped
from rung.records import Example
from rung.rungs import proving, sft
from rung.rungs.probe import LLAMA, RETYPED, TORCH, Backend, under_each_engine
from rung.rungs.proving import Proof
from rung.rungs.sft import answer_forms, settled_system
from rung.ship.export import ExportOptions, export
from rung.spec import LATER, AnswerSpec, Spec
from rung.system import SPEC_FILE, Pool, System, save
from tests.fixtures_climb import Log, label_rows, opened, write_rows
from tests.fixtures_serve import Server, said
from tests.fixtures_ship import make_adapter, make_gguf, make_tuned

Q8_0 = RETYPED[0]
Disk = namedtuple("Disk", "total used free")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", kind="f16")


@pytest.fixture
def context(gguf, tmp_path):
    data = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    with opened(gguf, data, tmp_path) as found:
        found.work.mkdir(parents=True)
        yield found


@pytest.fixture
def adapter(context, tmp_path):
    return make_adapter(context.model, tmp_path / "adapter")


@pytest.fixture
def races(monkeypatch):
    """Which Systems raced; the type is the fastest of those that may win."""
    seen = []

    def race(context, name, systems):
        seen.append((name, [*systems]))
        return next((b for b in systems if b in RETYPED), LLAMA), "engine: told"

    monkeypatch.setattr(sft, "race", race)
    return seen


def test_a_tune_under_other_weights_is_proved_with_those(context, adapter, races, monkeypatch):
    proved = []

    def of(proof, backend=LLAMA):
        proved.append((backend, proof.systems[backend].engine_spec(context.pool).gguf))
        return was(proof, backend)

    was = Proof.of
    monkeypatch.setattr(Proof, "of", of)
    system, parity, _ = settled_system(context, answer_forms(context)["codes"], adapter)
    assert [backend for backend, _ in proved] == [LLAMA, Q8_0]
    assert [file for _, file in proved] == [context.model.gguf, retyped(context.model, "q8_0").gguf]
    assert parity is not None and parity.agreement >= 0.99
    assert (system.spec.engine, system.spec.weight_type) == Q8_0
    assert system.adapter_gguf is not None and system.adapter is not None
    under_torch = under_each_engine(context, "other", system.spec, {})[TORCH]
    assert under_torch.spec.weight_type is None


@pytest.mark.parametrize("fault", ["apart", "few agree", "the child ends"])
def test_what_is_not_the_trained_model_under_them_is_served_under_the_files_own(
    context, adapter, races, monkeypatch, fault
):
    def of(proof, backend=LLAMA):
        found = was(proof, backend)
        if backend == LLAMA:
            return found
        if fault == "apart":
            raise TrainingError("the tuned model isn't the same in both engines")
        if fault == "the child ends":
            raise EngineError("llama.cpp had not loaded its file")
        return dataclasses.replace(found, agreement=0.98)

    was = Proof.of
    monkeypatch.setattr(Proof, "of", of)
    system, parity, note = settled_system(context, answer_forms(context)["codes"], adapter)
    assert Backend.of(system.spec) == LLAMA and parity is not None and parity.agreement >= 0.99
    assert [set(sides) for _, sides in races] == [{LLAMA, TORCH, Q8_0}, {LLAMA, TORCH}]
    assert len({name for name, _ in races}) == 2, "each is settled under a name of its own"
    assert note.endswith("other weights were faster and not proved to be the same model")


def test_a_race_that_is_over_is_known_on_a_disk_that_is_full_by_now(context, adapter, races, monkeypatch):
    monkeypatch.setattr("rung.models.retyped.shutil.disk_usage", lambda place: Disk(1, 1, 0))
    systems = under_each_engine(context, "tuned", answer_forms(context)["codes"], {})
    assert {*systems} == {LLAMA, TORCH, Q8_0}


def test_a_second_proof_asks_as_many_as_there_is_time_for_then(context, adapter, races):
    asked = []
    late = dataclasses.replace(context)

    def settled(name, made):
        asked.append(name)
        return context.settled(name, made)

    object.__setattr__(late, "settled", settled)
    settled_system(late, answer_forms(context)["codes"], adapter)
    assert asked == [
        "prompts to compare the engines on",
        "prompts to compare the engines on, llama in q8_0",
    ]


def test_torch_is_asked_once_however_many_are_compared_with_it(context, adapter, races, monkeypatch):
    asked = []

    def choose(engine, prompts, candidates):
        asked.append(len(prompts))
        return was(engine, prompts, candidates)

    was = TorchEngine.choose
    monkeypatch.setattr(TorchEngine, "choose", choose)
    monkeypatch.setattr(proving, "FEWEST_PROVED", 7)
    _, parity, _ = settled_system(
        dataclasses.replace(context, deadline=0.0), answer_forms(context)["codes"], adapter
    )
    assert asked == [7] and parity is not None and parity.agreement_rows == 7


def test_a_second_proof_knows_what_the_first_took_and_asks_no_more_than_that(
    context, adapter, races, monkeypatch
):
    told = []

    def to_prove(prompts, left_s, each_s, spent_s):
        told.append((prompts, spent_s))
        return was(9, left_s, each_s, spent_s)

    was = proving.to_prove
    monkeypatch.setattr(proving, "to_prove", to_prove)
    settled_system(context, answer_forms(context)["codes"], adapter)
    (first, none_s), (second, spent_s) = told
    assert (first, none_s) == (len(context.dev), 0.0)
    assert second == 9 and spent_s > 0


def test_a_system_says_its_type_and_others_are_written_as_they_were(gguf, tmp_path):
    plain = make_tuned(gguf, tmp_path / "plain", engine="llama")
    other = make_tuned(gguf, tmp_path / "other", engine="llama", weight_type="q8_0")
    fields = json.loads((plain.folder / SPEC_FILE).read_text())
    assert not fields.keys() & {*LATER}
    assert json.loads((other.folder / SPEC_FILE).read_text()) == {**fields, "weight_type": "q8_0"}
    assert plain.digest != other.digest
    assert System.load(other.folder).spec == other.spec
    assert (plain.spec.engine_said, other.spec.engine_said) == ("llama", "llama in q8_0")
    assert Spec.model_validate(fields).digest == plain.digest


def test_it_answers_and_is_served_by_those_weights(gguf, tmp_path):
    plain = make_tuned(gguf, tmp_path / "plain", engine="llama")
    other = make_tuned(gguf, tmp_path / "other", engine="llama", weight_type="q8_0")
    rows = [row["input"] for row in label_rows(12)]
    examples = [Example(id=str(at), input=text, output=None) for at, text in enumerate(rows)]
    file = retyped(resolve(str(gguf)), "q8_0").gguf
    with Pool(threads=1, parallel=4) as pool:
        codes = list(other.spec.answer.codes)
        prompts = other.prompts(examples, pool)
        found, before = (
            np.array(system.open(pool).next_logprobs(prompts, codes)) for system in (other, plain)
        )
        answers = other.answer(examples, pool)
    spec = EngineSpec(engine="llama", gguf=file, adapter=other.adapter_gguf, context=512, threads=1)
    with closing(LlamaEngine(spec)) as engine:
        assert np.abs(np.array(engine.next_logprobs(prompts, codes)) - found).max() < 1e-3
    assert np.abs(before - found).max() > 1e-3, "the file's own weights say something else"
    with Server(f"desk={other.folder}", f"plain={plain.folder}", home=tmp_path) as server:
        assert "engine llama in q8_0" in server.said
        told = [
            server.user.chat.completions.create(model="desk", messages=said(row), logprobs=True)
            for row in rows
        ]
        assert server.get("/v1/systems").json()["data"][0]["weight_type"] == "q8_0"
        assert len(server.children()) == 2, "one child for each file of weights"
    assert [one.choices[0].message.content for one in told] == [a.value for a in answers]


@pytest.mark.parametrize("target", ["gguf", "ollama"])
def test_an_export_of_the_base_holds_those_weights(gguf, tmp_path, target):
    rows = write_rows(tmp_path / "rows.jsonl", label_rows(120))
    system = make_tuned(gguf, tmp_path / "desk", engine="llama", weight_type="q8_0")
    kind = "adapter"
    if target == "ollama":
        fields = {
            "rung": "prompt",
            "instruction": "Name the topic.",
            "style": "chat",
            "answer": AnswerSpec(form="words", max_tokens=8),
        }
        system = save(tmp_path / "prompt", system.spec.model_copy(update=fields), {})
        kind = "base"
    options = ExportOptions(target=target, type=kind, rows=rows, force=True)
    made = export(system.folder, tmp_path / "out", options, Log())
    (file,) = made.folder.glob("topics-base.gguf")
    wanted = retyped(resolve(str(gguf)), "q8_0").gguf
    assert wanted is not None
    kinds = [[(t.name, t.kind) for t in read_header(path).tensors] for path in (file, wanted, gguf)]
    assert kinds[0] == kinds[1] != kinds[2]
    assert made.gate.prompts_same == 120


def test_weights_that_overflow_are_an_error_and_no_answer(gguf, tmp_path):
    """llama.cpp computes no numbers with such an adapter, which torch, with wider ones, may answer with."""
    large = make_tuned(gguf, tmp_path / "large", engine="llama", form="words", size=3.0)
    with Pool(threads=1, parallel=4) as pool:
        rows = [Example(id="1", input="the invoice is wrong", output=None)]
        (answer,) = large.answer(rows, pool)
        assert answer.failure is not None and "no number" in answer.failure
        with pytest.raises(EngineError, match="no number"):
            large.open(pool).next_logprobs(large.prompts(rows, pool), [5, 6])
