"""A LoRA merged into its base, as a folder that transformers loads: weights, config, tokenizer, template."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from rung.errors import ModelError
from rung.models.resolve import read_json
from rung.models.shards import INDEX, WHOLE, weight_files
from rung.training.lora_delta import Delta

FloatType = Literal["bf16", "f32"]
TEMPLATE_FILE: Final = "chat_template.jinja"
_COPIED: Final = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)


def write_merged_folder(
    base: Path,
    deltas: Mapping[str, Delta],
    out: Path,
    *,
    kind: FloatType,
    template: str,
    stop_ids: Sequence[int],
) -> None:
    """Fill the folder `out` with `base` and `deltas` in it, added in fp32 and stored as `kind`.

    `template` becomes its chat template, `stop_ids` the tokens at which generation ends. Raises ModelError
    where a delta has no weight in `base` or doesn't fit it, OSError where the disk refuses.
    """
    left = dict(deltas)
    # What else lies in `base`, such as the weights in another format, would be left without the deltas.
    shards = weight_files(base)
    for shard in shards:
        _merge_shard(shard, left, out / shard.name, kind)
    if left:
        raise ModelError(
            f"{str(base)!r} has no weight {next(iter(left))!r}: the adapter was made for another model"
        )
    for name in _COPIED if base / WHOLE in shards else (*_COPIED, INDEX):
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    config = read_json(base / "config.json")
    config.pop("torch_dtype", None)
    config["dtype"] = {"bf16": "bfloat16", "f32": "float32"}[kind]
    _write(out / "config.json", config)
    settings = read_json(out / "tokenizer_config.json") if (out / "tokenizer_config.json").is_file() else {}
    settings.pop("chat_template", None)
    _write(out / "tokenizer_config.json", settings)
    _write(out / "generation_config.json", _generation(base, config, stop_ids))
    (out / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def _merge_shard(shard: Path, left: dict[str, Delta], out: Path, kind: FloatType) -> None:
    """One file of weights; the deltas that were used are taken out of `left`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        tensors = load_file(shard)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{str(shard)!r} can't be read ({error}): bring the model again") from None
    stored = {"bf16": torch.bfloat16, "f32": torch.float32}[kind]
    for name, tensor in tensors.items():
        delta = left.pop(name, None)
        if delta is not None:
            if tuple(tensor.shape) != delta.shape:
                raise ModelError(
                    f"{str(shard)!r}: {name!r} is {tuple(tensor.shape)!r} and the adapter's "
                    f"{delta.shape!r}: it was made for another model"
                )
            tensor = torch.from_numpy(delta.into(tensor.float().numpy(), 0))
        tensors[name] = (tensor.to(stored) if tensor.is_floating_point() else tensor).contiguous()
    try:
        save_file(tensors, out, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors raises where the disk refuses
        raise OSError(str(error)) from error


def _generation(base: Path, config: Mapping[str, Any], stop_ids: Sequence[int]) -> dict[str, Any]:
    """Greedy, and ends at the tokens that end an answer: the base's own file may name another."""
    file = base / "generation_config.json"
    given = read_json(file) if file.is_file() else {}
    kept = {key: given[key] for key in ("bos_token_id", "pad_token_id") if given.get(key) is not None}
    if config.get("bos_token_id") is not None:
        kept.setdefault("bos_token_id", config["bos_token_id"])
    kept.setdefault("pad_token_id", stop_ids[0])
    return {**kept, "do_sample": False, "eos_token_id": list(stop_ids)}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
