"""The most memory that some work takes, as torch's allocators count it."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from tests.fixtures_tiny import DEVICE


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that was held at once of what `work` made."""
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events, "the profiler tells of what is taken and let go"
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
