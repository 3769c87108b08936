"""Ends a llama.cpp that stands still while a request waits for it.

Reports on its server tell of requests that are lost: the connection stays open, the process lives, and
nothing works on them any more. One that is ended is started again, and what it was asked is asked once more.
"""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STILL_S = 20.0
"""How long a process that is waited for may do nothing."""
LOOKS = 12
"""So many times it's looked meanwhile; all of them have to find it still."""
IDLE_SHARE = 0.01
"""Of one core. Threads that poll their queues take less, and whatever computes takes more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a process has done so far: seconds on a core, bytes read from a disk, and requests answered."""

    core_s: float
    read: int
    answered: int


class Watch:
    """Watches one process from its first request on; `stood_still` says that it was ended for that."""

    def __init__(self, process: subprocess.Popen[bytes], still_s: float = STILL_S):
        self.stood_still = False
        self._process, self._pause_s = process, still_s / LOOKS
        self._waiting = self._answered = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def asked(self) -> Iterator[None]:
        """While a request waits for the process; one that gives up, by whatever is raised, has no answer."""
        self._wait(1)
        answered = False
        try:
            yield
            answered = True
        finally:
            self._wait(-1, answered)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside `asked`: while the process waits for whoever reads its answer, and may well do nothing."""
        self._wait(-1, answered=True)
        try:
            yield
        finally:
            self._wait(1)

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _wait(self, change: int, answered: bool = False) -> None:
        with self._lock:
            self._waiting += change
            self._answered += answered
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()

    def _look(self) -> None:
        before, still = self._work(), 0
        while before is not None and not self._over.wait(self._pause_s):
            now = self._work()
            if now is None:
                return
            if _moved(before, now, self._pause_s):
                still = 0
            elif self._waiting:  # requests that give up and come again find it as still as before
                still += 1
            before = now
            if still == LOOKS:
                self.stood_still = True
                self._process.kill()
                return

    def _work(self) -> Work | None:
        """What it has done; None once it's gone."""
        import psutil

        try:
            process = psutil.Process(self._process.pid)
            times = process.cpu_times()
            counters = process.io_counters() if hasattr(process, "io_counters") else None
        except psutil.Error:
            return None
        return Work(
            core_s=times.user + times.system,
            read=0 if counters is None else counters.read_bytes,
            answered=self._answered,
        )


def _moved(before: Work, now: Work, pause_s: float) -> bool:
    idle = now.core_s - before.core_s <= IDLE_SHARE * pause_s
    return not idle or now.read != before.read or now.answered != before.answered
