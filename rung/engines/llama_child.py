"""The process that holds llama.cpp: a fault of native code ends this one and not its parent.

Run by file path. Standard input: one JSON line of parameters, then nothing; its end means that the
parent is gone. Standard output: one JSON line, {"address": …} when ready or {"error": …}. The
protocol after that is llama.cpp's HTTP server on the loopback interface, behind the given key.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
WARNINGS = 2
"""llama.cpp's level of verbosity that prints errors and warnings only."""


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.stdin.readline())
    answer = os.dup(1)
    # Native code may write to standard output, which belongs to the one line above.
    os.dup2(2, 1)
    die_with_parent(settings["parent"])
    try:
        server = serve(settings)
    except RuntimeError as error:
        os.write(answer, (json.dumps({"error": str(error)}) + "\n").encode())
        sys.exit(1)
    # The signal follows the thread that started us, which may end as soon as it has the address. From here on
    # it's the end of standard input that tells of a parent that is gone.
    parent_signal(0)
    with contextlib.suppress(BrokenPipeError):
        os.write(answer, (json.dumps({"address": server.listening_address}) + "\n").encode())
    sys.stdin.read()
    os._exit(0)


def serve(settings: dict):
    """Start llama.cpp's server with `settings`; its threads are native."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = settings["gguf"]
    params.n_ctx = settings["context"] * settings["parallel"]
    params.n_parallel = settings["parallel"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = settings["parallel"] + 2
    params.cache_ram_mib = 0
    params.ui = False
    params.warmup = False
    params.verbosity = WARNINGS
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in settings["adapters"]]
    params.lora_init_without_apply = not settings["apply"]
    return xllamacpp.Server(params)


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent, for the time in which nothing reads stdin."""
    parent_signal(signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def parent_signal(number: int) -> None:
    """Ask Linux for signal `number` when the starting thread ends (0: none); nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    main()
