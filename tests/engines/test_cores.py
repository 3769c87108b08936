import os
from pathlib import Path

import pytest

from rung.engines.cores import available_cores

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks here")


def topology(root: Path, *, threads_per_core: int) -> Path:
    for cpu in sorted(os.sched_getaffinity(0)):
        folder = root / "cpus" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu // threads_per_core}\n")
    return root / "cpus"


def cgroup(root: Path, quota: str) -> Path:
    folder = root / "cgroup"
    folder.mkdir()
    (folder / "cpu.max").write_text(quota)
    return folder


@needs_affinity
def test_without_a_quota_every_core_of_the_mask_counts(tmp_path):
    found = available_cores(
        cgroup=cgroup(tmp_path, "max 100000\n"), topology=topology(tmp_path, threads_per_core=1)
    )
    assert found == len(os.sched_getaffinity(0))


@needs_affinity
def test_hardware_threads_of_one_core_count_once(tmp_path):
    found = available_cores(cgroup=tmp_path / "none", topology=topology(tmp_path, threads_per_core=1_000_000))
    assert found == 1


@needs_affinity
@pytest.mark.parametrize("quota", ["100000 100000", "50000 100000"])
def test_a_quota_caps_the_cores_and_never_below_one(tmp_path, quota):
    assert (
        available_cores(cgroup=cgroup(tmp_path, quota), topology=topology(tmp_path, threads_per_core=1)) == 1
    )


def test_a_machine_that_tells_nothing_still_has_a_core(tmp_path):
    assert available_cores(cgroup=tmp_path / "none", topology=tmp_path / "none") >= 1


def test_a_version_1_quota_is_respected(tmp_path):
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text("100000")
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(cgroup=tmp_path, topology=tmp_path / "none") == 1
