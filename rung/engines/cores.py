"""How many processor cores this process may really use."""

import os
from pathlib import Path


def available_cores(
    *, cgroup: Path = Path("/sys/fs/cgroup"), topology: Path = Path("/sys/devices/system/cpu")
) -> int:
    """Physical cores in this process's affinity mask, capped by its control group's CPU quota; at least 1.

    Two hardware threads of one core count once: matrix products gain nothing from the second.
    """
    if hasattr(os, "sched_getaffinity"):
        logical = sorted(os.sched_getaffinity(0))
    else:
        logical = list(range(os.cpu_count() or 1))
    cores = {_siblings(topology, cpu) for cpu in logical}
    quota = _quota(cgroup)
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def _siblings(topology: Path, cpu: int) -> str:
    """The name of the physical core that holds `cpu`: the list of its hardware threads."""
    path = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _quota(cgroup: Path) -> float | None:
    """Cores allowed by the control group of this process (version 2, then 1); None without a limit."""
    limits = []
    for folder in _own_groups(cgroup):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            limits.append(int(quota) / int(period))
    try:
        quota_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            limits.append(quota_us / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def _own_groups(cgroup: Path) -> list[Path]:
    """The version 2 folders from this process's own group up to the root: each may set a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = cgroup / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(cgroup))]
