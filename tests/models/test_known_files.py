"""Files as they were when a model was found: what is seen of a change, and at what cost."""

import os
from pathlib import Path

import pytest

from rung.models.files import changed, noted
from rung.models.resolve import resolve
from rung.runs import file_digest


def test_a_file_is_read_again_only_where_its_size_time_or_inode_is_another(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    file = noted(path)
    assert changed([file]) is None
    times = path.stat()
    path.write_bytes(b"new")
    assert changed([file]) == path
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed([file]) is None  # it isn't read


def test_a_file_that_was_replaced_is_read_once_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    file, read = noted(path), []
    monkeypatch.setattr("rung.models.files.file_digest", lambda one: read.append(one) or file_digest(one))
    path.write_bytes(b"other")
    assert [changed([file]) for _ in range(3)] == [path] * 3 and len(read) == 1
    path.write_bytes(b"old")
    os.utime(path, ns=(1, 1))
    assert [changed([file]) for _ in range(3)] == [None] * 3 and len(read) == 2


def test_a_file_that_was_touched_or_copied_is_the_same_and_one_that_was_replaced_is_not(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(b"old")
    file, times = noted(path), path.stat()
    os.utime(path, ns=(1, 1))
    assert changed([file]) is None
    for content, found in ((b"new", path), (b"old", None)):
        other.write_bytes(content)
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.replace(path)
        assert changed([file]) == found
    path.unlink()
    assert changed([file]) == path


def test_a_model_names_every_file_that_its_digest_is_of(tiny_gguf) -> None:
    from rung.models.weights import dequantised

    model = resolve(str(tiny_gguf()))
    assert [(file.path, file.digest) for file in model.files] == [(model.gguf, model.digest)]
    folder = resolve(str(dequantised(model)))
    names = [file.path.name for file in folder.files]
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert changed([*model.files, *folder.files]) is None
