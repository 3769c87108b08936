"""A GGUF model with its matrices in another type, which may be faster: made once and cached."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from rung.errors import ModelError, WeightsError
from rung.models._cache import cache_dir, digest_in, made_once
from rung.models.files import changed, noted
from rung.models.gguf_file import retyped_matrices, write_retyped
from rung.models.resolve import Model, read_header
from rung.models.weight_types import WRITTEN, size_of
from rung.spec import WeightType

MOST_WEIGHTS: Final = 2_000_000_000
"""Of a model that is written anew for a race: seconds, and 2 GiB on the disk."""
LEAST_SHARE: Final = 0.5
"""Of a model's weights, that another type has to change: with fewer it would hardly be another speed."""
SPARE: Final = 4
"""The disk has to have room for so many such files, as other things are written to it, too."""
_FORMAT: Final = "1"


def retyped(model: Model, wanted: WeightType | None) -> Model:
    """The model as llama.cpp runs it with its matrices as `wanted`; itself for None.

    Its file is made once per digest, and its digest says both. Raises ModelError where the file can't be
    read or the disk refuses.
    """
    if wanted is None:
        return model
    path = model.gguf
    if path is None:
        raise ModelError(f"{model.name!r} has no GGUF file whose weights could be in {wanted}")

    def build(stage: Path) -> None:
        write_retyped(path, stage / f"{path.stem}-{wanted}.gguf", WRITTEN[wanted])
        if changed(model.files) is not None:
            raise WeightsError(
                f"{str(path)!r} was replaced or changed since its digest was taken: put the old one back, or "
                "run the same command again, which takes it as it is now"
            )

    # The name in it is that of whichever file with this digest came first.
    (made,) = made_once(_place(model, wanted), build).glob("*.gguf")
    return replace(
        model,
        gguf=made,
        digest=f"{model.digest}-{wanted}",
        files=(noted(made, digest_in(made.parent, made.name)),),
    )


def worth_retyping(model: Model, wanted: WeightType) -> bool:
    """Whether most of a model's weights would be others in that type, and it isn't too large to try that."""
    if model.gguf is None or model.parameters > MOST_WEIGHTS:
        return False
    others = sum(retyped_matrices(read_header(model.gguf), WRITTEN[wanted]).values())
    return others >= LEAST_SHARE * model.parameters


def room_to_retype(model: Model, wanted: WeightType) -> bool:
    """Whether the file is there, or the cache folder may be written to and has room for it."""
    folder = _place(model, wanted)
    try:
        if folder.exists():
            return True
        above = next(place for place in folder.parents if place.exists())
        free = shutil.disk_usage(above).free
    except OSError:
        return False
    return os.access(above, os.W_OK) and free > SPARE * size_of((model.parameters,), WRITTEN[wanted])


def _place(model: Model, wanted: WeightType) -> Path:
    return cache_dir() / "weights" / f"{model.digest[:16]}-{wanted}-{_FORMAT}"
