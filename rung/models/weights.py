"""Weights that can be trained: a GGUF model de-quantised once into a cached safetensors folder."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rung.errors import ModelError, WeightsError
from rung.models._cache import cache_dir, made_once
from rung.models._fetch import Progress, no_progress
from rung.models.files import changed
from rung.models.resolve import Model
from rung.models.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORMAT: Final = "1"


def dequantised(model: Model, *, progress: Progress = no_progress) -> Path:
    """Return a folder that `AutoModelForCausalLM.from_pretrained` loads: bfloat16 weights, config, tokenizer.

    For a GGUF model it is made once per digest, from the very numbers that llama.cpp runs; `progress`
    is told (tensors done, tensors). A safetensors model is its own folder. Raises ModelError when the
    architecture can't be read, a weight is missing or the disk refuses.
    """
    if model.gguf is None:
        assert model.folder is not None
        return model.folder
    path = model.gguf
    folder = cache_dir() / "weights" / f"{model.digest[:16]}-{_FORMAT}"

    def build(stage: Path) -> None:
        from safetensors import SafetensorError

        with quiet(), _reported(progress):
            network = _read(path)
            try:
                network.save_pretrained(stage)
            except SafetensorError as error:  # what safetensors raises where the disk refuses
                raise OSError(str(error)) from error
        _write_tokenizer(model, stage)
        if changed(model.files) is not None:
            raise WeightsError(
                f"{str(path)!r} was replaced or changed since its digest was taken: put the old one back, or "
                "run the same command again, which takes it as it is now"
            )

    return made_once(folder, build)


def _read(path: Path) -> "PreTrainedModel":
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError, OSError, ImportError) as error:
        raise ModelError(
            f"transformers can't turn {str(path)!r} into weights that can be trained ({error}): it can be "
            "asked, but not tuned; to tune this model, give its safetensors folder or hub id"
        ) from error
    network, notes = loaded
    if lost := lost_weights(notes):
        raise ModelError(
            f"{str(path)!r} lacks {len(lost)} weights of its architecture (first: {lost[:3]!r}), so a tune "
            "of it would start from noise: give the model's safetensors folder or hub id"
        )
    return network


def lost_weights(notes: Mapping[str, Any]) -> list[str]:
    """The weights that transformers didn't find, or not in their shape: it fills those in at random."""
    return sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in notes[kind])


def _write_tokenizer(model: Model, stage: Path) -> None:
    """Write rung's own tokenizer: the one transformers makes from a GGUF file splits some text otherwise."""
    tokens = load_tokenizer(model)
    tokens.save(stage / "tokenizer.json")
    settings: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; a model's own class would rebuild it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context,
        "clean_up_tokenization_spaces": False,
    }
    for name, index in (("bos_token", tokens.bos_id), ("eos_token", tokens.eos_id)):
        if index is not None:
            settings[name] = tokens.texts[index]
    if model.template is not None:
        settings["chat_template"] = model.template
    (stage / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=1, ensure_ascii=False, sort_keys=True), encoding="utf-8"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the screen; errors still raise."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _reported(progress: Progress) -> Iterator[None]:
    """Send the tensors read to `progress`, in place of a bar that obeys no setting of the library."""
    import transformers.modeling_gguf_pytorch_utils as module

    reader: Any = module

    def counted(items: Sequence[Any], **_: Any) -> Iterator[Any]:
        for done, item in enumerate(items):
            progress(done, len(items))
            yield item
        progress(len(items), len(items))

    bar = reader.tqdm
    reader.tqdm = counted
    try:
        yield
    finally:
        reader.tqdm = bar
