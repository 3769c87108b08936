"""How long calls to one endpoint wait, and how often each is tried: a server may put off one, or all."""

import math
import random
import threading
import time
from collections.abc import Iterable

import httpx

from rung.engines.endpoint_wire import wait_told_s
from rung.engines.work import Refused, is_wanted
from rung.errors import EngineError
from rung.scoring.notation import duration_text

LONGEST_WAIT_S = 60.0
LONGEST_TOLD_S = 30 * 24 * 3600.0
"""What a server that asks for more is quoted with."""
LIMITED = (4, 16, 40, 80)
"""Times `backoff_s`: the waits after each 429 that doesn't say how long, over a minute in all."""
TOO_MANY = 429


class Waits:
    """Of all calls to one endpoint: until when none is made, when one was answered last, and to what.

    `taken` are the keys of all bodies that were answered. A call is tried `attempts` times; `backoff_s` is
    doubled before each further one. Once `stopped` is set nobody waits.
    """

    def __init__(self, place: str, attempts: int, backoff_s: float) -> None:
        self.place, self.attempts, self.backoff_s = place, attempts, backoff_s
        self.not_before, self.answered_at = 0.0, -math.inf
        self.taken: set[str] = set()
        self.stopped = threading.Event()

    def answered(self, keys: Iterable[str]) -> None:
        """A call was answered just now, whose body has these keys."""
        self.taken.update(keys)
        self.answered_at = time.monotonic()


class Tries:
    """Those of one call. At a 429 after which another call was answered their count begins anew: calls take
    turns then.

    So it begins anew no more often than there are answers.
    """

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._begun = self._since = time.monotonic()
        self._counted = self._made = 0
        self._reason, self._wait_s, self._limited = "closed", 0.0, False

    def begin(self) -> None:
        """Another one, once calls may be made. Raises Refused where the endpoint was closed meanwhile."""
        self._counted, self._made, self._limited = self._counted + 1, self._made + 1, False
        if self._waits.stopped.wait(max(0.0, self._waits.not_before - time.monotonic())):
            raise Refused(self._reason)
        # Unseeded: no result depends on it, and clients with one seed would retry in step.
        self._wait_s = self._backed_off_s(2 ** (self._counted - 1), random.SystemRandom().uniform(0.5, 1.5))

    def broke(self, reason: str) -> None:
        """It brought no answer."""
        self._reason = reason

    def put_off(self, response: httpx.Response, reason: str) -> None:
        """The server answers later: no call is made before the time that it names, nor soon after a 429.

        Raises EngineError where that is longer than anybody waits here.
        """
        self._reason, self._limited = reason, response.status_code == TOO_MANY
        if self._limited:
            self._counted = 1 if self._waits.answered_at > self._since else self._counted
            self._since = time.monotonic()
        told_s = wait_told_s(response)
        if told_s is not None and told_s > LONGEST_WAIT_S:
            raise EngineError(
                f"{self._waits.place} asks to wait {duration_text(min(told_s, LONGEST_TOLD_S))} (status "
                f"{response.status_code}): run the same command again then"
            )
        if told_s is None and self._limited:
            times = LIMITED[min(self._counted, len(LIMITED)) - 1]
            told_s = self._backed_off_s(times, random.SystemRandom().uniform(1.0, 1.5))
        if told_s is not None:
            self._waits.not_before = max(self._waits.not_before, time.monotonic() + told_s)
        self._wait_s = told_s or self._wait_s

    def wait(self) -> None:
        """Until the next one. Raises Refused where there is none, or nobody waits for it, EngineError where
        nobody is answered.
        """
        waits, over = self._waits, self._counted >= self._waits.attempts
        if over and self._limited and waits.answered_at <= self._begun:
            raise EngineError(
                f"{waits.place} answers nobody now: {self._reason} (tried {self._made} times); run the same "
                "command again later"
            )
        if over or not is_wanted() or waits.stopped.wait(self._wait_s):
            raise Refused(f"{self._reason} (tried {self._made} times)")

    def _backed_off_s(self, times: int, jitter: float) -> float:
        return min(LONGEST_WAIT_S, self._waits.backoff_s * times * jitter)
