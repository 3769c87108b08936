"""How the threads of native libraries behave beside other programs."""

import os
from collections.abc import MutableMapping

WAIT_POLICY = "OMP_WAIT_POLICY"
SPIN_COUNT = "GOMP_SPINCOUNT"
SPINS = "1000"
"""How often a thread of GNU's OpenMP looks for its next piece of work before it sleeps: for microseconds."""


def yield_while_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle OpenMP threads of this process and its children sleep soon, unless the user chose otherwise.

    Threads that spin for long lose a factor of two to 45 as soon as another program wants the same cores;
    threads that sleep at once lose a third on a quiet machine, where the next piece of work is microseconds
    away. So they spin for about as long as a sleep costs. Must be called before torch or scikit-learn load.
    """
    if WAIT_POLICY not in environment:
        environment.setdefault(SPIN_COUNT, SPINS)
    environment.setdefault(WAIT_POLICY, "PASSIVE")
