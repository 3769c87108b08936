"""The command `rung`: from arguments to a command, and from errors to exit statuses.

0 done · 1 a fault of rung's own, with its traceback (or the output's reader left: silence) · 2 something to
mend, in one line · 130 interrupted
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cyclopts import App, CycloptsError

from rung import __version__
from rung.cli import commands, comparing, judging, keys, serving, shipping, synthesis, tags
from rung.errors import RungError
from rung.threads import yield_while_waiting

app = App(
    name="rung",
    help=(
        "Find the cheapest way to make a small model do one job well, prove it on held-out rows, and ship it."
        "\n\nStart with `rung climb FILE`, where FILE holds rows of input and output."
    ),
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
for command in (
    commands.init,
    commands.check,
    commands.climb,
    synthesis.synth,
    commands.report,
    comparing.compare,
    judging.judge,
    commands.ask,
    serving.serve,
    shipping.export,
    tags.tag,
    tags.tags,
    keys.keys,
    commands.models,
):
    app.command(command)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Where output is refused, no file's name comes with the reason."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit status."""
    _have_streams()
    yield_while_waiting()
    strange = next((argument for argument in arguments if not _is_utf8(argument)), None)
    if strange is not None:
        return _fault(f"{strange!r} isn't UTF-8; rename that file or folder, or write the text in UTF-8")
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_none")
        sys.stdout.flush()
    except RungError as error:
        return _fault(str(error))
    except CycloptsError as error:
        return _fault(f"{' '.join(str(error).split())} `rung --help` shows what there is.")
    except KeyboardInterrupt:
        resumes = "; the same command resumes" if "climb" in arguments[:1] else ""
        print(f"interrupted{resumes}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        from rung.memory import used_up, want_of_memory

        if not used_up(error):
            raise
        return _fault(want_of_memory(error))
    except BrokenPipeError:
        # Whoever read the output has left. Rich, where it is the one that was writing, does the same and
        # gives the same status.
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise
        return _refused(error)
    return 0


def _have_streams() -> None:
    """Have a stream in place of each that was closed, and output that can be written in any encoding.

    What an encoding lacks is written as its escape, as it is on standard error.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Have nothing that is still buffered written at exit: it can't be, and Python would complain of that."""
    with suppress(OSError):
        sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(error: OSError) -> int:
    """What the machine refused: to use a file, by its name, or else to write."""
    if error.filename is not None:
        return _fault(f"can't use {str(error.filename)[:200]!r}: {error.strerror}; mend that and try again")
    _drop_output()
    return _fault(f"can't write the output, or a file: {error.strerror}; mend that and try again")


def _fault(message: str) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    return 2


def _is_utf8(argument: str) -> bool:
    """Whether an argument can be written down again: bytes of another encoding come as half characters."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True
