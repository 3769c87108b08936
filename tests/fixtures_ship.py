"""Very small models as GGUF files, and Systems tuned on them at random, to be exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rung.engines import lora
from rung.engines.torch import load_model
from rung.models.chat import load_chat
from rung.models.resolve import Model, resolve
from rung.models.weights import dequantised
from rung.spec import AnswerSpec, Spec
from rung.system import ADAPTER_FOLDER, ADAPTER_GGUF, System, ref_to, save
from rung.training.adapter import to_gguf
from tests.fixtures_climb import CHATML, TOPICS, add_vocabulary
from tests.fixtures_tiny import randomise

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS = 64, 96, 2, 4, 2
HEAD = {"llama": 32, "gemma3": 256}
"""Width of a head: transformers reads Gemma's scale of attention as that of its real heads."""
LABELS = tuple(TOPICS)


def make_gguf(
    path: Path, architecture: str = "llama", kind: str = "f32", template: str | None = CHATML
) -> Path:
    """A `llama` or `gemma3` with random weights, its matrices as `kind`, and fewer key than query heads."""
    import gguf

    from rung.models.weight_types import WRITTEN

    head = HEAD[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "gemma3":
        writer.add_sliding_window(64)
    size = add_vocabulary(writer)
    writer.add_add_bos_token(architecture == "gemma3")
    writer.add_array("general.languages", ["en", "lv"])
    if template is not None:
        writer.add_chat_template(template)
    dice = np.random.default_rng(0)
    for name, shape in _shapes(architecture, size).items():
        mean, spread = (1.0, 0.1) if "norm" in name else (0.0, 0.12)
        data = dice.normal(mean, spread, shape).astype(np.float32)
        if kind == "f32" or "norm" in name:
            writer.add_tensor(name, data)
        else:
            wanted = gguf.GGMLQuantizationType(WRITTEN[kind].kind)
            writer.add_tensor(name, gguf.quants.quantize(data, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(architecture: str, tokens: int) -> dict[str, tuple[int, ...]]:
    head = HEAD[architecture]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
        "attn_q": (HEADS * head, WIDTH),
        "attn_k": (KEY_HEADS * head, WIDTH),
        "attn_v": (KEY_HEADS * head, WIDTH),
        "attn_output": (WIDTH, HEADS * head),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    if architecture == "gemma3":
        block |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
        block |= {"post_attention_norm": (WIDTH,), "post_ffw_norm": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def make_adapter(model: Model, folder: Path, size: float = 0.3, seed: int = 1) -> Path:
    """A random LoRA of a model as a PEFT folder."""
    import torch

    network = load_model(dequantised(model), dtype=torch.float32)
    lora.attach(network, rank=4, alpha=6, seed=0)
    randomise(network, size, seed)
    lora.save(network, folder, base="tiny")
    return folder


def make_tuned(
    gguf: Path,
    folder: Path,
    *,
    engine: Any = "torch",
    form: Any = "codes",
    seed: int = 1,
    size: float = 0.3,
    **changes: Any,
) -> System:
    """A System "tuned" on the model: a random adapter in both formats, labels as codes or words."""
    model = resolve(str(gguf))
    adapter = make_adapter(model, folder.with_name(f"{folder.name}-adapter"), size, seed)
    config = json.loads((dequantised(model) / "config.json").read_text(encoding="utf-8"))
    converted = to_gguf(adapter, folder.with_name(f"{folder.name}.gguf"), config=config)
    chat = load_chat(model)
    codes = tuple(chat.answer_ids(label, "terse")[0] for label in LABELS)
    fields = {
        "rung": "sft",
        "task": "topics",
        "kind": "label",
        "labels": LABELS,
        "engine": engine,
        "model": ref_to(model, str(gguf)),
        "style": "terse",
        "answer": AnswerSpec(form=form, codes=codes if form == "codes" else (), max_tokens=8),
        **changes,
    }
    files = {f"{ADAPTER_FOLDER}/{path.name}": path for path in sorted(adapter.iterdir())}
    return save(folder, Spec(**fields), {**files, ADAPTER_GGUF: converted})
