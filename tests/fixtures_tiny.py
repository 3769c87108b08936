"""Very small random models that run in milliseconds, in fp64 where a test compares to the last digit."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where rung puts a model, so that what is tested here is tested on a GPU where there is one."""
VOCABULARY = 300
END = 0
"""The token that ends an answer."""
WINDOW = 6
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "eos_token_id": END,
    "bos_token_id": None,
    "pad_token_id": None,
}


class Norm(torch.nn.Module):
    """RMSNorm in the type of its input: transformers' own rounds to fp32 on the way."""

    def __init__(self, weight: torch.nn.Parameter, offset: float) -> None:
        super().__init__()
        self.weight, self.offset, self.eps = weight, offset, 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * (self.offset + self.weight)


def tiny(
    kind: str = "llama", dtype: torch.dtype = torch.float64, attention: str = "sdpa", **changes: Any
) -> Any:
    """Two layers, 4 query and 2 key heads. `gemma`'s first layer sees 6 tokens back and no more.

    `qwen2` has biases on query, key and value, `qwen3` a norm on each query's and key's head.
    """
    torch.manual_seed(0)
    sizes = SIZES | changes
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.uniform_(-0.5, 0.5)
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8))
    else:
        layers = ["sliding_attention", "full_attention"]
        config = Gemma3TextConfig(**sizes, head_dim=8, sliding_window=WINDOW, layer_types=layers)
        model = Gemma3ForCausalLM(config)
    for name, module in list(model.named_modules()):
        if "RMSNorm" in type(module).__name__:
            parent, _, leaf = name.rpartition(".")
            # As drawn, they are all 1 or all 0, which hides what is done with them.
            module.weight.data.add_(torch.empty_like(module.weight).uniform_(-0.5, 0.5))
            norm = Norm(module.weight, 1.0 if kind == "gemma" else 0.0)
            setattr(model.get_submodule(parent), leaf, norm)
    model.set_attn_implementation(attention)
    return model.to(DEVICE, dtype).eval()


def tiny_tokenizer() -> Tokenizer:
    """All bytes and a few pairs of them, after the end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a, b in itertools.product('{}":,aetr', repeat=2) if a != b]
    pairs = pairs[: VOCABULARY - len(letters) - 1]
    words = ["<end>", *letters, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def tiny_folder(folder: Path, model: Any) -> Path:
    """The model as a folder of safetensors weights with a tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def reference_logprobs(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] after each token, from one plain forward pass."""
    with torch.inference_mode():
        return model(torch.tensor([list(tokens)], device=DEVICE)).logits[0].log_softmax(-1).cpu()


def randomise(model: Any, size: float = 0.3, seed: int = 1) -> None:
    """Fill every LoRA matrix, B too, with random numbers."""
    from rung.engines import lora

    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.parameters(model):
        parameter.data.copy_(torch.empty(parameter.shape).normal_(0, size, generator=generator))
