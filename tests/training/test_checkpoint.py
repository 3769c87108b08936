import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rung.errors import OtherTrainingError, RunError
from rung.training.checkpoint import PAGE, Checkpoint

SIZES = [(3, 5), (700,), (2, 2)]


def tensors(value: float = 0.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.full(size, value + place, dtype=dtype) for place, size in enumerate(SIZES)]


def saved(folder: Path, steps: int = 3) -> None:
    """A run whose tensors hold 10 × the step's number after each step."""
    state = tensors()
    checkpoint = Checkpoint(folder, state, "d")
    for step in range(1, steps + 1):
        for tensor, value in zip(state, tensors(10.0 * step), strict=True):
            tensor.copy_(value)
        checkpoint.save(step)
    checkpoint.close()


def stored(folder: Path) -> tuple[int, float]:
    """The step that a fresh process would resume at, and the first number of its state."""
    state = tensors(-1.0)
    checkpoint = Checkpoint(folder, state, "d")
    step = checkpoint.load()
    checkpoint.close()
    expected = tensors(state[0][0, 0].item())
    assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
    return step, state[0][0, 0].item()


def spoil(folder: Path, offset: int) -> None:
    path = folder / "state.bin"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x41
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_loaded_bit_by_bit(tmp_path, dtype):
    state = [torch.randn(size, dtype=dtype) for size in SIZES]
    kept = [tensor.clone() for tensor in state]
    first = Checkpoint(tmp_path, state, "d")
    assert (first.step, first.load()) == (0, 0)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    first.save(7)
    first.close()
    first.close()
    again = [torch.zeros(size, dtype=dtype) for size in SIZES]
    second = Checkpoint(tmp_path, again, "d")
    assert second.load() == 7
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))
    second.close()


def test_the_newest_of_many_steps_is_what_counts(tmp_path):
    for steps in (1, 2, 3, 8):
        saved(tmp_path / str(steps), steps)
        assert stored(tmp_path / str(steps)) == (steps, 10.0 * steps)


def test_a_torn_state_is_never_used(tmp_path):
    saved(tmp_path, 3)
    size = (tmp_path / "state.bin").stat().st_size
    slot = (size - PAGE) // 2
    # The first step goes to the slot that isn't the current one, which is slot 0 at the beginning.
    newest, older = PAGE + slot, PAGE
    spoil(tmp_path, newest + 100)
    assert stored(tmp_path) == (2, 20.0)
    assert stored(tmp_path) == (2, 20.0)
    spoil(tmp_path, older + slot - PAGE + 5)
    assert stored(tmp_path) == (0, -1.0)


def test_a_head_without_its_state_is_never_used(tmp_path):
    saved(tmp_path, 2)
    path = tmp_path / "state.bin"
    data = path.read_bytes()
    path.write_bytes(data[:PAGE] + bytes(len(data) - PAGE))
    assert stored(tmp_path) == (0, -1.0)


def test_training_goes_on_after_a_torn_state(tmp_path):
    saved(tmp_path, 3)
    slot = ((tmp_path / "state.bin").stat().st_size - PAGE) // 2
    spoil(tmp_path, PAGE + slot + 100)
    state = tensors()
    checkpoint = Checkpoint(tmp_path, state, "d")
    assert checkpoint.load() == 2
    for tensor, value in zip(state, tensors(30.0), strict=True):
        tensor.copy_(value)
    checkpoint.save(3)
    checkpoint.close()
    assert stored(tmp_path) == (3, 30.0)


def test_the_state_of_other_settings_or_shapes_is_refused_with_what_differs(tmp_path):
    saved(tmp_path)
    with pytest.raises(OtherTrainingError, match="another digest .*'d', now 'e'") as raised:
        Checkpoint(tmp_path, tensors(), "e")
    assert raised.value.differing == ("digest",)
    with pytest.raises(OtherTrainingError, match="another shapes"):
        Checkpoint(tmp_path, tensors()[:2], "d")
    with pytest.raises(OtherTrainingError, match="another digest, type") as raised:
        Checkpoint(tmp_path, tensors(dtype=torch.float64), "e")
    assert raised.value.differing == ("digest", "type")
    assert stored(tmp_path) == (3, 30.0)


def test_a_damaged_folder_says_what_to_remove(tmp_path):
    saved(tmp_path)
    (tmp_path / "state.bin").write_bytes(b"short")
    with pytest.raises(RunError, match="missing or damaged; remove"):
        Checkpoint(tmp_path, tensors(), "d")
    (tmp_path / "state.json").write_text('{"digest"')
    with pytest.raises(RunError, match="state.json"):
        Checkpoint(tmp_path, tensors(), "d")


def test_killed_between_the_two_files_it_starts_again(tmp_path):
    saved(tmp_path)
    (tmp_path / "state.json").unlink()
    assert stored(tmp_path) == (0, -1.0)
    assert json.loads((tmp_path / "state.json").read_text())["digest"] == "d"


FULL = """
import resource, sys
from pathlib import Path
import torch
from rung.errors import RunError
from rung.training.checkpoint import Checkpoint
for name, limit in (("small", 2**20), ("large", 2**22)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        Checkpoint(Path(sys.argv[1]) / name, [torch.zeros(2**18)], "d")
    except RunError as error:
        print(name, error)
    else:
        print(name, "made")
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY, reason="limited")
def test_no_room_is_said_before_training_starts_and_leaves_nothing_behind(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    said, made = child.stdout.splitlines()
    assert said.startswith("small ") and "can't write the training state (2 MiB)" in said
    assert "--out" in said
    assert not any((tmp_path / "small").iterdir())
    assert made == "large made"


REFUSED = """
import resource, sys
from pathlib import Path
import torch
from rung.errors import RunError
from rung.training.checkpoint import Checkpoint
state = [torch.ones(2**18)]
checkpoint = Checkpoint(Path(sys.argv[1]), state, "d")
checkpoint.save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
state[0].fill_(2)
try:
    checkpoint.save(2)
except RunError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(checkpoint.load(), float(state[0].min()), float(state[0].max()))
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY, reason="limited")
def test_a_step_that_the_disk_refuses_is_told_and_the_one_before_stays(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    said, state = child.stdout.splitlines()
    assert "can't write" in said and "state.bin" in said
    assert state == "1 1.0 1.0"
