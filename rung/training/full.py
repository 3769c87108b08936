"""Full tuning: every weight matrix of the decoder blocks learns, and a folder holds them whole.

Embeddings, head, norms and biases stay as they are: a few hundred rows touch few tokens of a vocabulary,
whose matrix is most of a small model, and the rest is thousands of numbers among millions.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rung.engines.lora import block_linears
from rung.engines.parallel import workers
from rung.engines.room import free_bytes
from rung.engines.rows import Network
from rung.errors import ModelError, TrainingError
from rung.training.activations import counted
from rung.training.learned import Learned

TUNED_FILE = "tuned.safetensors"
COPIED = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
ROOM = 1.1
"""Of the memory that the numbers take, for what a batch needs beside them and its activations."""


def full(model: Network, longest: int) -> Learned:
    """The weight matrices of a model's blocks, to learn from rows of `longest` tokens at most.

    Raises TrainingError where memory is short.
    """
    found = {f"{name}.weight": layer.weight for name, layer in block_linears(model)}
    if not found:
        raise ModelError(f"nothing to tune: {model.config.model_type!r} has no such linear layers")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in found.values():
        parameter.requires_grad_(True)
    require_memory(model, list(found.values()), longest)
    base = {name: parameter.detach().clone() for name, parameter in found.items()}

    def restore(tensors: Mapping[str, torch.Tensor]) -> None:
        _restore(found, tensors)

    return Learned(
        groups=(([*found.values()], 1.0),),
        draw=lambda seed: restore(base),
        restore=restore,
        save=lambda folder, name: _save(found, folder),
        own=True,
    )


def require_memory(model: Network, parameters: list[torch.Tensor], longest: int) -> None:
    """Raise TrainingError unless what learning takes, beside the weights, fits the memory that is free.

    That is 20 bytes for each number that learns (the number in fp32, again while a run begins, its slope,
    AdamW's two moments), and in the model's own type the base's value and a gradient for each pass that runs
    at once; and each pass's activations of a row of `longest` tokens, whose blocks run again on the way back.
    """
    device, size = parameters[0].device, sum(p.numel() for p in parameters)
    passes = workers(device)
    each = 20 + (1 + passes) * parameters[0].element_size()
    needed = int(ROOM * each * size + passes * counted(model).again(longest))
    free = free_bytes(device)
    if needed > free:
        raise TrainingError(
            f"full tuning of {size:,} weights on rows of up to {longest:,} tokens needs about "
            f"{needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} GiB are free; write `method: lora` under "
            "tuning in task.yaml, which needs a fraction, or take shorter rows or a smaller model"
        )


def write_folder(base: Path, tuned: Path, out: Path) -> None:
    """The base's safetensors folder `base` with the weights in `tuned`, a folder of `full`, as `out`.

    In the type that the model runs in here, which is that of the tuned weights. Raises ModelError where those
    don't fit the base.
    """
    from rung.engines.torch import load_model
    from rung.models.weights import quiet

    model = load_model(base)
    _restore({f"{name}.weight": layer.weight for name, layer in block_linears(model)}, _load(tuned))
    with quiet():
        model.to("cpu").save_pretrained(out)
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def _save(found: Mapping[str, torch.Tensor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in found.items()}
    save_file(tensors, folder / TUNED_FILE, metadata={"format": "pt"})


def _load(folder: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder / TUNED_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"no readable tuned weights in {str(folder)!r}: {error}; tune again") from None


def _restore(found: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    wrong = sorted(
        name
        for name in found.keys() | tensors.keys()
        if name not in found or name not in tensors or found[name].shape != tensors[name].shape
    )
    if wrong:
        raise ModelError(
            f"the tuned weights don't fit the model: {len(wrong)} of {len(found)} are missing or misshapen, "
            f"the first is {wrong[0]!r}; they were made for another base model"
        )
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.data.copy_(tensors[name])
