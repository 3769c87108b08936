"""A System's folder that another System takes while it is loaded: its engine is its own, or doesn't start."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from rung.engines.llama import LlamaEngine
from rung.errors import EngineError
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.records import Example, Passage
from rung.search import PassageIndex, index_files, terms_of
from rung.spec import AnswerSpec, RetrievalSpec, ShotSpec, Spec
from rung.system import SHOTS_FILE, Pool, System, copy, ref_to, save
from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import make_head
from tests.fixtures_ship import make_tuned

TEXTS = ("the wifi is down", "my badge is lost", "when is pay day")
ROWS = [Example(id=text, input=text, output=None) for text in TEXTS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def said(system: System, pool: Pool) -> list[str]:
    return [answer.text for answer in system.answer(ROWS, pool)]


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_systems_of_one_folder_one_after_the_other_answer_each_by_its_own_weights(tiny, tmp_path, engine):
    changes = {"engine": engine, "form": "free", "kind": "text", "labels": ()}
    one, two = (make_tuned(tiny, tmp_path / str(seed), seed=seed, **changes) for seed in (1, 2))
    before = copy(one, tmp_path / "winner")
    with Pool(threads=1, parallel=1) as pool:
        first = said(before, pool)
        after = copy(two, tmp_path / "winner")
        assert said(before, pool) == first
        assert said(after, pool) == said(two, pool) != first
        pool.close()
        with pytest.raises(EngineError, match=r"adapter.* was replaced or changed .*: load the System again"):
            said(before, pool)
        assert said(System.load(tmp_path / "winner"), pool) == said(two, pool)


def test_a_child_that_died_is_not_started_with_what_lies_there_now(tiny, tmp_path):
    changes = {"engine": "llama", "form": "free", "kind": "text", "labels": ()}
    one, two = (make_tuned(tiny, tmp_path / str(seed), seed=seed, **changes) for seed in (1, 2))
    before = copy(one, tmp_path / "winner")
    with Pool(threads=1, parallel=1) as pool:
        said(before, pool)
        copy(two, tmp_path / "winner")
        engine = before.open(pool)
        assert isinstance(engine, LlamaEngine)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="load the System again"):
            said(before, pool)


def plain(folder: Path, base: Path, engine: str) -> System:
    """A System that is its base model with an instruction."""
    spec = Spec(
        rung="prompt",
        task="t",
        kind="text",
        engine=engine,  # type: ignore[arg-type]
        model=ref_to(resolve(str(base)), str(base)),
        instruction="Say.",
        answer=AnswerSpec(form="free", max_tokens=8),
    )
    return save(folder, spec, {})


@pytest.mark.parametrize("engine", ["llama", "torch"])
def test_a_base_that_was_replaced_is_loaded_for_no_system_of_the_old_one(tiny, tmp_path, engine):
    if engine == "llama":
        base = weights = tmp_path / "base.gguf"
        shutil.copyfile(tiny, base)
    else:
        base = tmp_path / "base"
        shutil.copytree(dequantised(resolve(str(tiny))), base)
        weights = base / "model.safetensors"
    made, kept = plain(tmp_path / "system", base, engine), weights.read_bytes()
    with Pool(threads=1, parallel=1) as pool:
        before = said(made, pool)
        pool.close()
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(EngineError, match=f"{weights.name}' was removed, replaced or changed since"):
            said(made, pool)
        weights.write_bytes(kept)
        assert said(made, pool) == before


def with_examples(folder: Path, seed: int, tiny: Path) -> System:
    base = plain(folder.with_name(f"{folder.name}-plain"), tiny, "llama")
    shots = json.dumps({"input": "so?", "output": f"it is {seed}"}) + "\n"
    return save(
        folder, base.spec.model_copy(update={"shots": ShotSpec(choice="fixed", k=1)}), {SHOTS_FILE: shots}
    )


def with_passages(folder: Path, seed: int, tiny: Path) -> System:
    base = plain(folder.with_name(f"{folder.name}-plain"), tiny, "llama")
    passages = (Passage(id="a", title="", text=f"The wifi has the number {seed}."),)
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    changes = {"retrieval": RetrievalSpec(search="bm25", k=1)}
    return save(folder, base.spec.model_copy(update=changes), index_files(index, "bm25"))


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (lambda folder, seed, tiny: make_head(folder, seed=seed), "head.safetensors"),
        (with_examples, "shots.jsonl"),
        (with_passages, "passages.jsonl"),
    ],
)
def test_what_is_read_at_the_first_answer_is_never_another_systems(tiny, tmp_path, make, file):
    one, two = (make(tmp_path / str(seed), seed, tiny) for seed in (0, 5))
    folder = copy(one, tmp_path / "winner").folder
    loaded = System.load(folder)

    def asked(system: System, pool: Pool) -> object:
        return said(system, pool) if system.spec.engine == "head" else system.prompts(ROWS, pool)

    with Pool(threads=1, parallel=1) as pool:
        for other in (two, plain(tmp_path / "plain", tiny, "llama")):
            copy(other, folder)
            with pytest.raises(EngineError, match=f"{file}' was replaced .*: load the System again"):
                asked(loaded, pool)
        copy(one, folder)
        found = asked(loaded, pool)
        copy(two, folder)
        assert asked(loaded, pool) == found
