"""A System's folder that another System takes while it is loaded: its engine is its own, or doesn't start."""

import os
import signal
from pathlib import Path

import pytest

from rung.engines.llama import LlamaEngine
from rung.errors import EngineError
from rung.records import Example
from rung.system import Pool, System, copy
from tests.fixtures_climb import make_tiny_gguf
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
