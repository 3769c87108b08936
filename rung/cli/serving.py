"""The command `serve`."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cyclopts import Parameter

from rung.cli.durations import seconds
from rung.serve.limits import Limits

N = TypeVar("N", int, float)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServeChoices:
    """How `serve` serves.

    Parameters
    ----------
    host
        Address to listen on. Others than this machine's own need an API key: `rung keys add NAME`.
    port
        Port to listen on; 0 takes a free one.
    keys
        File of API keys; by default the one that `rung keys` writes, where there is one.
    slots
        Requests that one base model answers at a time.
    queue
        Requests that may wait for it; what comes then is told to try again later (429).
    context
        The most tokens of a prompt and its answer together; by default what Systems are scored with, 2,048.
    memory_mb
        Put out adapters that were longest unused where all processes would need more memory than this.
    request_limit
        Time for one request, such as 90s or 5m.
    body_limit
        The largest request body, in bytes.
    grace
        Time to finish requests when the server is stopped.
    threads
        Threads of an engine; 0 means one for each core.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    slots: int = Limits.slots
    queue: int = Limits.queue
    context: int | None = Limits.context
    memory_mb: float | None = Limits.memory_mb
    request_limit: str = f"{Limits.request_s:g}s"
    body_limit: int = 1 << 20
    grace: str = "30s"
    threads: int = Limits.threads


def serve(*systems: str, choices: ServeChoices | None = None) -> None:
    """Serve Systems behind one OpenAI-compatible endpoint, and a page to try them.

    Example: rung serve runs/demo/winner helpdesk:1.2 smollm2-135m

    Parameters
    ----------
    systems
        Folders of Systems, tags, or base models: a catalog name, a .gguf file, a folder of weights, a hub id.
        NAME=SYSTEM says what requests call it; else the tag or the task does.
    """
    from rung.errors import TaskError
    from rung.report.notation import clean
    from rung.serve.keys import keys_file
    from rung.serve.run import Settings
    from rung.serve.run import serve as run_server

    choices = choices or ServeChoices()
    if not systems:
        raise TaskError("nothing to serve: name a System, such as the `winner` of a run, a tag or a model")
    if choices.keys is not None and not choices.keys.is_file():
        raise TaskError(f"no file of API keys at {str(choices.keys)!r}: make one with `rung keys add NAME`")
    limits = Limits(
        slots=_positive(choices.slots, "--slots"),
        queue=_positive(choices.queue, "--queue"),
        context=None if choices.context is None else _positive(choices.context, "--context"),
        threads=_positive(choices.threads, "--threads") if choices.threads else 0,
        request_s=seconds(choices.request_limit, "--request-limit"),
        memory_mb=None if choices.memory_mb is None else _positive(choices.memory_mb, "--memory-mb"),
    )
    settings = Settings(
        host=choices.host,
        port=choices.port,
        keys=choices.keys or keys_file(),
        body_limit=_positive(choices.body_limit, "--body-limit"),
        grace_s=seconds(choices.grace, "--grace"),
        limits=limits,
    )
    run_server(systems, settings, lambda line: print(clean(line), flush=True))
    # Python would wait for the threads of a pool, such as those that still bring a model's weights.
    if threading.active_count() > 1:
        os._exit(0)


def _positive(value: N, option: str) -> N:
    from rung.errors import TaskError

    if value < 1:
        raise TaskError(f"{option} is {value:g}: it has to be 1 or more")
    return value
