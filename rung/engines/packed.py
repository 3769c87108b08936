"""Rows without padding: all tokens of a batch in one line, a prefix that the rows share run once.

Linear layers, norms and gates see [tokens, width]; attention alone knows of rows. The blocks are those of
transformers' Llama family (Llama, SmolLM, Mistral, Qwen 2 and 3, Gemma 3; not where scores are capped),
recognised by their parts and proved against transformers' own forward pass before they are used.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rung.engines import attention, fused
from rung.engines.layout import Pack, pack
from rung.engines.lora import LoraLinear, gained, gains
from rung.engines.parallel import portion, workers
from rung.engines.room import free_bytes
from rung.engines.rows import Network, attention_windows
from rung.engines.storage import stacked
from rung.memory import give_back

SHORT_ROWS = 96
"""Up to this many tokens a row's attention is taken at once, beyond in blocks."""
READ_TOKENS = 1024
"""Tokens that are read at once: more fall out of the processor's caches."""
KEPT_TOKENS = 4096
"""With more tokens than this in a call on a CPU, and anywhere with more than free memory holds, a block keeps
its input alone and runs again on the way back."""
KEPT_SHARE = 0.5
"""Of the free memory, for what is kept for the way back."""

Memory: TypeAlias = list[attention.Pair]
"""Keys and values by layer: [key heads, tokens, size] of a prefix, [rows, key heads, slots, size] of rows."""

Angles: TypeAlias = tuple[Tensor, Tensor]
Mix: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Attention: turned queries and keys [tokens, query and key heads, size] and values [tokens, key heads, size]
to mixed values [tokens, query heads · size]."""
Keep: TypeAlias = Callable[[Tensor, Tensor], None]
"""Takes a layer's keys and values [rows, key heads, slots, size], layer after layer."""


def size_of(memory: Memory | None) -> int:
    """How many tokens a prefix's memory holds."""
    return memory[0][0].shape[1] if memory else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Linear layers that read the same input, their weights in one tensor [outputs, in].

    They are looked up in `parent` at every call: an adapter may be attached at any time.
    """

    frozen: fused.Weights
    parent: Any
    names: tuple[str, ...]

    def __call__(self, x: Tensor, entry: fused.Entry = fused.AS_IT_IS) -> Tensor:
        slices, matrices, start = [], [], 0
        members = [getattr(self.parent, name) for name in self.names]
        for member in members:
            if isinstance(member, LoraLinear):
                slices.append(fused.Slice(start=start, end=start + len(member.weight), scale=member.scale))
                matrices += [member.lora_a, member.lora_b]
            start += len(member.weight)
        if (gain := gains(members)) is None:
            return fused.linear(x, self.frozen, slices, matrices, entry)
        out = fused.linear(x, self.frozen.unbiased, slices, matrices, entry)
        return gained(out, gain, self.frozen.bias)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One decoder block in parts. `kind` names its kind of attention, "" where there is but one."""

    before: fused.Norm
    qkv: _Group
    q_norm: fused.Norm | None
    k_norm: fused.Norm | None
    out: _Group
    after_attention: fused.Norm | None
    between: fused.Norm
    gate_up: _Group
    activation: str
    down: _Group
    after_mlp: fused.Norm | None
    heads: int
    key_heads: int
    scale: float
    window: int | None
    kind: str


class Packed:
    """A causal language model's decoder over packs. It shares the model's weights and LoRA layers."""

    def __init__(self, model: Network, blocks: Sequence[Block], norm: fused.Norm) -> None:
        self.model, self.blocks, self.norm = model, blocks, norm
        self.windows = {block.window for block in blocks}
        self.device: torch.device = model.lm_head.weight.device

    @cached_property
    def room(self) -> int:
        """For how many tokens of a call all that the way back needs may be kept.

        It hangs on the memory that is free when it's first asked for; a gradient's bits don't hang on it.
        """
        held = self._free // sum(map(_kept_bytes, self.blocks)) // workers(self.device)
        return max(1, held if self.device.type == "cuda" else min(KEPT_TOKENS, held))

    def beside(self, tokens: int) -> int:
        """How many calls of up to so many tokens memory holds side by side with their way back; 1 at least.

        Those whose blocks run again keep the blocks' inputs, and of one block all that it needs.
        """
        most = workers(self.device)
        if tokens <= self.room:
            return most
        inputs = sum(2 * block.before.weight.nbytes for block in self.blocks)
        each = inputs + 2 * max(map(_kept_bytes, self.blocks))
        return max(1, min(most, self._free // (tokens * each)))

    @cached_property
    def _free(self) -> int:
        """Bytes for what is kept for the way back."""
        give_back()  # or what an earlier run let go of would seem to be in use
        return int(KEPT_SHARE * free_bytes(self.device))

    def hidden(
        self, pack: Pack, places: Tensor, memory: Memory | None = None, keep: Keep | None = None
    ) -> Tensor:
        """Normed states [places, width] of a pack's tokens.

        `memory` holds the tokens before the pack; `keep` takes each layer's keys and values of its first
        group, which all rows given are in.
        """
        total: Tensor = self.model.model.embed_tokens(pack.ids)
        angles = self.angles(total, pack.positions)
        delta: Tensor | None = None
        last = len(self.blocks) - 1
        again = torch.is_grad_enabled() and len(pack.ids) > self.room
        for number, block in enumerate(self.blocks):
            before = memory[number] if memory else None
            mix = partial(_mixed, block, pack, before, None if again else keep)
            inputs = (block, total, delta, angles[block.kind], mix, places if number == last else None)
            if again:
                total, delta = checkpoint(through, *inputs, use_reentrant=False)  # type: ignore[misc]
            else:
                total, delta = through(*inputs)
        return fused.add_norm(total, delta, self.norm)[1]

    def last(self, rows: Sequence[Sequence[int]], memory: Memory | None = None) -> Tensor:
        """Normed states [rows, width] after each row."""
        return torch.cat([self._read(part, memory, None) for part in self._portions(rows)])

    def read(self, rows: Sequence[Sequence[int]], memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Normed states [rows, width] after each row, and keys and values [rows, key heads, longest, size].

        What they hold beyond a row's own tokens means nothing.
        """
        longest, first, states = max(map(len, rows)), 0, []
        whole: Memory = []
        for part in self._portions(rows):
            into = _kept_in(whole, slice(first, first + len(part)), len(rows), longest)
            states.append(self._read(part, memory, into))
            first += len(part)
        return torch.cat(states), whole

    def _portions(self, rows: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
        """The rows in portions of about `READ_TOKENS` tokens."""
        most = portion(READ_TOKENS, self.device)
        cut, total = [0], 0
        for place, row in enumerate(rows):
            if total and total + len(row) > most:
                cut.append(place)
                total = 0
            total += len(row)
        return [rows[first:last] for first, last in pairwise([*cut, len(rows)])]

    def _read(self, rows: Sequence[Sequence[int]], memory: Memory | None, keep: Keep | None) -> Tensor:
        one = pack(rows, self.device, known=size_of(memory), together=keep is not None)
        return self.hidden(one, one.ends(), memory, keep)

    def angles(self, like: Tensor, positions: Tensor) -> dict[str, Angles]:
        """cos and sin [tokens, 1, size] by kind of attention, of the type of `like`."""
        rotary, found = self.model.model.rotary_emb, {}
        by_kind = "layer_type" in inspect.signature(rotary.forward).parameters
        for kind in {block.kind for block in self.blocks}:
            cos, sin = rotary(like[None], positions[None], *([kind] if by_kind else []))
            found[kind] = (cos[0, :, None], sin[0, :, None])
        return found


def _kept_in(whole: Memory, part: slice, rows: int, longest: int) -> Keep:
    """Copies each layer's keys and values of a `part` of the rows into `whole` as they are made.

    Held until all layers are read they would be there twice, beside the queries that they were made with.
    """
    layers = count()

    def keep(*made: Tensor) -> None:
        number = next(layers)
        if number == len(whole):
            shape = (rows, made[0].shape[1], longest, made[0].shape[3])
            whole.append((made[0].new_zeros(shape), made[1].new_zeros(shape)))
        for into, some in zip(whole[number], made, strict=True):
            room = min(longest, some.shape[2])
            into[part, :, :room] = some[: part.stop - part.start, :, :room]

    return keep


def through(
    block: Block, total: Tensor, delta: Tensor | None, angles: Angles, mix: Mix, places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A block's residual and what is still to be added to it; of the tokens at `places` alone if given."""
    total, normed, entry = fused.add_norm_for(total, delta, block.before)
    mixed = mix(*_projected(block, block.qkv(normed, entry), angles))
    if places is not None:
        total, mixed = fused.pick(total, places), fused.pick(mixed, places)
    mixed = block.out(mixed)
    if block.after_attention is not None:
        mixed = fused.add_norm(mixed, None, block.after_attention)[1]
    total, normed, entry = fused.add_norm_for(total, mixed, block.between)
    widened = block.down(block.gate_up(normed, entry), fused.Entry(activation=block.activation))
    if block.after_mlp is not None:
        widened = fused.add_norm(widened, None, block.after_mlp)[1]
    return total, widened


def _projected(block: Block, mixed: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
    """Turned queries and keys, and values, of all three of flat tokens [tokens, widths]."""
    both = block.heads + block.key_heads
    mixed = mixed.view(len(mixed), both + block.key_heads, -1)
    turning, values = mixed.split([both, block.key_heads], 1)
    if block.q_norm is not None and block.k_norm is not None:
        queries, keys = turning.split([block.heads, block.key_heads], 1)
        queries = fused.add_norm(queries, None, block.q_norm)[1]
        turning = torch.cat([queries, fused.add_norm(keys, None, block.k_norm)[1]], 1)
    return fused.rotate(turning, *angles), values


def _mixed(
    block: Block,
    pack: Pack,
    memory: attention.Pair | None,
    keep: Keep | None,
    turned: Tensor,
    values: Tensor,
) -> Tensor:
    """Attention of a pack's flat tokens."""
    if not pack.prefix:
        return _own(block, pack, memory, keep, turned, values)
    sizes = [pack.prefix, len(turned) - pack.prefix]
    (first, turned), (first_values, values) = turned.split(sizes), values.split(sizes)
    once, keys, old = _rows(block, first, first_values, pack, pack.prefix, None, None)
    return torch.cat([once, _own(block, pack, (keys[0], old[0]), keep, turned, values)])


def _own(
    block: Block,
    pack: Pack,
    before: attention.Pair | None,
    keep: Keep | None,
    turned: Tensor,
    values: Tensor,
) -> Tensor:
    """Attention of the tokens of a pack's rows, group by group, to each other and to `before`."""
    slots = [rows * longest for rows, longest in pack.groups]
    turned, values = (fused.fill(t, pack.tokens, pack.slots) for t in (turned, values))
    cut = zip(turned.split(slots), values.split(slots), pack.groups, strict=True)
    found = [
        _rows(block, own, own_values, pack, longest, before, None if number else keep)[0]
        for number, (own, own_values, (_, longest)) in enumerate(cut)
    ]
    return fused.pick(torch.cat(found) if len(found) > 1 else found[0], pack.slots)


def _rows(  # noqa: PLR0913 (what attention needs)
    block: Block,
    turned: Tensor,
    values: Tensor,
    pack: Pack,
    size: int,
    before: attention.Pair | None,
    keep: Keep | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention within rows of `size` slots each, and to `before`, which all of them see.

    turned [slots, query and key heads, width], values [slots, key heads, width] → the mixed values [slots,
    query heads · width], and the keys and values by row.
    """
    turned, values = (t.unflatten(0, (-1, size)).transpose(1, 2) for t in (turned, values))
    queries, keys = turned.split([block.heads, block.key_heads], 1)
    own = keys, values
    if keep is not None:
        keep(keys, values)
    ahead = 0
    if before is not None:
        ahead = before[0].shape[1]
    added = pack.seen(ahead, size, block.window, turned.dtype)
    if size > SHORT_ROWS and turned.is_cuda:
        mixed = attention.attend_by_kernel(queries, own, before, added, block.scale, block.window)
    elif size > SHORT_ROWS:
        if before is not None:
            keys, values = (
                torch.cat([old.expand(len(new), *old.shape), new], 2)
                for old, new in zip(before, own, strict=True)
            )
        kv = keys.reshape(-1, *keys.shape[2:]), values.reshape(-1, *values.shape[2:])
        grouped = queries.unflatten(1, (block.key_heads, -1))
        mixed = attention.attend_in_blocks(grouped, kv, added, block.scale, block.window)
    else:
        grouped = queries.reshape(len(queries) * block.key_heads, -1, queries.shape[-1])
        kv = keys.flatten(0, 1), values.flatten(0, 1)
        mixed = attention.attend(grouped, kv, before, added, block.scale)
    mixed = mixed.reshape(len(queries), block.heads, size, -1)
    return mixed.transpose(1, 2).reshape(len(mixed) * size, -1), *own


def packed(model: Network) -> Packed | None:
    """The model over packs, or None where its parts, or what comes out of them, aren't as expected.

    Weights that belong together are moved into one tensor; the model's own modules go on reading them there.
    """
    # What is made for answering must do for training: nothing that only inference knows.
    with torch.inference_mode(False):
        try:
            windows = attention_windows(model.config)
            blocks = [_block(layer, windows) for layer in model.model.layers]
            norm = _norm(model.model.norm)
        except _UnknownError:
            return None
        made = Packed(model, blocks, norm)
        return made if _same_as_the_model(made) else None


class _UnknownError(Exception):
    """A part that isn't known here."""


def _block(layer: Any, windows: dict[str, int | None]) -> Block:
    mixer, mlp = _part(layer, "self_attn"), _part(layer, "mlp")
    config = mixer.config
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    kinds = getattr(config, "layer_types", None)
    kind = kinds[mixer.layer_idx] if kinds else ""
    capped = getattr(config, "attn_logit_softcapping", None)
    if activation not in fused.ACTIVATIONS or capped is not None or kind not in windows:
        raise _UnknownError
    sandwiched = hasattr(layer, "pre_feedforward_layernorm")
    between = "pre_feedforward_layernorm" if sandwiched else "post_attention_layernorm"
    normed = hasattr(mixer, "q_norm")
    queries, keys = (len(_part(mixer, name).weight) for name in ("q_proj", "k_proj"))
    size = mixer.head_dim
    return Block(
        before=_norm(_part(layer, "input_layernorm")),
        qkv=_together(mixer, "q_proj", "k_proj", "v_proj"),
        q_norm=_norm(mixer.q_norm) if normed else None,
        k_norm=_norm(mixer.k_norm) if normed else None,
        out=_together(mixer, "o_proj"),
        after_attention=_norm(layer.post_attention_layernorm) if sandwiched else None,
        between=_norm(_part(layer, between)),
        gate_up=_together(mlp, "gate_proj", "up_proj"),
        activation=activation,
        down=_together(mlp, "down_proj"),
        after_mlp=_norm(_part(layer, "post_feedforward_layernorm")) if sandwiched else None,
        heads=queries // size,
        key_heads=keys // size,
        scale=float(mixer.scaling),
        window=windows[kind],
        kind=kind,
    )


def _kept_bytes(block: Block) -> int:
    """About what the way back of a block keeps for a token of a short row."""
    width, wide = block.before.weight.shape[0], len(block.gate_up.frozen.weight)
    projected = len(block.qkv.frozen.weight)
    numbers = 6 * width + 3 * projected + wide + SHORT_ROWS * block.heads
    return numbers * block.qkv.frozen.weight.element_size()


def _part(module: Any, name: str) -> Any:
    found = getattr(module, name, None)
    if found is None or getattr(found, "blocks", None) is not None:
        raise _UnknownError
    return found


def _norm(module: nn.Module) -> fused.Norm:
    found = fused.recognised(module)
    if found is None:
        raise _UnknownError
    return found


def _together(parent: Any, *names: str) -> _Group:
    """Linear layers as one, each one's weight a part of the whole from now on."""
    members = [_part(parent, name) for name in names]
    if not all(isinstance(member, (nn.Linear, LoraLinear)) for member in members):
        raise _UnknownError
    whole = stacked([member.weight for member in members])
    bias = torch.cat([_bias(m) for m in members]) if any(m.bias is not None for m in members) else None
    return _Group(frozen=fused.Weights(weight=whole, bias=bias), parent=parent, names=names)


def _bias(member: Any) -> Tensor:
    found = member.bias
    return member.weight.new_zeros(len(member.weight)) if found is None else found.detach()


@torch.no_grad()
def _same_as_the_model(made: Packed) -> bool:
    """Whether two rows, one with the other as its prefix, get the states that transformers gives them."""
    vocabulary = made.model.lm_head.weight.shape[0]
    rows = [[(7 * i + 3) % vocabulary for i in range(size)] for size in (13, 9)]
    batch = pack([row[5:] for row in rows], made.device, prefix=rows[0][:5])
    ours = made.hidden(batch, batch.ends()).float()
    for row, state in zip(rows, ours, strict=True):
        whole = made.model.model(torch.tensor([row], device=made.device), use_cache=False)
        theirs = whole.last_hidden_state[0, -1].float()
        if functional.cosine_similarity(state, theirs, dim=0) < 0.999:
            return False
    return True
