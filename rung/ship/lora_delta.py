"""What a LoRA adds to the weights that it touches."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rung.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

    Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """(alpha / rank) B A for one weight [out, in]: A is [rank, in], B is [out, rank], both fp32."""

    a: "Floats"
    b: "Floats"
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weight."""
        return self.b.shape[0], self.a.shape[1]

    def rows(self, first: int, last: int) -> "Floats":
        """The rows from `first` up to `last` [rows, in], in fp32."""
        return self.scale * (self.b[first:last] @ self.a)


def deltas_by_module(adapter: Path) -> dict[str, Delta]:
    """The deltas of a PEFT folder by transformers' weight names. ModelError where it isn't a plain LoRA."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from rung.engines.lora import ADAPTER_WEIGHTS
    from rung.training.adapter import split

    try:
        tensors = load_file(adapter / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"no readable adapter weights in {str(adapter)!r}: {error}") from None
    pairs = {"{}.weight.{}".format(*split(key)): tensor for key, tensor in tensors.items()}
    return _deltas(pairs, adapter)


def deltas_by_gguf_name(adapter: Path, config: dict) -> dict[str, Delta]:
    """The deltas of a PEFT folder by llama.cpp's weight names, in its order of rows.

    `config` is the base's transformers config. Raises ModelError for what llama.cpp has no place for.
    """
    from rung.training.adapter import matrices

    return _deltas(matrices(adapter, config=config), adapter)


def _deltas(tensors: "Mapping[str, Floats]", adapter: Path) -> dict[str, Delta]:
    import numpy as np

    from rung.engines.lora import read_config

    settings = read_config(adapter)
    try:
        scale = float(settings["lora_alpha"]) / int(settings["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ModelError(f"{str(adapter)!r} names no rank and alpha of its LoRA; tune again") from None
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    try:
        found = {
            name: Delta(
                a=tensors[f"{name}.lora_a"].astype(np.float32),
                b=tensors[f"{name}.lora_b"].astype(np.float32),
                scale=scale,
            )
            for name in names
        }
    except KeyError as error:
        raise ModelError(f"{str(adapter)!r} lacks {error.args[0]!r}; tune again") from None
    for name, delta in found.items():
        if delta.a.ndim != 2 or delta.b.ndim != 2 or delta.a.shape[0] != delta.b.shape[1]:
            raise ModelError(f"{str(adapter)!r}: the matrices of {name!r} don't fit each other; tune again")
    return found
