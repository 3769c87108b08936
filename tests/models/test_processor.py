import pytest

from rung.models.processor import multiplies_bf16


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("flags\t\t: fpu avx512_bf16 sse\n", True),
        ("Features\t: fp bf16\n", True),
        ("flags: avx512f\nbugs: bf16\n", False),
    ],
)
def test_bf16_is_read_off_the_processors_flags(tmp_path, text, flag):
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bf16(tmp_path / "cpuinfo") is flag
    assert not multiplies_bf16(tmp_path / "nothing")
