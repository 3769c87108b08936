"""By what the seconds of two machines, or of one at two times, are kept apart."""

import subprocess
import sys

import pytest

from rung.engines import machine
from rung.engines.machine import machine_key


@pytest.fixture(autouse=True)
def driver(tmp_path, monkeypatch):
    """No GPU, whatever this machine has."""
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "gpus"


def test_a_machine_stays_the_same():
    assert machine_key() == machine_key() and len(machine_key()) == 8


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("processor", lambda: "another"),
        ("available_cores", lambda: 1000),
        ("total_bytes", lambda: 2**60),
        ("version", lambda name: "0.0.0"),
    ],
)
def test_another_processor_memory_or_program_is_another_machine(monkeypatch, part, other):
    here = machine_key()
    monkeypatch.setattr(machine, part, other)
    assert machine_key() != here


def test_so_is_one_with_a_gpu_and_one_whose_gpu_is_hidden(monkeypatch, driver):
    def with_gpu(model: str, interrupts: int) -> str:
        place = driver / "0000:01:00.0"
        place.mkdir(parents=True, exist_ok=True)
        (place / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t {interrupts}\n")
        return machine_key()

    keys = [machine_key(), with_gpu("NVIDIA L4", 1), with_gpu("NVIDIA H200", 1)]
    assert len(set(keys)) == 3 and with_gpu("NVIDIA H200", 2) == keys[-1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine_key() not in keys


def test_torch_is_not_loaded_for_that():
    code = "from rung.engines.machine import machine_key; machine_key(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", f"import sys; {code}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
