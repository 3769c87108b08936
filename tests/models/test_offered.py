"""Models of the hub by name: what the entries say, and the digest that is kept from the first fetch on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rung.errors import DigestError, ModelError
from rung.models import resolve as module
from rung.models._hub import Found
from rung.models.catalog import CATALOG, CHATML
from rung.models.offered import BITS, OFFERED, offered_named
from rung.models.resolve import at_hand, first_seen, resolve
from rung.models.trust import trust, trusted
from rung.system import ref_to


@pytest.fixture
def hub(tiny_gguf, tmp_path: Path, monkeypatch) -> Path:
    """A folder that stands for the hub: every file is the tiny model."""
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def download(repository: str, file: str | None) -> Found:
        assert file is not None
        path = tmp_path / "hub" / repository / file
        if not path.exists():
            path.parent.mkdir(parents=True)
            shutil.copy(tiny_gguf(), path)
        return Found(path=path, licence="other")

    monkeypatch.setattr(module, "download", download)
    return tmp_path / "hub"


def test_every_entry_has_a_name_of_its_own_a_licence_sizes_and_a_gguf_file() -> None:
    assert len(OFFERED) == 18
    names = [entry.name for entry in (*CATALOG, *OFFERED)]
    assert len(set(names)) == len(names)
    assert [e.parameters for e in OFFERED] == sorted(e.parameters for e in OFFERED)
    for entry in OFFERED:
        assert offered_named(entry.name) is entry
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.hub)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+:[\w.-]+\.gguf", entry.gguf)
        assert entry.licence and entry.licence_note and entry.context >= 4096
        assert entry.gated == (entry.licence in ("gemma", "llama3.2"))
        assert entry.memory_mb("Q8") == pytest.approx(entry.parameters * BITS["Q8"] / 8 / 1e6)
        assert entry.memory_mb("Q4") < entry.memory_mb("Q8") < entry.parameters * 2 / 1e6
    assert offered_named("no-such") is None
    known = next(entry for entry in CATALOG if entry.name == "gemma-3-270m")
    same = offered_named("gemma-3-270m-it")
    assert same is not None and same.memory_mb("Q4") == pytest.approx(known.size / 1e6, rel=0.1)


def test_the_first_fetch_is_trusted_and_said_and_another_digest_later_is_refused(hub: Path) -> None:
    entry = offered_named("smollm2-360m")
    assert entry is not None and at_hand("smollm2-360m") is None
    assert first_seen(entry) == "not tried here, its digest is kept at the first fetch"
    model = resolve("smollm2-360m")
    assert (model.name, model.licence, model.template) == ("smollm2-360m", "apache-2.0", CHATML)
    kept = trusted(entry.gguf)
    assert kept is not None and kept.digest == model.digest
    assert f"sha256 {model.digest[:16]} as first fetched on {kept.first}" in first_seen(entry)
    assert resolve("smollm2-360m") == model
    assert ref_to(model, "smollm2-360m").source == "smollm2-360m"
    path = hub / "HuggingFaceTB" / "SmolLM2-360M-Instruct-GGUF" / "smollm2-360m-instruct-q8_0.gguf"
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(DigestError, match=r"when it was first fetched, it had .*take its entry out of"):
        resolve("smollm2-360m")


def test_those_whose_layers_are_not_all_attention_are_said_to_be_asked_alone() -> None:
    asked = {entry.name for entry in OFFERED if not entry.tunable}
    assert asked == {"qwen3.5-0.8b", "qwen3.5-2b", "qwen3.5-4b"}


def test_a_template_of_the_files_own_is_kept_where_the_entry_has_none(hub: Path) -> None:
    model = resolve("qwen3-0.6b")
    assert model.template is not None and model.licence == "apache-2.0" and model.name == "qwen3-0.6b"


def test_a_damaged_record_is_named(hub: Path, tmp_path: Path) -> None:
    trust("a/b:c.gguf", "1" * 64)
    path = tmp_path / "cache" / "hub_digests.json"
    for damaged in ("{", "[]", json.dumps({"a/b:c.gguf": {"sha256": "1"}})):
        path.write_text(damaged)
        with pytest.raises(ModelError, match="hub_digests.json.*remove it"):
            trust("a/b:c.gguf", "1" * 64)


def test_a_name_near_to_an_entry_is_answered_with_it() -> None:
    with pytest.raises(ModelError, match=r"nearest: .*qwen3-0\.6b"):
        resolve("qwen3-0.6")
