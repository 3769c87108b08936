"""Which files of a safetensors model hold its weights: one, or several that an index names."""

import json
from pathlib import Path
from typing import Final

from rung.errors import ModelError, WeightsError

WHOLE: Final = "model.safetensors"
INDEX: Final = f"{WHOLE}.index.json"


def named(index: Path) -> list[str]:
    """The files that an index names; none where it is no index."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the weights, as transformers reads them: one, those of an index, or all.

    Raises ModelError for an index that names no files of the folder, WeightsError where one isn't there.
    """
    here, index = sorted(folder.glob("*.safetensors")), folder / INDEX
    if folder / WHOLE in here:
        return [folder / WHOLE]
    if not here or not index.is_file():
        return here
    names = named(index)
    if not names or any(Path(name).name != name for name in names):
        raise ModelError(
            f"{str(index)!r} has to name the files beside it that hold the weights, in `weight_map`: copy it "
            "from where the model came"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise WeightsError(
            f"{str(folder)!r} lacks {len(missing)} of {len(names)} files of weights that {INDEX!r} names "
            f"({', '.join(missing[:3])}): copy them from where the model came; for a hub id, connect and run "
            "the same command again, which brings them"
        )
    return [folder / name for name in names]
