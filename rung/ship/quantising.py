"""A GGUF with what a System learned in it, in a type that is written here or by llama.cpp's own program."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from rung.errors import ModelError, TaskError
from rung.models.gguf_file import Value, write_merged
from rung.models.weight_types import WRITTEN
from rung.ship.subject import Subject
from rung.training.lora_delta import deltas_by_gguf_name, wholes_by_gguf_name

PROGRAM: Final = "llama-quantize"
LIMIT_S: Final = 3600.0


def write_gguf(subject: Subject, out: Path, kind: str) -> None:
    """Write the base with what was learned in it as `out`.

    Raises ModelError for a base without GGUF, TaskError for a type that needs llama.cpp's program where that
    isn't to be had, or fails.
    """
    base, adapter, own = _base(subject), subject.adapter, subject.system.weights
    if own is not None:
        deltas = wholes_by_gguf_name(own, subject.config)
    else:
        assert adapter is not None, "only tuned Systems have weights of their own"
        deltas = deltas_by_gguf_name(adapter, subject.config)
    if kind in WRITTEN:
        write_merged(base, deltas, out, wanted=WRITTEN[kind], changes=_changes(subject))
        return
    program = shutil.which(PROGRAM)
    if program is None:
        raise TaskError(
            f"--type {kind} is made by llama.cpp's own program {PROGRAM!r}, which isn't on the PATH: get it "
            f"with a release of llama.cpp, or choose one of {', '.join(WRITTEN)}"
        )
    wide = out.with_name(f".{out.name}.f16")
    write_merged(base, deltas, wide, wanted=WRITTEN["f16"], changes=_changes(subject))
    _quantised(program, wide, out, kind)
    wide.unlink()


def write_pair(subject: Subject, out: Path, adapter_out: Path) -> None:
    """Write the base's weights as they are served, with the System's prompt, and the adapter beside them.

    Raises ModelError for a base without GGUF.
    """
    from rung.training.adapter import to_gguf

    base, adapter, kept = subject.base_gguf or _base(subject), subject.adapter, subject.system.adapter_gguf
    assert adapter is not None, "only tuned Systems have an adapter"
    write_merged(base, {}, out, wanted=None, changes=_changes(subject))
    if kept is not None:
        shutil.copyfile(kept, adapter_out)
    else:
        to_gguf(adapter, adapter_out, config=subject.config)


def _base(subject: Subject) -> Path:
    if subject.model.gguf is None:
        raise ModelError(
            f"the base model {subject.model.name!r} is a folder of safetensors, and a GGUF is written from a "
            "GGUF: export --to merged and convert that with llama.cpp's convert_hf_to_gguf.py, or climb on a "
            ".gguf of the model"
        )
    return subject.model.gguf


def _changes(subject: Subject) -> dict[str, Value]:
    """What the file says of itself otherwise than the base: its name, and the prompt that it was made for."""
    return {
        "general.name": f"{subject.name}, tuned from {subject.model.name}",
        "tokenizer.chat_template": subject.frame.jinja_of_last,
    }


def _quantised(program: str, wide: Path, out: Path, kind: str) -> None:
    try:
        done = subprocess.run(
            [program, str(wide), str(out), kind.upper()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TaskError(f"{program!r} can't be run ({error}); choose one of {', '.join(WRITTEN)}") from None
    if done.returncode or not out.is_file():
        said = " ".join(done.stdout.decode("utf-8", "replace").split())[-300:]
        raise TaskError(
            f"{program!r} made no {kind} of the model (exit status {done.returncode}: {said}); choose one of "
            f"{', '.join(WRITTEN)}"
        )
