"""What a GGUF says of positions and attention that transformers leaves out of the config it makes of one."""

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from rung.errors import ModelError
from rung.models._gguf import Header, Value

FREQS: Final = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS: Final = frozenset({FREQS, LONG, SHORT})
"""Tensors that are no weights: by what llama.cpp divides the frequencies of positions."""
BASE: Final = 10_000.0
"""llama.cpp's base of frequencies where a file has none, and that of Gemma 3's sliding layers."""
LLAMA3: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of all Llama 3.1, 3.2 and 3.3. A file has but the factors that come of them."""
GEMMA_27B_BLOCKS: Final = 62
"""By them llama.cpp knows the one Gemma 3 whose scale of attention isn't that of its heads."""

_CALLED: Final = {
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
}
"""What transformers calls an architecture, where a GGUF calls it otherwise."""
_OTHER_LAYERS: Final = (".ssm_", ".shortconv.", ".time_mix_")
"""In the names of weights of layers that are no attention."""
_SCALES: Final = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
)
_CHANGES_NOTHING: Final[dict[str, tuple[Value, ...]]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (True, False),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A GGUF; `known` are the keys of its architecture and the tensors that are accounted for."""

    path: Path
    header: Header
    architecture: str
    known: set[str] = field(default_factory=set)

    def refused(self, why: str) -> ModelError:
        return ModelError(
            f"{str(self.path)!r} can be asked by llama.cpp alone, and not tuned: {why}; to tune this model, "
            "give its safetensors folder or hub id"
        )

    def get(self, key: str, default: Value) -> Value:
        self.known.add(key)
        return self.header.values.get(f"{self.architecture}.{key}", default)

    def number(self, key: str, default: float) -> float:
        found = self.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self.refused(f"its {key!r} is {found!r}, no number")
        return found

    def count(self, key: str, default: int) -> int:
        found = self.number(key, default)
        if found < 1 or found != int(found):
            raise self.refused(f"its {key!r} is {found!r}, no count")
        return int(found)

    @property
    def heads(self) -> int:
        return self.count("attention.head_count", 1)

    @property
    def width(self) -> int:
        return self.count("embedding_length", 1)

    def head(self) -> int:
        """How wide a head is, of queries, keys and values alike."""
        size = self.count("attention.key_length", self.width // self.heads)
        if (values := self.count("attention.value_length", size)) != size:
            raise self.refused(f"its keys are {size} wide and its values {values}")
        return size

    def turned(self) -> int:
        """How wide a head is, all of which turns by its position."""
        size = self.head()
        if (turning := self.count("rope.dimension_count", size)) != size:
            raise self.refused(f"{turning} of {size} dimensions of a head turn by the position")
        return size

    def base(self) -> float:
        """Of the frequencies by which positions turn."""
        return self.number("rope.freq_base", BASE)

    def linear(self) -> float:
        """By what all positions are divided."""
        kind = self.get("rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 0.0)) or 1.0
        self.known.add("rope.scaling.original_context_length")
        if kind not in ("none", "linear", "longrope") or factor <= 0:
            raise self.refused(f"it scales positions by {kind!r} and {factor:g}")
        return 1.0 if kind == "none" else factor

    def factors(self, name: str, count: int) -> list[float] | None:
        """By what each frequency is divided; None where the file has no such tensor."""
        tensor = next((tensor for tensor in self.header.tensors if tensor.name == name), None)
        if tensor is None:
            return None
        self.known.add(name)
        if tensor.kind != 0 or tensor.shape != (count,) or tensor.size != 4 * count:
            raise self.refused(f"its {name!r} isn't {count} numbers of 32 bits")
        with self.path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = np.frombuffer(data[tensor.begin : tensor.begin + 4 * count], dtype="<f4")
        if not (np.isfinite(found).all() and (found > 0).all()):
            raise self.refused(f"its {name!r} holds numbers that nothing can be divided by")
        return found.astype(np.float64).tolist()

    def unknown(self) -> list[str]:
        """What it says, or holds, of positions and attention that isn't accounted for."""
        prefix = f"{self.architecture}."
        keys = [key.removeprefix(prefix) for key in self.header.spans if key.startswith(prefix)]
        said = [key for key in keys if key.startswith(("rope.", "attention.")) or key in _SCALES]
        held = [tensor.name for tensor in self.header.tensors if tensor.name in FACTORS]
        return sorted(name for name in (*said, *held) if name not in self.known and not self._is_idle(name))

    def _is_idle(self, key: str) -> bool:
        found = self.header.values.get(f"{self.architecture}.{key}")
        return found is not None and found in _CHANGES_NOTHING.get(key, ())


def left_out(path: Path, header: Header) -> dict[str, Any]:
    """The keys of a transformers config that hold what a GGUF says of positions and attention, but for those
    that transformers fills in itself.

    Raises ModelError where torch would run another network than llama.cpp: layers that aren't attention, an
    architecture that transformers doesn't read from GGUF, or something of positions and attention that has no
    place here.
    """
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    architecture = str(header.values.get("general.architecture", ""))
    if name := next((t.name for t in header.tensors if any(o in t.name for o in _OTHER_LAYERS)), None):
        raise ModelError(
            f"{str(path)!r} can be asked by llama.cpp alone, and not tuned, from its safetensors neither: "
            f"not all of its layers are attention ({name!r} is a weight of one that isn't)"
        )
    read = GGUF_CONFIG_MAPPING.get(_CALLED.get(architecture, architecture))
    file = _File(path=path, header=header, architecture=architecture)
    if read is None:
        raise file.refused(f"transformers can't read the architecture {architecture!r} from a GGUF file")
    file.known.update(key for key, name in read.items() if name is not None)
    changes = _REBUILT.get(architecture, _as_it_is)(file)
    if unknown := file.unknown():
        raise file.refused(
            f"what it has of positions and attention isn't all known here ({', '.join(unknown[:3])})"
        )
    return changes


def too_long(path: Path, config: Mapping[str, Any], tokens: int) -> str | None:
    """Why a GGUF of this config can't be tuned where prompt and answer have so many tokens; None if it can.

    Of two sets of factors llama.cpp takes one by the context, transformers by the prompt.
    """
    trained = config.get("original_max_position_embeddings")
    if not isinstance(trained, int) or tokens <= trained or "long_factor" not in config["rope_parameters"]:
        return None
    return (
        f"{str(path)!r} can be asked by llama.cpp alone, and not tuned, where prompt and answer may have "
        f"{tokens:,} tokens: in a context of more than {trained:,} llama.cpp turns short prompts otherwise "
        "than transformers"
    )


def _as_it_is(file: _File) -> dict[str, Any]:
    file.turned()
    if (factor := file.linear()) != 1:
        raise file.refused(f"its positions are divided by {factor:g}")
    return {}


def _scaled(file: _File) -> dict[str, Any]:
    """Llama and Qwen: positions divided by one number, or each frequency by the file's own."""
    size, factor = file.turned(), file.linear()
    freqs = file.factors(FREQS, size // 2)
    if freqs is not None and factor != 1:
        raise file.refused(f"it has {FREQS!r}, and its positions are divided by {factor:g}")
    if freqs is not None:
        return {"rope_parameters": _llama3(file, freqs)}
    return {"rope_parameters": _divided(file.base(), factor)}


def _divided(base: float, factor: float) -> dict[str, Any]:
    if factor == 1:
        return {"rope_type": "default", "rope_theta": base}
    return {"rope_type": "linear", "rope_theta": base, "factor": factor}


def _llama3(file: _File, freqs: Sequence[float]) -> dict[str, Any]:
    """Llama 3's scaling, where it gives just these factors: 1 for short waves, the last one for long ones."""
    base, factor, size = file.base(), freqs[-1], 2 * len(freqs)
    waves = 2 * np.pi * base ** (np.arange(0, size, 2) / size)
    low, high, context = LLAMA3.values()
    smooth = np.clip((context / waves - low) / (high - low), 0, 1)
    if not np.allclose(1 / ((1 - smooth) / factor + smooth), freqs, rtol=1e-3):
        raise file.refused(f"its {FREQS!r} isn't that of Llama 3")
    return {"rope_type": "llama3", "rope_theta": base, "factor": factor, **LLAMA3}


def _phi3(file: _File) -> dict[str, Any]:
    """A part of each head turns, in models for long contexts with one factor per frequency.

    The file may name a window; llama.cpp looks back all the way, and so does what transformers makes of it.
    """
    size = file.head()
    turning = file.count("rope.dimension_count", size)
    file.known.add("attention.sliding_window")
    parameters = {"rope_theta": file.base(), "partial_rotary_factor": turning / size}
    long, short = (file.factors(name, turning // 2) for name in (LONG, SHORT))
    factor, linear = file.number("rope.scaling.attn_factor", 1.0), file.linear()
    if turning > size or linear != 1 or (long is None) != (short is None) or (long is None and factor != 1):
        raise file.refused("what it says of positions is no Phi's")
    if long is None:
        return {"rope_parameters": {"rope_type": "default", **parameters}}
    trained = file.count("rope.scaling.original_context_length", file.count("context_length", 1))
    more = {"short_factor": short, "long_factor": long, "attention_factor": float(factor)}
    return {
        "original_max_position_embeddings": trained,
        "rope_parameters": {
            "rope_type": "longrope",
            "original_max_position_embeddings": trained,
            **parameters,
            **more,
        },
    }


def _gemma3(file: _File) -> dict[str, Any]:
    """Every sixth layer looks back all the way, with a base and a scaling of its own."""
    size, blocks = file.turned(), file.count("block_count", 1)
    file.count("attention.sliding_window", 0)
    period = file.count("attention.sliding_window_pattern", 6)
    kinds = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(blocks)]
    return {
        "layer_types": kinds,
        "query_pre_attn_scalar": file.width // file.heads if blocks == GEMMA_27B_BLOCKS else size,
        "rope_parameters": {
            "full_attention": _divided(file.base(), file.linear()),
            "sliding_attention": _divided(file.number("rope.freq_base_swa", BASE), 1.0),
        },
    }


_REBUILT: Final[dict[str, Callable[[_File], dict[str, Any]]]] = {
    "llama": _scaled,
    "qwen2": _scaled,
    "qwen3": _scaled,
    "phi3": _phi3,
    "gemma3": _gemma3,
}
