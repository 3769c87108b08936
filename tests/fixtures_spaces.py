"""Vocabularies in which `▁` stands for a blank, one put before a text: as a folder, and as a GGUF file."""

import json
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rung.models._pretokenizers import put_first
from tests.fixtures_climb import CHATML

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Control tokens beside <unk>, <s> and </s>."""
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Phi-3's form of turns."""
WORDS = ("user", "assistant", "ab", "Input", "Output")
WIDTH, INNER, HEADS = 32, 48, 2


def vocabulary() -> tuple[list[str], list[str]]:
    """The tokens, and those among them that are made by merging: the others stand before them."""
    letters = [*"▁", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces = dict.fromkeys(
        start[:end] for word in WORDS for start in (f"▁{word}", word) for end in range(2, len(start) + 1)
    )
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*first, *letters, *pieces, *MARKS], list(pieces)


def spaced_folder(
    folder: Path, scheme: str, *, strips: Sequence[str] = (), bos: bool = False, template: str | None = CHATML
) -> Path:
    """A folder whose tokenizer puts a blank first by `scheme`: Metaspace's, or `prepend` before every piece.

    `strips`: which white space the control tokens take with them, `lstrip` and `rstrip`.
    """
    from safetensors.numpy import save_file

    tokens, pieces = vocabulary()
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[(piece[:-1], piece[-1]) for piece in pieces],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if scheme == "prepend":
        blank = normalizers.Replace(" ", "▁")
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blank])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
        + [
            AddedToken(
                token, special=True, normalized=False, lstrip="lstrip" in strips, rstrip="rstrip" in strips
            )
            for token in MARKS
        ]
    )
    if bos:
        put_first(tokenizer, "<s>", 1)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def make_spaced_gguf(path: Path, name: str = "tiny", template: str | None = CHATML) -> Path:
    """A llama of one layer with random weights and such a vocabulary; `name` is its `general.name`."""
    import gguf

    tokens, pieces = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_license("mit")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    ranks = {piece: -float(rank) for rank, piece in enumerate(pieces, start=1)}
    writer.add_token_scores([ranks.get(token, 0.0) for token in tokens])
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 4, **dict.fromkeys(MARKS, 3)}
    writer.add_token_types([kinds.get(token, 6 if token.startswith("<0x") else 1) for token in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    if template is not None:
        writer.add_chat_template(template)
    dice = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    block = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    block |= {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    block |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    shapes |= {f"blk.0.{part}.weight": shape for part, shape in block.items()}
    for part, shape in shapes.items():
        mean, spread = (1.0, 0.0) if "norm" in part else (0.0, 0.2)
        writer.add_tensor(part, dice.normal(mean, spread, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
