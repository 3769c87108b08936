"""The child process that runs llama.cpp, as seen by its parent: start, ask, look at, kill."""

import json
import os
import secrets
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from rung.engines import llama_child
from rung.engines.base import EngineSpec
from rung.engines.cores import available_cores
from rung.engines.watch import STILL_S, Watch
from rung.errors import EngineError

START_LIMIT_S = 600.0
LOOK_S = 0.2
"""How often it is looked, while a child starts, whether it is wanted no more."""
STDERR_LINES = 40


class Child:
    """One running llama.cpp. `client` speaks to it with the child's own key, which nobody else knows.

    Threads ask it through `asked`; who has a client of another kind says so to its `watch`.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        request_limit_s: float,
        still_s: float = STILL_S,
        unwanted: threading.Event | None = None,
    ):
        """Start and wait until the model is loaded; one that stands still so long while it's asked is ended.

        Raises EngineError if that fails, with the end of the child's standard error if there was a child, and
        soon after it is `unwanted`.
        """
        self.key = secrets.token_urlsafe(32)
        self._errors: deque[str] = deque(maxlen=STDERR_LINES)
        self._process = _begun()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._lock, self._asking, self._over = threading.Lock(), 0, False
        self.watch = Watch(self._process, still_s)
        try:
            self.address = self._introduce(spec, unwanted or threading.Event())
        except BaseException:
            self.kill()
            raise
        self.client = httpx.Client(
            base_url=self.address,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=httpx.Timeout(request_limit_s, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=spec.parallel),
            trust_env=False,
            verify=False,  # plain HTTP on this machine: the certificates that would be read are of no use
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @contextmanager
    def asked(self) -> Iterator[httpx.Client]:
        """The client, for a request of this thread. Raises httpx.ConnectError once the child was closed."""
        with self._lock:
            if self._over:
                raise httpx.ConnectError("the child is gone")
            self._asking += 1
        try:
            with self.watch.asked():
                yield self.client
        finally:
            self._left(-1)

    def close(self) -> None:
        """End the process at once; the client is closed by whoever is the last to ask with it.

        Not under a thread that reads from it: that one would go on waiting for its socket's number, which by
        then may be another file's, for as long as a request may take.
        """
        self.kill()
        self._over = True
        self._left(0)

    def _left(self, change: int) -> None:
        with self._lock:
            self._asking += change
            last = self._over and not self._asking
        if last:
            self.client.close()

    def died(self, *, wait_s: float) -> bool:
        """Whether the process has ended, given that long to finish dying."""
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """How it ended and the last lines of its standard error."""
        if self.died(wait_s=0):
            self._listener.join(1.0)
        code = self._process.returncode
        lines = "\n".join(f"  {line}" for line in self._errors) or "  (it wrote nothing)"
        still = "; it stood still while a request waited, and was ended" if self.watch.stood_still else ""
        return f"exit status {code}{still}; the end of its standard error:\n{lines}"

    def memory_mb(self) -> float:
        """Resident memory in MiB; 0 once the process is gone."""
        import psutil

        try:
            return psutil.Process(self.pid).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            return 0.0

    def kill(self) -> None:
        """End the process at once and let go of its pipes; requests in flight fail."""
        self.watch.close()
        self._process.kill()
        self._process.wait()
        self._listener.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _introduce(self, spec: EngineSpec, unwanted: threading.Event) -> str:
        """Hand the parameters over and return the address of the server."""
        settings = {
            "gguf": str(spec.gguf),
            "adapters": [str(path) for path in ([spec.adapter] if spec.adapter else spec.adapters)],
            "apply": spec.adapter is not None,
            "context": spec.context,
            "parallel": spec.parallel,
            "threads": spec.threads or available_cores(),
            "key": self.key,
            "parent": os.getpid(),
        }
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write((json.dumps(settings) + "\n").encode())
            stdin.flush()
        except BrokenPipeError:
            self.died(wait_s=5.0)
        line = self._first_line(spec, unwanted)
        answer = json.loads(line) if line else {}
        if "address" not in answer:
            self.died(wait_s=5.0)
            raise EngineError(
                f"llama.cpp could not start with {str(spec.gguf)!r}, context {spec.context}, "
                f"parallel {spec.parallel}: {answer.get('error', 'no answer')}; {self.last_words()}\n"
                "Check that the file is a complete GGUF model and that memory is free"
            )
        return answer["address"]

    def _first_line(self, spec: EngineSpec, unwanted: threading.Event) -> bytes:
        """What it says when it has loaded, or can't; empty where it ended without a word."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline, line = time.monotonic() + START_LIMIT_S, b""
        while not line.endswith(b"\n"):
            if unwanted.is_set():
                raise EngineError(f"llama.cpp was ended while it loaded {str(spec.gguf)!r}")
            if select.select([stdout], [], [], LOOK_S)[0]:
                if not (piece := os.read(stdout.fileno(), 4096)):
                    break
                line += piece
            elif time.monotonic() > deadline:
                raise EngineError(
                    f"llama.cpp had not loaded {str(spec.gguf)!r} after {START_LIMIT_S:.0f} s: "
                    "try a smaller model or a faster disk"
                )
        return line

    def _listen(self) -> None:
        """Keep the last lines of standard error; reading on keeps the child from blocking on a full pipe."""
        stream = self._process.stderr
        assert stream is not None
        for line in iter(stream.readline, b""):
            self._errors.append(line.decode(errors="replace").rstrip()[:500])


def _begun() -> subprocess.Popen[bytes]:
    """The process, which waits for its parameters. Raises EngineError where the machine gives none."""
    try:
        return subprocess.Popen(
            [sys.executable, "-P", str(Path(llama_child.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # An interrupt at the terminal is for the parent, which then ends the child.
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(
            f"no process can be started for llama.cpp: {error.strerror or error}; see that memory is free, "
            "and how many files and processes may be open (`ulimit -a`)"
        ) from None
