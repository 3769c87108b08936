import struct
from pathlib import Path

import pytest

from rung.errors import ModelError
from rung.models._gguf import gguf_metadata, read_header


def header(*pairs: bytes, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs)) + b"".join(pairs)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.fixture
def write(tmp_path: Path):
    def write(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write


def test_the_header_equals_what_the_gguf_package_reads(tiny_gguf) -> None:
    import gguf

    path = tiny_gguf()
    reader = gguf.GGUFReader(path)
    found = gguf_metadata(path, arrays=True)
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert found == theirs
    head = read_header(path)
    data = path.read_bytes()
    assert [tensor.name for tensor in head.tensors] == [tensor.name for tensor in reader.tensors]
    for ours, tensor in zip(head.tensors, reader.tensors, strict=True):
        assert ours.size is not None
        assert data[ours.begin : ours.begin + ours.size] == tensor.data.tobytes()
        assert ours.shape == tuple(reversed(tensor.shape.tolist())) and ours.kind == tensor.tensor_type
    assert head.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_long_arrays_are_left_out_unless_asked_for(tiny_gguf) -> None:
    path = tiny_gguf()
    assert "tokenizer.ggml.tokens" not in gguf_metadata(path)
    tokens = gguf_metadata(path, arrays=True)["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list) and len(tokens) == 2000


def test_a_file_cut_anywhere_is_refused_and_never_crashes_the_reader(tiny_gguf, write) -> None:
    data = tiny_gguf().read_bytes()
    for end in [*range(1, 400, 7), len(data) // 3, len(data) // 2, len(data) - 1]:
        with pytest.raises(ModelError, match="cut short|begins with"):
            gguf_metadata(write(data[:end]))


def test_an_empty_file_is_refused(write) -> None:
    with pytest.raises(ModelError, match="is empty"):
        gguf_metadata(write(b""))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf"):
        gguf_metadata(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 a zip file", "begins with"),
        (header(version=1), "version 1"),
        (header(tensors=1 << 40), "claims a length"),
        (header(text("k") + struct.pack("<IQ", 8, 1 << 60)), "claims a length"),
        (header(text("k") + struct.pack("<IIQ", 9, 4, 1 << 60)), "claims a length"),
        (header(text("k") + struct.pack("<IIQ", 9, 4, 1 << 20)), "cut short"),
        (header(text("k") + struct.pack("<I", 77)), "unknown GGUF type"),
        (header(text("k") + struct.pack("<IIQ", 9, 9, 1)), "array of the GGUF type"),
        (header(tensors=1) + text("w") + struct.pack("<I", 99), "rank 99"),
        (header(tensors=1) + text("w") + struct.pack("<IQIQ", 1, 1 << 30, 0, 0), "inside its tensors"),
    ],
)
def test_a_damaged_or_hostile_header_is_refused_with_a_reason(write, data: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        gguf_metadata(write(data))
