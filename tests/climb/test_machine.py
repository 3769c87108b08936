import subprocess
import sys
from importlib.metadata import version

from rung.climb.machine import describe_machine, versions


def test_the_machine_is_described_in_one_line():
    said = describe_machine()
    assert "\n" not in said and " cores, " in said and " GiB, " in said


def test_versions_name_what_can_change_a_number():
    found = dict(versions())
    assert found["torch"] == version("torch") and found["python"].count(".") == 2
    assert {"xllamacpp", "transformers", "scikit-learn", "numpy", "scipy"} <= found.keys()


WATCHED = """
import subprocess, sys
from rung.climb.machine import Watch, resident_mb

code = "import time; block = bytearray(200 * 2**20); print('x', flush=True); time.sleep(6)"
before, beats = resident_mb(), []
with Watch(lambda: beats.append(resident_mb())) as watch:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
print(before, watch.peak_mb, resident_mb(), len(beats))
"""


def test_the_peak_holds_what_a_child_used_and_gave_back():
    # In a process of its own: this one may give back what earlier tests held.
    done = subprocess.run([sys.executable, "-c", WATCHED], check=True, capture_output=True, text=True)
    before, peak, after, beats = map(float, done.stdout.split())
    assert peak > before + 190
    assert 1 <= beats <= 3
    assert after < before + 100
