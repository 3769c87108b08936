"""Weights that can be trained: a GGUF model de-quantised once into a cached safetensors folder."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rung.errors import ModelError, WeightsError
from rung.memory import loadable_bytes
from rung.models._cache import cache_dir, made_once
from rung.models._fetch import Progress, no_progress
from rung.models._gguf import Header
from rung.models.files import Facts, changed
from rung.models.positions import FACTORS, left_out, too_long
from rung.models.resolve import Model, read_header, read_json
from rung.models.tokens import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORMAT: Final = "2"


def dequantised(model: Model, *, progress: Progress = no_progress) -> Path:
    """Return a folder that `AutoModelForCausalLM.from_pretrained` loads: bfloat16 weights, config, tokenizer.

    For a GGUF model it is made once per digest, from the very numbers that llama.cpp runs, positions as
    llama.cpp turns them; `progress` is told (tensors done, tensors). A safetensors model is its own folder.
    Raises ModelError for one that is `untunable`, when a weight is missing or the disk refuses.
    """
    folder, path = torch_folder(model), model.gguf
    if path is None:
        return folder

    def build(stage: Path) -> None:
        from safetensors import SafetensorError

        header = read_header(path)
        changes = left_out(path, header)
        _require_memory(model)
        with quiet(), _reported(progress):
            network = _read(path, header)
            try:
                network.save_pretrained(stage)
            except SafetensorError as error:  # what safetensors raises where the disk refuses
                raise OSError(str(error)) from error
        config = {**read_json(stage / "config.json"), **changes}
        (stage / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        _write_tokenizer(model, stage)
        if changed(model.files) is not None:
            raise WeightsError(
                f"{str(path)!r} was replaced or changed since its digest was taken: put the old one back, or "
                "run the same command again, which takes it as it is now"
            )

    made_once(folder, build)
    if reason := too_long(path, read_json(folder / "config.json"), min(model.context, model.limit)):
        raise ModelError(reason)
    return folder


def torch_folder(model: Model) -> Path:
    """Where weights for torch lie: in a safetensors model's own folder, or where a GGUF's are made."""
    if model.gguf is None:
        assert model.folder is not None
        return model.folder
    return cache_dir() / "weights" / f"{model.digest[:16]}-{_FORMAT}"


def _require_memory(model: Model) -> None:
    """Raise WeightsError where a model's weights in bfloat16, which are held whole, are more than is free."""
    needed, free = 2 * model.parameters, loadable_bytes()
    if needed > free:
        raise WeightsError(
            f"turning {str(model.gguf)!r} into weights that torch reads takes {needed / 2**30:.1f} GiB of "
            f"memory, and {free / 2**30:.1f} are free: end what else runs here, or take a smaller model"
        )


def untunable(model: Model) -> str | None:
    """Why a GGUF model can't be tuned, as far as its header tells: torch wouldn't run it as llama.cpp does.

    None where it can be, and for a safetensors model. Raises ModelError where the file can't be read.
    """
    if model.gguf is None:
        return None
    facts = next(file.facts for file in model.files if file.path == model.gguf)
    return _untunable(model.gguf, facts, min(model.context, model.limit))


@lru_cache(maxsize=16)
def _untunable(path: Path, facts: Facts, tokens: int) -> str | None:
    """Of the file that has these facts."""
    header = read_header(path)
    try:
        return too_long(path, left_out(path, header), tokens)
    except ModelError as error:
        return str(error)


def _read(path: Path, header: Header) -> "PreTrainedModel":
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
            f"transformers can't turn {str(path)!r} into weights that can be trained ({error}): it can "
            "be asked by llama.cpp alone, and not tuned; to tune this model, give its safetensors folder or "
            "hub id"
        ) from error
    network, notes = loaded
    if lost := lost_weights(notes):
        raise ModelError(
            f"{str(path)!r} lacks {len(lost)} weights of its architecture (first: {lost[:3]!r}), so a tune "
            "of it would start from noise: give the model's safetensors folder or hub id"
        )
    if left := _without_place(network, header):
        raise ModelError(
            f"{str(path)!r} can be asked by llama.cpp alone, and not tuned: transformers' "
            f"{network.config.model_type!r} has no place for {len(left)} of its tensors (first: "
            f"{left[:3]!r}); to tune this model, give its safetensors folder or hub id"
        )
    return network


def _without_place(network: "PreTrainedModel", header: Header) -> list[str]:
    """The file's tensors that transformers left where they are, without a word."""
    import transformers.modeling_gguf_pytorch_utils as reader

    architecture = str(header.values.get("general.architecture"))
    processor = reader.TENSOR_PROCESSORS.get(architecture, reader.TensorProcessor)
    taken = reader.get_gguf_hf_weights_map(network, processor(config=network.config.to_dict()))
    # Those of experts go by their names without an end.
    names = (tensor.name for tensor in header.tensors if tensor.name not in FACTORS)
    return sorted(name for name in names if not {name, name.removesuffix(".weight")} & taken.keys())


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
