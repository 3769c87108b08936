"""The files of a System that hold what a tune made: those that torch answers with, and llama.cpp's."""

import json
from pathlib import Path

from rung.errors import RunError
from rung.models.weights import dequantised
from rung.rungs.base import Context
from rung.runs import Shared, atomic_folder, writing
from rung.system import ADAPTER_FOLDER, ADAPTER_GGUF, WEIGHTS_FOLDER, WEIGHTS_GGUF

GGUF_TYPE = "f16"
"""Of whole weights: what was trained, rounded no more than it was while it learned."""


def torch_files(context: Context, tuned: Path) -> dict[str, Path | Shared]:
    """An adapter as PEFT has it, or the whole weights, which are made of the base's and what was tuned.

    Those are as large as the model: Systems may share them with the folder that they were made in. Raises
    RunError where they can't be written.
    """
    if not is_full(tuned):
        return {f"{ADAPTER_FOLDER}/{p.name}": p for p in sorted(tuned.iterdir()) if p.is_file()}
    whole = _whole(context, tuned)
    return {f"{WEIGHTS_FOLDER}/{p.name}": Shared(p) for p in sorted(whole.iterdir()) if p.is_file()}


def llama_files(context: Context, tuned: Path) -> dict[str, Path | Shared]:
    """The same in llama.cpp's format. Raises RunError where it can't be written."""
    from rung.models.gguf_file import write_merged
    from rung.models.weight_types import WRITTEN
    from rung.training.lora_delta import wholes_by_gguf_name

    if not is_full(tuned):
        return {ADAPTER_GGUF: as_gguf(context, tuned)}
    assert context.model.gguf is not None, "a base without a GGUF has torch alone"
    out = context.work / WEIGHTS_GGUF
    wholes = wholes_by_gguf_name(tuned, _config(context))
    with writing(context.work):
        # Another file under that name: an earlier System may go on having the one that was there.
        out.unlink(missing_ok=True)
        write_merged(context.model.gguf, wholes, out, wanted=WRITTEN[GGUF_TYPE], changes={})
    return {WEIGHTS_GGUF: Shared(out)}


def is_learned(name: str) -> bool:
    """Whether a file of a System, by its name, is one of these."""
    folders = (f"{ADAPTER_FOLDER}/", f"{WEIGHTS_FOLDER}/")
    return name.startswith(folders) or name in (ADAPTER_GGUF, WEIGHTS_GGUF)


def without_llama(context: Context, tuned: Path) -> str | None:
    """Why llama.cpp can't run what was tuned; None where it can."""
    from rung.engines.prefix import adapter_form

    if context.model.gguf is None:
        return "the model has no GGUF file"
    if is_full(tuned):
        return None
    form = adapter_form(tuned)
    if form == "prefix":
        return "llama.cpp has no learned prefixes"
    if form == "dora":
        return "llama.cpp has no DoRA; an export to gguf or ollama has it merged"
    return None


def as_gguf(context: Context, adapter: Path) -> Path:
    """The PEFT adapter in llama.cpp's format. Raises RunError where it can't be written."""
    from rung.training.adapter import to_gguf

    with writing(context.work):
        return to_gguf(adapter, context.work / ADAPTER_GGUF, config=_config(context))


def is_full(tuned: Path) -> bool:
    """Whether a tune's folder holds weights of the model itself, not an adapter."""
    from rung.training.full import TUNED_FILE

    return (tuned / TUNED_FILE).is_file()


def _whole(context: Context, tuned: Path) -> Path:
    """The folder of whole weights, beside the tune's; whole or not at all, and each time of new files."""
    from safetensors import SafetensorError

    from rung.training.full import write_folder

    out, base = tuned.with_name(f"{tuned.name}-whole"), dequantised(context.model)
    try:
        with atomic_folder(out) as draft:
            write_folder(base, tuned, draft)
    except SafetensorError as error:
        raise RunError(f"can't write {str(out)!r}: {error}; free some space and go on") from None
    return out


def _config(context: Context) -> dict:
    return json.loads((dequantised(context.model) / "config.json").read_text(encoding="utf-8"))
