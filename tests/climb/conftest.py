"""What most climbs in tests start from: a tiny model, and rows of a topic each."""

from pathlib import Path

import pytest

from tests.fixtures_climb import label_rows, make_tiny_gguf, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("task") / "topics.jsonl", label_rows(270))
