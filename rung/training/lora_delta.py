"""What a tune makes of the weights that it touches: a LoRA adds to them, full tuning replaces them."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Whole:
    """A weight [out, in] that takes the place of a base's, in fp32."""

    weight: "Floats"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.weight.shape

    def into(self, weight: "Floats", first: int) -> "Floats":
        """Its rows, from row `first` on, in the place of `weight` [rows, in]."""
        return self.weight[first : first + len(weight)]


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


def wholes_by_gguf_name(folder: Path, config: dict) -> dict[str, Whole]:
    """The weight matrices of the blocks in a safetensors folder, by llama.cpp's names, in its order of rows.

    `config` is the base's transformers config. Raises ModelError for what llama.cpp has no place for.
    """
    from safetensors import safe_open

    from rung.training.adapter import PERMUTED, architecture_of, gguf_names, permuted

    names, architecture = gguf_names(config), architecture_of(config)
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for key in sorted(tensors.keys()):
                module = key.removesuffix(".weight")
                name = names.get_name(module)
                if (
                    name is None
                    or not name.startswith("blk.")
                    or len(tensors.get_slice(key).get_shape()) != 2
                ):
                    continue
                weight = tensors.get_tensor(key).float().numpy()
                rows = permuted(weight, module, config) if architecture in PERMUTED else weight
                found[f"{name}.weight"] = Whole(weight=rows)
    if not found:
        raise ModelError(f"{str(folder)!r} holds no weights that llama.cpp has a place for; tune again")
    return found


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
