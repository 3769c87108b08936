"""The forward pass of a small BERT: few products, in the type that the processor multiplies fastest."""

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

    def __init__(self, network: Any, dtype: "torch.dtype") -> None:
        """Take over the weights of transformers' BertModel (absolute positions, one segment)."""
        import torch
        from transformers.activations import ACT2FN

        def pair(*modules: Any) -> Pair:
            weight, bias = (
                torch.cat([getattr(m, name).detach() for m in modules]).to(dtype)
                for name in ("weight", "bias")
            )
            return weight, bias

        config, embeddings = network.config, network.embeddings
        self.width, self.heads, self.eps = (
            config.hidden_size,
            config.num_attention_heads,
            config.layer_norm_eps,
        )
        self.activation = ACT2FN[config.hidden_act]
        segment = embeddings.token_type_embeddings.weight.detach()[0]
        self.words = embeddings.word_embeddings.weight.detach().to(dtype)
        self.places = (embeddings.position_embeddings.weight.detach() + segment).to(dtype)
        self.norm = pair(embeddings.LayerNorm)
        self.layers = [
            (
                pair(own.query, own.key, own.value),
                pair(layer.attention.output.dense),
                pair(layer.attention.output.LayerNorm),
                pair(layer.intermediate.dense),
                pair(layer.output.dense),
                pair(layer.output.LayerNorm),
            )
            for layer in network.encoder.layer
            for own in (layer.attention.self,)
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
            scores = (q * size**-0.5) @ k.transpose(2, 3)
            weights = (scores if unseen is None else scores.add_(unseen)).softmax(-1)
            mixed = (weights @ v).transpose(1, 2).reshape(-1, self.width)
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
