"""The forward pass of a small BERT: few products, in the type that the processor multiplies fastest."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pair: TypeAlias = "tuple[Tensor, Tensor]"
"""Weight and bias."""


class Bert:
    """An encoder with frozen weights of one type; queries, keys and values are one product.

    Layer norms and softmax are computed in fp32 whatever the type, as torch does by itself.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: "Mapping[str, Tensor]", dtype: "torch.dtype"
    ) -> None:
        """Take the weights of a BERT (absolute positions, one segment) by transformers' names.

        Raises KeyError with the name of a weight or a setting that isn't there.
        """
        import torch

        prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""

        def pair(*modules: str) -> Pair:
            weight, bias = (
                torch.cat([tensors[f"{prefix}{module}.{part}"].detach() for module in modules]).to(dtype)
                for part in ("weight", "bias")
            )
            return weight, bias

        def table(name: str) -> "Tensor":
            return tensors[f"{prefix}embeddings.{name}_embeddings.weight"].detach()

        self.width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.eps = config["layer_norm_eps"]
        self.activation = _activation(config["hidden_act"])
        self.words = table("word").to(dtype)
        self.places = (table("position") + table("token_type")[0]).to(dtype)
        self.norm = pair("embeddings.LayerNorm")
        self.layers = [
            (
                pair(*(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))),
                pair(f"{layer}.attention.output.dense"),
                pair(f"{layer}.attention.output.LayerNorm"),
                pair(f"{layer}.intermediate.dense"),
                pair(f"{layer}.output.dense"),
                pair(f"{layer}.output.LayerNorm"),
            )
            for layer in (f"encoder.layer.{number}" for number in range(config["num_hidden_layers"]))
        ]

    def mean(self, ids: "Tensor", sizes: "Tensor") -> "Tensor":
        """Mean of the last layer over each row's own tokens: [rows, width], fp32 or finer.

        ids [rows, longest], filled up with anything on the right; sizes [rows] say how many are a row's own.
        """
        import torch
        from torch.nn import functional

        rows, longest = ids.shape
        own = torch.arange(longest)[None] < sizes[:, None]
        whole = bool(own.all())
        hidden = self._normed(self.words[ids] + self.places[:longest], self.norm).view(-1, self.width)
        unseen = None
        if not whole:
            unseen = torch.zeros((rows, 1, 1, longest), dtype=hidden.dtype)
            unseen.masked_fill_(~own[:, None, None], float("-inf"))
        size = self.width // self.heads
        for qkv, out, first, up, down, second in self.layers:
            q, k, v = (
                functional.linear(hidden, *qkv)
                .view(rows, longest, 3, self.heads, size)
                .permute(2, 0, 3, 1, 4)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=unseen)
            mixed = mixed.transpose(1, 2).reshape(-1, self.width)
            hidden = self._normed(functional.linear(mixed, *out).add_(hidden), first)
            wide = self.activation(functional.linear(hidden, *up))
            hidden = self._normed(functional.linear(wide, *down).add_(hidden), second)
        states = hidden.view(rows, longest, self.width).to(torch.promote_types(hidden.dtype, torch.float32))
        if whole:
            return states.mean(1)
        return (states * own[..., None]).sum(1) / sizes[:, None]

    def _normed(self, x: "Tensor", norm: Pair) -> "Tensor":
        from torch.nn import functional

        return functional.layer_norm(x, (self.width,), *norm, self.eps)


def _activation(name: str) -> Any:
    """By transformers' name, which is loaded for the rarer ones alone: that takes seconds."""
    from torch.nn import functional

    if name == "gelu":
        return functional.gelu
    from transformers.activations import ACT2FN

    return ACT2FN[name]
