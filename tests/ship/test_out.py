"""Where an export may not go, which is said before any work."""

from pathlib import Path

import pytest

from rung.errors import RunError
from rung.models.resolve import resolve
from rung.ship.export import ExportOptions, export
from rung.spec import AnswerSpec, Spec
from rung.system import System, ref_to, save
from tests.fixtures_climb import Log, label_rows, write_rows
from tests.fixtures_ship import LABELS, make_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def system(folder) -> System:
    gguf = make_gguf(folder / "model.gguf")
    spec = Spec(
        rung="prompt",
        task="topics",
        kind="label",
        labels=LABELS,
        engine="llama",
        model=ref_to(resolve(str(gguf)), str(gguf)),
        answer=AnswerSpec(form="words"),
    )
    return save(folder / "system", spec, {})


def refused(system: System, out: Path) -> str:
    """What is said of `out`, and nothing was begun."""
    log, rows = Log(), write_rows(system.folder.with_name("rows.jsonl"), label_rows(50))
    with pytest.raises(RunError) as caught:
        export(system.folder, out, ExportOptions(target="vllm", rows=rows, force=True), log)
    assert log.lines == log.bars == [] and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("out", [".", "new/..", "here"])
def test_the_folder_that_one_is_in_is_no_new_folder(system, tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = tmp_path / "here" if out == "here" else Path(out)
    said = refused(system, given)
    assert (
        said.startswith(f"an export is a new folder and {str(given)!r} doesn't name one; ")
        and "--out" in said
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "here"] and not list((tmp_path / "here").iterdir())


def test_a_link_is_not_replaced_by_an_export(system, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        said = refused(system, tmp_path / name)
        assert "is a link" in said and "choose another with --out" in said
        assert (tmp_path / name).is_symlink()


def test_an_empty_mount_point_is_not_replaced_either(system, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
    said = refused(system, tmp_path / "disk")
    assert "mount point" in said and f"--out {str(tmp_path / 'disk' / 'export')!r}" in said
