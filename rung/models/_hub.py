"""Models named by hub id: which files of the repository are needed, and bringing just those."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rung.errors import ModelError, WeightsError
from rung.models.shards import INDEX, WHOLE, named
from rung.runs import file_digest

_BESIDE: Final = ("*.json", "tokenizer.model", "*.jinja", "*.txt")
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """`path` is a GGUF file or a folder; not `current` where the hub couldn't be asked."""

    path: Path
    licence: str | None
    current: bool = True


def download(repository: str, file: str | None) -> Found:
    """Bring a hub model: `file` alone where named, else its safetensors weights, else its only GGUF file.

    Pickled weights are never asked for. Without a connection a model brought before is used. Raises
    ModelError when the repository is unknown, closed or holds no single usable model, WeightsError when it is
    unreachable.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The HTTP library below huggingface_hub is another from version to version; its errors share this base.
    unreachable: type[BaseException] = HfHubHTTPError.__bases__[0]
    try:
        info = HfApi().model_info(repository)
        patterns = _wanted(repository, [item.rfilename for item in info.siblings or []], file)
        licence = info.card_data.get("license") if info.card_data else None
        folder = Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=_below(file)))
    except HFValidationError as error:
        raise ModelError(f"{repository!r} is no hub id: write 'org/name'") from error
    except (unreachable, OSError) as error:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) in (401, 403, 404):
            raise ModelError(_refused(repository, status)) from error
        found = brought(repository, file)
        if found is None:
            raise WeightsError(
                f"can't reach the hub for {repository!r} ({str(error).splitlines()[0]}), and the model isn't "
                "in the hub's cache on this machine: connect, or give a catalog name or a path"
            ) from error
        return Found(path=found, licence=None, current=False)
    return Found(
        path=folder / file if file else folder, licence=licence if isinstance(licence, str) else None
    )


def brought(repository: str, file: str | None) -> Path | None:
    """The file, or the folder where none is named, as it was brought before; nothing is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(
            snapshot_download(
                repository,
                local_files_only=True,
                allow_patterns=[file] if file else [*_kept(repository), *_BESIDE],
                ignore_patterns=_below(file),
            )
        )
    except (OSError, HFValidationError):
        return None
    if not _holds(folder, file):
        return None
    return folder / file if file else folder


def snapshots(repository: str) -> list[Path]:
    """The folders that hold a repository as it was each time that some of it was brought; nothing is asked.

    Its makers change it in place: of one name the hub's cache may have several, which share equal files.
    """
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return sorted(path for path in (home / "snapshots").glob("*") if path.is_dir())


def stated(path: Path) -> str:
    """The SHA-256 of a file of the hub's cache: its name there, where that is one, without reading it."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else file_digest(path)


def cached(repository: str, file: str) -> Path | None:
    """One file of a repository where it was brought before; nothing is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def _holds(folder: Path, file: str | None) -> bool:
    """Whether what was brought before holds the file, or any weights where none is named."""
    if file:
        return (folder / file).is_file()
    return any(path.is_file() for kind in ("*.safetensors", "*.gguf") for path in folder.glob(kind))


def _below(file: str | None) -> list[str] | None:
    """Files in folders of the repository belong to other formats, unless one was named."""
    return None if file else ["*/*"]


def _wanted(repository: str, names: Sequence[str], file: str | None) -> list[str]:
    """The names or patterns to ask for."""
    ggufs = sorted(name for name in names if name.endswith(".gguf") and (file or "/" not in name))
    if file is not None:
        if file not in ggufs:
            raise ModelError(
                f"{repository!r} has no file {file!r}; its GGUF files: {', '.join(ggufs) or 'none'}"
            )
        return [file]
    weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if weights:
        return [*_read(repository, weights, indexed=INDEX in names), *_BESIDE]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ModelError(
            f"{repository!r} holds {len(ggufs)} GGUF files; "
            f"name one as {repository}:FILE: {', '.join(ggufs[:12])}"
        )
    raise ModelError(
        f"{repository!r} holds no safetensors and no GGUF weights; pickled weights are never loaded, because "
        "reading them can run code: choose a repository with one of the two"
    )


def _read(repository: str, weights: Sequence[str], *, indexed: bool) -> Sequence[str]:
    """Those of the files of weights that are read: one, those of the index, or all.

    Some repositories hold the same weights a second time, in another format.
    """
    from huggingface_hub import hf_hub_download

    if WHOLE in weights:
        return [WHOLE]
    read = named(Path(hf_hub_download(repository, INDEX))) if indexed else []
    return [name for name in weights if name in read] or weights


def _kept(repository: str) -> list[str]:
    """The same of a repository that was brought before."""
    if cached(repository, WHOLE) is not None:
        return [WHOLE]
    index = cached(repository, INDEX)
    return (named(index) if index is not None else []) or ["*.safetensors"]


def _refused(repository: str, status: int) -> str:
    if status == 404:
        return f"the hub has no model {repository!r}: check the spelling of 'org/name'"
    return (
        f"the hub refuses {repository!r} (status {status}): it doesn't exist, or it asks for a licence to be "
        "accepted: open its page, accept, then run `hf auth login`"
    )
