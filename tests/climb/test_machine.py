import subprocess
import sys
from functools import partial
from importlib.metadata import version

from rung import memory
from rung.climb.climb import Options, climb
from rung.climb.machine import Watch, describe_machine, versions
from rung.engines import cores
from rung.engines.cores import available_cores
from rung.memory import total_bytes
from tests.climb.test_climb import with_ladder
from tests.climb.test_stopping import Counts
from tests.fixtures_climb import Log


def test_the_machine_is_described_in_one_line():
    said = describe_machine()
    assert "\n" not in said
    assert f", {available_cores()} core" in said and f" {total_bytes() / 2**30:.0f} GiB, " in said


def test_in_a_container_its_limits_are_the_machines(tmp_path, monkeypatch):
    groups = tmp_path / "groups"
    groups.mkdir()
    (tmp_path / "own").write_text("0::/\n")
    for name, text in (("max", str(3 * 2**29)), ("current", "0"), ("stat", "")):
        (groups / f"memory.{name}").write_text(text)
    (groups / "cpu.max").write_text("100000 100000")
    monkeypatch.setattr(memory, "CGROUPS", groups)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "available_cores", partial(cores.available_cores, cgroup=groups))
    assert ", 1 core, 1.5 GiB, " in describe_machine()


def test_versions_name_what_can_change_a_number():
    found = dict(versions())
    assert found["torch"] == version("torch") and found["python"].count(".") == 2
    assert {"xllamacpp", "transformers", "scikit-learn", "numpy", "scipy"} <= found.keys()


def test_on_the_test_a_system_has_the_times_that_its_limits_were_held_to_on_another_machine_too(
    task, tiny, tmp_path, monkeypatch
):
    names = with_ladder(monkeypatch, Counts("good"))
    options = Options(models=(str(tiny),), out=tmp_path / "run", budget_s=600, rungs=names)
    first, run = climb(task, options, Log())
    (run / "climb.json").unlink()
    monkeypatch.setattr("rung.engines.machine.processor", lambda: "another")
    again, _ = climb(task, options, Log())
    dev, test = again.results[0].dev, again.results[0].test
    assert dev == first.results[0].dev and again.machine != first.machine
    assert (test.p50_s, test.p95_s, test.memory_mb) == (dev.p50_s, dev.p95_s, dev.memory_mb)


WATCHED = """
import subprocess, sys, threading, time
from rung.climb.machine import Watch, resident_mb

code = "block = bytearray(200 * 2**20); print('x', flush=True); input()"
Watch.EVERY_S = 0.03
before, beats, beaten = resident_mb(), 0, threading.Event()

def beat():
    global beats
    beats += 1
    beaten.set()

def next_beat():
    beaten.clear()
    assert beaten.wait(60)

begun = time.monotonic()
with Watch(beat) as watch:
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as child:
        child.stdout.readline()
        next_beat()  # which may be one for samples from before that
        next_beat()
        child.communicate("")
print(before, watch.peak_mb, resident_mb(), beats, (time.monotonic() - begun) / Watch.EVERY_S)
"""


def test_the_peak_holds_what_a_child_used_and_gave_back():
    # In a process of its own: this one may give back what earlier tests held.
    done = subprocess.run([sys.executable, "-c", WATCHED], check=True, capture_output=True, text=True)
    before, peak, after, beats, pauses = map(float, done.stdout.split())
    assert peak > before + 190
    assert 2 <= beats <= 1 + pauses / Watch.SAMPLES_A_BEAT
    assert after < before + 100
