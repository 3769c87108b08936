"""What a LoRA makes of the weights that it touches."""

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
    """s B A for one weight [out, in]: A is [rank, in], B is [out, rank], both fp32.

    With a `magnitude` [out] (DoRA) each row of the sum is brought to that length.
    """

    a: "Floats"
    b: "Floats"
    scale: float
    magnitude: "Floats | None" = None

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weight."""
        return self.b.shape[0], self.a.shape[1]

    def rows(self, first: int, last: int) -> "Floats":
        """The rows from `first` up to `last` [rows, in], in fp32."""
        return self.scale * (self.b[first:last] @ self.a)

    def into(self, weight: "Floats", first: int) -> "Floats":
        """The rows `weight` [rows, in], from row `first` on, as they are with the update in them, in fp32."""
        import numpy as np

        last = first + len(weight)
        found = weight + self.rows(first, last)
        if self.magnitude is None:
            return found
        lengths = np.linalg.norm(found, axis=1)
        return found * (self.magnitude[first:last] / np.maximum(lengths, np.finfo(np.float32).tiny))[:, None]


def deltas_by_module(adapter: Path) -> dict[str, Delta]:
    """The deltas of a PEFT folder by transformers' weight names. ModelError where it isn't a LoRA."""
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

    from rung.engines.lora import form_of, read_config

    try:
        form = form_of(read_config(adapter))
    except ModelError as error:
        raise ModelError(f"{str(adapter)!r}: {error}") from None
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    try:
        found = {
            name: Delta(
                a=tensors[f"{name}.lora_a"].astype(np.float32),
                b=tensors[f"{name}.lora_b"].astype(np.float32),
                scale=form.scale,
                magnitude=tensors[f"{name}.lora_m"].astype(np.float32) if form.dora else None,
            )
            for name in names
        }
    except KeyError as error:
        raise ModelError(f"{str(adapter)!r} lacks {error.args[0]!r}; tune again") from None
    for name, delta in found.items():
        fits = delta.a.ndim == delta.b.ndim == 2 and delta.a.shape[0] == delta.b.shape[1]
        if not fits or (delta.magnitude is not None and delta.magnitude.shape != delta.b.shape[:1]):
            raise ModelError(f"{str(adapter)!r}: the matrices of {name!r} don't fit each other; tune again")
    return found
