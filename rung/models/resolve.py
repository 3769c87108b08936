"""From what the user calls a model to its files, digest, licence and shape: `resolve`."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rung.errors import ModelError, WeightsError
from rung.home import expanded
from rung.models._fetch import Progress, fetch, is_here, no_progress
from rung.models._gguf import gguf_metadata as gguf_metadata
from rung.models._gguf import read_header as read_header
from rung.models._hub import brought, download, snapshots, stated
from rung.models.catalog import CATALOG, Entry, ModelKind, entry_named, entry_with
from rung.models.files import KnownFile, noted
from rung.models.offered import OFFERED, Offered, offered_named
from rung.models.shards import weight_files
from rung.models.trust import stand_for, trust, trusted
from rung.spec import USUAL_TOKENS

HUB_ID: Final = re.compile(r"(?:hf:)?(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./-]+\.gguf))?")
_WORD: Final = re.compile(r"[^/:]+(?<!\.gguf)")
"""A name that is neither a path nor an id nor a URL."""
_HOSTED_WORD: Final = re.compile(r"gpt-\d|chatgpt-|claude-|o[134]\b", re.IGNORECASE)
"""How the names of OpenAI's and Anthropic's models begin."""
_EMBEDDERS: Final = ("bert", "nomic-bert", "jina-bert-v2", "t5encoder")
_UNKNOWN_LICENCE: Final = "unknown"
_ADAPTER: Final = "adapter_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model's files and what they hold.

    Exactly one of `gguf` (a file) and `folder` (safetensors, config.json, tokenizer.json) is set.
    `digest` is the SHA-256 of the GGUF file, or of a folder's file names and digests. `context` is in
    tokens; `template` is the Jinja chat template, None for a model that has none. `limit` is how many tokens
    a prompt and its answer may have together, if the context holds them: a task or a System sets it.
    `files` are those that the digest is of.
    """

    name: str
    kind: ModelKind
    gguf: Path | None
    folder: Path | None
    digest: str
    licence: str
    architecture: str
    context: int
    parameters: int
    template: str | None
    limit: int = USUAL_TOKENS
    files: tuple[KnownFile, ...] = ()


def limited(model: Model, tokens: int | None) -> Model:
    """The model where a prompt and its answer may have so many tokens together; None: the usual number."""
    return replace(model, limit=tokens or USUAL_TOKENS)


def resolve(name: str, *, progress: Progress = no_progress, newest: bool = False) -> Model:
    """Find a model by catalog name, path (a .gguf or a folder) or hub id (`org/name`, `org/name:file.gguf`).

    Weights that aren't on this machine are brought; `progress` is told the bytes of those with known digests.
    A hub id stands for what it brought first, as long as that lies in the hub's cache: its makers may change
    it any day. The `newest` is what they have now, for which it stands from then on.
    Raises ModelError when the name is unknown or the files can't be had or read, DigestError when a download
    isn't what the catalog promises, or what it was when it was first fetched.
    """
    if entry := entry_named(name):
        return _from_catalog(entry, progress)
    if offered := offered_named(name):
        return _from_hub(offered)
    if name.startswith(("openai:", "anthropic:", "http://", "https://")):
        raise ModelError(
            f"{name!r} is an endpoint, which has no weights here: it can be asked for answers, but not be "
            "tuned, exported or used where model files are needed; put a local model before it"
        )
    path = expanded(name)
    if path.is_file():
        return _from_gguf(path.resolve(), name=path.stem)
    if path.is_dir():
        return _from_folder(path.resolve(), name=path.resolve().name)
    hub = _hub_id(name)
    if hub is None:
        raise ModelError(_unknown(name))
    if not newest and (model := _as_first_brought(name, hub)) is not None:
        return model
    found = download(*hub)
    model = _with_licence(_read(found.path, name), found.licence)
    if found.current:
        with suppress(WeightsError):  # where nothing can be kept the hub is asked the next time, too
            stand_for(_record_of(hub), model.digest, model.licence)
    return model


def as_brought(name: str, digest: str) -> Model | None:
    """The model with that digest, if it was brought from the hub by that name; nothing is asked.

    The hub's cache has what its makers changed since as it was. None for names that aren't of the hub.
    """
    offered = offered_named(name)
    hub = _hub_id(name if offered is None else offered.gguf)
    if hub is None:
        return None
    repository, file = hub
    for folder in snapshots(repository):
        path = folder / file if file else folder
        try:
            # Said first, read then: other weights than those that are wanted may be many gigabytes.
            if _stated(path) != digest or (found := _read(path, name)).digest != digest:
                continue
        except (ModelError, OSError):  # it was brought in part
            continue
        return found if offered is None else _as_offered(found, offered)
    return None


def at_hand(name: str) -> Model | None:
    """The model where its files lie on this machine, without asking for anything.

    One that was brought from the hub in part isn't at hand. Raises ModelError for other files that can't be
    read, and for a word that names no model wherever it's looked for.
    """
    if entry := entry_named(name):
        here = is_here(entry)
    elif offered := offered_named(name):
        return _as_trusted(offered)
    elif not (here := expanded(name).exists()):
        return _brought_before(name)
    return resolve(name) if here else None


def _brought_before(name: str) -> Model | None:
    """The model of a hub id, where all of it lies in the hub's cache. Raises ModelError for a mere word."""
    hub = _hub_id(name)
    if hub is None:
        if _WORD.fullmatch(name):
            raise ModelError(_unknown(name))
        return None
    if (model := _as_first_brought(name, hub)) is not None:
        return model
    found = brought(*hub)
    try:
        return found and _read(found, name)
    except ModelError:
        return None


def _hub_id(name: str) -> tuple[str, str | None] | None:
    """The repository that a hub id names, and the file where it names one; None for other names."""
    match = HUB_ID.fullmatch(name)
    if match is None or name.endswith(".gguf") and match["file"] is None:
        return None
    return match["repository"], match["file"]


def _record_of(hub: tuple[str, str | None]) -> str:
    """Under which name it's kept what a hub id stands for: not that of the same file where it's offered."""
    repository, file = hub
    return f"hf:{repository}:{file}" if file else f"hf:{repository}"


def _as_first_brought(name: str, hub: tuple[str, str | None]) -> Model | None:
    """What a hub id stands for, where that is known and lies in the hub's cache still; nothing is asked."""
    kept = trusted(_record_of(hub))
    if kept is None or (model := as_brought(name, kept.digest)) is None:
        return None
    return _with_licence(model, kept.licence)


def _as_trusted(entry: Offered) -> Model | None:
    """An offered model as it was first fetched, where that is in the hub's cache still; nothing is asked."""
    kept = trusted(entry.gguf)
    return None if kept is None else as_brought(entry.name, kept.digest)


def _stated(path: Path) -> str:
    """The digest of a model by the names that the hub's cache has for its files: what's large isn't read."""
    if path.suffix != ".gguf" and not weight_files(path) and len(ggufs := sorted(path.glob("*.gguf"))) == 1:
        (path,) = ggufs
    if path.suffix == ".gguf":
        return stated(path)
    return _digest_of({file: stated(path / file) for file in _names(path)})


def _read(path: Path, name: str) -> Model:
    return _from_gguf(path, name=name) if path.is_file() else _from_folder(path, name=name)


def is_fetched(entry: Offered) -> bool:
    """Whether a model of the hub lies in the hub's cache on this machine."""
    repository, _, file = entry.gguf.partition(":")
    known = trusted(entry.gguf) is not None
    return known and any((folder / file).is_file() for folder in snapshots(repository))


def first_seen(entry: Offered) -> str:
    """What is known of the digest of a hub's file, in words."""
    kept = trusted(entry.gguf)
    if kept is None:
        return "not tried here, its digest is kept at the first fetch"
    return f"not tried here, sha256 {kept.digest[:16]} as first fetched on {kept.first}"


def _unknown(name: str) -> str:
    names = [entry.name for entry in (*CATALOG, *OFFERED)]
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.4) or names
    said = f"no model {name!r}: "
    if _HOSTED_WORD.match(name):
        provider = "anthropic" if name.lower().startswith("claude") else "openai"
        said += f"a hosted one is written '{provider}:{name}'. Here "
    return (
        f"{said}there's no such file or folder, and it's no catalog name (nearest: {', '.join(near)}). Give "
        "a name that `rung models` lists, the path of a .gguf file or of a folder with safetensors weights, "
        "a hub id as 'org/name' or 'org/name:file.gguf', or a hosted model as 'openai:NAME' or "
        "'anthropic:NAME'"
    )


def _from_catalog(entry: Entry, progress: Progress) -> Model:
    folder = fetch(entry, progress=progress)
    weights = folder / entry.files[0].name
    is_gguf = weights.suffix == ".gguf"
    files = (noted(weights, entry.sha256),) if is_gguf else _files(folder)
    return Model(
        name=entry.name,
        kind=entry.kind,
        gguf=weights if is_gguf else None,
        folder=None if is_gguf else folder,
        digest=entry.sha256 if is_gguf else _digest_of({file.path.name: file.digest for file in files}),
        licence=entry.licence,
        architecture=entry.architecture,
        context=entry.context,
        parameters=entry.parameters,
        template=entry.template,
        files=files,
    )


def _from_hub(entry: Offered) -> Model:
    """The GGUF of an entry as it was first fetched; one that is fetched again has to be the same."""
    if (model := _as_trusted(entry)) is not None:
        return model
    repository, _, file = entry.gguf.partition(":")
    found = _from_gguf(download(repository, file).path, name=entry.name)
    trust(entry.gguf, found.digest)
    return _as_offered(found, entry)


def _as_offered(found: Model, entry: Offered) -> Model:
    """Under the entry's name and with the licence and the template that the entry knows."""
    return replace(found, name=entry.name, licence=entry.licence, template=entry.template or found.template)


def _from_gguf(path: Path, *, name: str) -> Model:
    header = read_header(path)
    values = header.values
    architecture = str(values.get("general.architecture", ""))
    if not architecture or not header.tensors:
        raise ModelError(
            f"{str(path)!r} is a GGUF file without "
            f"{'weights' if architecture else 'general.architecture'}, so it is no model that can be run"
        )
    if (split := values.get("split.count")) not in (None, 0, 1):
        raise ModelError(
            f"{str(path)!r} is one of {split!r} parts of a model: join them with `llama-gguf-split --merge`"
        )
    weights = noted(path)
    template = values.get("tokenizer.chat_template")
    context = values.get(f"{architecture}.context_length", 2048)
    known = entry_with(weights.digest)
    return Model(
        name=name,
        kind="embed" if architecture in _EMBEDDERS else "generate",
        gguf=path,
        folder=None,
        digest=weights.digest,
        licence=known.licence if known else str(values.get("general.license", _UNKNOWN_LICENCE)),
        architecture=architecture,
        context=context if isinstance(context, int) else 2048,
        parameters=header.parameters,
        template=known.template if known else (template if isinstance(template, str) else None),
        files=(weights,),
    )


def _from_folder(folder: Path, *, name: str) -> Model:
    shards = weight_files(folder)
    if not shards:
        ggufs = sorted(folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return _from_gguf(ggufs[0], name=name)
        raise ModelError(_why_no_weights(folder, ggufs))
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise ModelError(
                f"{str(folder)!r} has safetensors weights but no {needed!r}: copy it from the model's page"
            )
    if (folder / _ADAPTER).exists():
        raise ModelError(adapter_beside(folder))
    config = read_json(folder / "config.json")
    inner = config.get("text_config") or config
    if packed := config.get("quantization_config") or inner.get("quantization_config"):
        raise ModelError(_packed(folder, packed))
    context = inner.get("max_position_embeddings")
    kinds = [str(kind) for kind in config.get("architectures") or [""]]
    files = _files(folder)
    return Model(
        name=name,
        kind="generate" if kinds[0].endswith(("ForCausalLM", "ForConditionalGeneration")) else "embed",
        gguf=None,
        folder=folder,
        digest=_digest_of({file.path.name: file.digest for file in files}),
        licence=_UNKNOWN_LICENCE,
        architecture=str(config.get("model_type", "")),
        context=context if isinstance(context, int) else 2048,
        parameters=sum(_weights_in(shard) for shard in shards),
        template=_template_in(folder),
        files=files,
    )


def adapter_beside(folder: Path) -> str:
    """Why a folder of weights with an adapter is refused: transformers would lay that over them unasked."""
    return (
        f"{str(folder)!r} holds weights and {_ADAPTER!r}, an adapter that would change them: merge the two "
        "into one model, or move the adapter out of the folder"
    )


def _packed(folder: Path, said: object) -> str:
    by = repr(said["quant_method"]) if isinstance(said, dict) and "quant_method" in said else "some method"
    return (
        f"{str(folder)!r} holds weights that {by} has packed ('quantization_config' in its config.json), "
        "which are neither read nor tuned here: give the model's plain weights, or its GGUF"
    )


def _why_no_weights(folder: Path, ggufs: list[Path]) -> str:
    if ggufs:
        names = ", ".join(path.name for path in ggufs)
        return f"{str(folder)!r} holds {len(ggufs)} GGUF files; name the one you want: {names}"
    if [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]:
        return (
            f"{str(folder)!r} holds pickled weights only, which can run code when read and are never loaded: "
            "convert them to safetensors first"
        )
    return f"{str(folder)!r} holds no *.safetensors and no *.gguf file, so it is no model"


def _with_licence(model: Model, licence: str | None) -> Model:
    return replace(model, licence=licence) if licence and model.licence == _UNKNOWN_LICENCE else model


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder; ModelError where it isn't one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"can't read {str(path)!r}: {error}; copy it from where the model came") from error
    if not isinstance(found, dict):
        raise ModelError(f"{str(path)!r} holds {type(found).__name__}, not a JSON object")
    return found


def _names(folder: Path) -> list[str]:
    """The weights that are read and the files that say how; no copy in another format beside them."""
    return sorted(
        path.name
        for path in (
            *weight_files(folder),
            *(folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json")),
            *folder.glob("*.jinja"),
        )
        if path.is_file()
    )


def _files(folder: Path) -> tuple[KnownFile, ...]:
    return tuple(noted(folder / name) for name in _names(folder))


def _digest_of(digests: Mapping[str, str]) -> str:
    """Of a folder's files, by their names and digests."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _weights_in(shard: Path) -> int:
    from math import prod

    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(shard, framework="np") as tensors:
            return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{str(shard)!r} isn't a sound safetensors file ({error}): download it again"
        ) from error


def _template_in(folder: Path) -> str | None:
    if (jinja := folder / "chat_template.jinja").is_file():
        return jinja.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(template, list):
        template = next((item.get("template") for item in template if item.get("name") == "default"), None)
    return template if isinstance(template, str) else None
