import subprocess
import sys
from importlib.metadata import version

from rung.climb.machine import Watch, describe_machine, resident_mb, versions


def test_the_machine_is_described_in_one_line():
    said = describe_machine()
    assert "\n" not in said and " cores, " in said and " GiB, " in said


def test_versions_name_what_can_change_a_number():
    found = dict(versions())
    assert found["torch"] == version("torch") and found["python"].count(".") == 2
    assert {"xllamacpp", "transformers", "scikit-learn", "numpy", "scipy"} <= found.keys()


def test_the_peak_holds_what_a_child_used_and_gave_back():
    code = "import time; block = bytearray(200 * 2**20); print('x', flush=True); time.sleep(6)"
    before = resident_mb()
    beats: list[float] = []
    with Watch(lambda: beats.append(resident_mb())) as watch:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert watch.peak_mb > before + 190
    assert 1 <= len(beats) <= 2
    assert resident_mb() < before + 100
