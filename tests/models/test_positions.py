"""What a GGUF says of positions, in torch as in llama.cpp: a tiny model of each family, after 900 tokens."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rung.errors import ModelError
from rung.models.resolve import limited, resolve
from rung.models.weights import dequantised, untunable

WIDTH, INNER, HEADS, KEY_HEADS, HEAD = 128, 96, 4, 2, 32
CONTEXT = 2048
TRAINED = 256
"""What the Phi that is asked beyond it was trained for."""
dice = np.random.default_rng(0)
IDS = dice.integers(10, 2000, 900).tolist()
SHORT, LONG = (dice.uniform(1, top, 12).astype(np.float32) for top in (2, 9))


def waves(base: float) -> np.ndarray:
    return base ** (np.arange(0, HEAD, 2) / HEAD)


def llama3_factors(base: float, factor: float) -> np.ndarray:
    """As llama.cpp's converter writes them, worked out by transformers."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(head_dim=HEAD, max_position_embeddings=131_072, rope_parameters=rope)
    found, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    return (1 / (waves(base) * found.numpy())).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A file: keys of its architecture beside those that all have, and tensors beside its weights."""

    architecture: str
    keys: dict[str, Any] = field(default_factory=dict)
    tensors: Callable[[], dict[str, np.ndarray]] = dict
    blocks: int = 1


def phi_factors() -> dict[str, np.ndarray]:
    return {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT}


PHI = {"rope.dimension_count": 24, "attention.sliding_window": 64, "rope.scaling.attn_factor": 1.19}
LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
GEMMA = {"attention.key_length": HEAD, "attention.value_length": HEAD, "attention.sliding_window": 64}
KINDS = {
    "llama 3": Kind(
        architecture="llama",
        keys={"rope.freq_base": 4000.0, "attention.key_length": HEAD, "attention.value_length": HEAD},
        tensors=lambda: {"rope_freqs.weight": llama3_factors(4000.0, 32.0)},
    ),
    "a longer llama": Kind(architecture="llama", keys=LINEAR),
    "phi": Kind(
        architecture="phi3",
        keys={**PHI, "rope.scaling.original_context_length": CONTEXT},
        tensors=phi_factors,
    ),
    "phi beyond what it was trained for": Kind(
        architecture="phi3",
        keys={**PHI, "rope.scaling.original_context_length": TRAINED},
        tensors=phi_factors,
    ),
    "a phi of short contexts": Kind(architecture="phi3", keys={"rope.dimension_count": 24}),
    "gemma 3": Kind(architecture="gemma3", keys={**GEMMA, **LINEAR}, blocks=6),
    "a gemma with other layers": Kind(
        architecture="gemma3",
        keys={**GEMMA, **LINEAR, "attention.sliding_window_pattern": 2, "rope.freq_base_swa": 300.0},
        blocks=2,
    ),
}


def shapes_of(kind: Kind, tokens: int) -> dict[str, tuple[int, ...]]:
    both, wide = HEADS * HEAD, KEY_HEADS * HEAD
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
        "attn_output": (WIDTH, both),
        "ffn_down": (WIDTH, INNER),
    }
    if kind.architecture == "phi3":
        block |= {"attn_qkv": (both + 2 * wide, WIDTH), "ffn_up": (2 * INNER, WIDTH)}
    else:
        block |= {"attn_q": (both, WIDTH), "attn_k": (wide, WIDTH), "attn_v": (wide, WIDTH)}
        block |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH)}
    if kind.architecture == "gemma3":
        block |= {"attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,)}
        block |= {"post_attention_norm": (WIDTH,), "post_ffw_norm": (WIDTH,)}
    blocks = {f"blk.{i}.{name}.weight": s for i in range(kind.blocks) for name, s in block.items()}
    return {"token_embd.weight": (tokens, WIDTH), "output_norm.weight": (WIDTH,), **blocks}


def in_bf16(values: np.ndarray) -> np.ndarray:
    """Numbers that lose nothing where they are kept in bf16."""
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.fixture
def make(tmp_path: Path, small_vocabulary, monkeypatch: pytest.MonkeyPatch) -> Callable[[Kind], Path]:
    import gguf

    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    tokens, merges = small_vocabulary

    def make(kind: Kind) -> Path:
        path = tmp_path / f"{kind.architecture}.gguf"
        writer = gguf.GGUFWriter(path, kind.architecture)
        writer.add_name("tiny")
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(kind.blocks)
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KEY_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        for key, value in {"rope.freq_base": 10_000.0, "rope.dimension_count": HEAD, **kind.keys}.items():
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(f"{kind.architecture}.{key}", value)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        random = np.random.default_rng(0)
        for name, shape in shapes_of(kind, len(tokens)).items():
            is_norm = "norm" in name
            values = in_bf16(random.normal(0, 0.2 if is_norm or "embd" in name else 0.12, shape))
            writer.add_tensor(name, values + np.float32(1) if is_norm else values)
        for name, values in kind.tensors().items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def logprobs(folder: Path, after: list[int], tokens: list[int]) -> np.ndarray:
    """By the torch engine in fp32."""
    import torch

    from rung.engines.base import EngineSpec
    from rung.engines.torch import TorchEngine, load_model

    spec = EngineSpec(engine="torch", weights=folder, context=CONTEXT)
    engine = TorchEngine(spec, model=load_model(folder, torch.float32))
    (found,) = engine.next_logprobs([tuple(after)], tokens)
    engine.close()
    return np.array(found)


def unscaled(folder: Path) -> Path:
    """The model with each frequency of its positions as its base gives it, and all of a head turning."""
    other = folder.with_name("unscaled")
    shutil.copytree(folder, other)
    config = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"]

    def plain(said: dict[str, Any]) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": said["rope_theta"]}

    config["rope_parameters"] = plain(rope) if "rope_theta" in rope else {k: plain(rope[k]) for k in rope}
    (other / "config.json").write_text(json.dumps(config))
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_after_many_tokens_torch_gives_llama_cpps_log_probabilities(kind, make, llama_cpp) -> None:
    path = make(KINDS[kind])
    tokens = TRAINED if "beyond" in kind else CONTEXT
    model = limited(resolve(str(path)), tokens)
    assert untunable(model) is None
    folder = dequantised(model)
    theirs = llama_cpp(path).top(IDS, 10)
    likely = np.array(list(theirs.values()))
    ours = logprobs(folder, IDS, list(theirs))
    assert len(theirs) == 10 and ours == pytest.approx(likely, abs=0.05)
    without = logprobs(unscaled(folder), IDS, list(theirs))
    assert np.abs(without - likely).max() > 0.15


def test_llama_3s_scaling_is_told_by_the_numbers_that_made_its_factors(make) -> None:
    config = json.loads((dequantised(resolve(str(make(KINDS["llama 3"])))) / "config.json").read_text())
    rope = config["rope_parameters"]
    assert (rope["rope_type"], rope["factor"]) == ("llama3", 32)
    assert rope["original_max_position_embeddings"] == 8192


LLAMA = Kind(architecture="llama")
REFUSED = {
    r"it scales positions by 'yarn' and 4; .*hub id": replace(
        LLAMA, keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    ),
    r"'rope_freqs\.weight' isn't that of Llama 3; .*hub id": replace(
        LLAMA, tensors=lambda: {"rope_freqs.weight": np.linspace(1, 32, 16, dtype=np.float32)}
    ),
    r"'rope_freqs\.weight' isn't 16 numbers of 32 bits": replace(
        LLAMA, tensors=lambda: {"rope_freqs.weight": np.ones(12, np.float32)}
    ),
    r"16 of 32 dimensions of a head turn": replace(LLAMA, keys={"rope.dimension_count": 16}),
    r"its keys are 32 wide and its values 16": replace(LLAMA, keys={"attention.value_length": 16}),
    r"isn't all known here \(attention\.temperature_scale\)": replace(
        LLAMA, keys={"attention.temperature_scale": 0.5}
    ),
    r"isn't all known here \(rope_factors_long.*, rope_factors_short": replace(LLAMA, tensors=phi_factors),
    r"isn't all known here \(final_logit_softcapping\)": Kind(
        architecture="gemma3", keys={**GEMMA, "final_logit_softcapping": 30.0}
    ),
    r"its 'attention\.sliding_window' is 0, no count": Kind(architecture="gemma3"),
    r"no Phi's": Kind(architecture="phi3", keys=PHI, tensors=lambda: {"rope_factors_long.weight": LONG}),
    r"prompt and answer may have 2,048 tokens: .* more than 256": KINDS["phi beyond what it was trained for"],
    r"can't read the architecture 'martian' from a GGUF file; .*hub id": Kind(architecture="martian"),
    r"not tuned, from its safetensors neither: not all of its layers are attention \('blk\.0\.ssm_a'": Kind(
        architecture="qwen35", tensors=lambda: {"blk.0.ssm_a": np.ones(4, np.float32)}
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_torch_would_run_otherwise_than_llama_cpp_is_refused_and_told_by_the_header(why, make) -> None:
    model = resolve(str(make(REFUSED[why])))
    with pytest.raises(ModelError, match=why) as refusal:
        dequantised(model)
    said = str(refusal.value)
    assert untunable(model) == said
    assert "can be asked by llama.cpp alone, and not tuned" in said, "torch can't ask it either"
    assert ("hub id" in said) != ("qwen35" in said or "2,048" in said)


def test_a_tensor_without_a_place_in_transformers_model_is_refused(make) -> None:
    biased = replace(LLAMA, tensors=lambda: {"blk.0.attn_q.bias": np.ones(HEADS * HEAD, np.float32)})
    with pytest.raises(ModelError, match=r"'llama' has no place for 1 of its tensors .*attn_q\.bias"):
        dequantised(resolve(str(make(biased))))


def test_what_changes_nothing_is_no_reason_to_refuse(make) -> None:
    idle = {"attn_logit_softcapping": 0.0, "rope.scaling.type": "none", "rope.scaling.factor": 4.0}
    model = resolve(str(make(replace(LLAMA, keys={**idle, "rope.scaling.attn_factor": 1.0}))))
    assert untunable(model) is None
    config = json.loads((dequantised(model) / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10_000.0}


def test_a_safetensors_model_is_told_by_no_header(make) -> None:
    model = resolve(str(dequantised(resolve(str(make(LLAMA))))))
    assert model.gguf is None and untunable(model) is None
