"""Loss and gradient of rows that are filled up to few shapes, each of which a GPU records once and replays.

A step starts thousands of small kernels, and starting them takes a processor several times as long as a small
model's kernels take a GPU. A CUDA graph is started at once. What it reads stands at fixed places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rung.engines.layout import ROUND, Pack, Shape, pack, up
from rung.engines.packed import Packed
from rung.training import losses
from rung.training.batches import Row

TOKEN_PARTS, OTHER_PARTS = 8, 4
"""Tokens are filled up by an eighth at most, a sixteenth on average; slots and targets, which cost less, by a
quarter: few shapes."""
EAGER_RUNS = 2
"""Of a shape before it's recorded, which takes as long as some of them."""
MOST_GRAPHS = 48
"""All share one pool of memory, but each has its thousands of nodes."""


@dataclass(kw_only=True)
class _Held:
    """A shape's inputs where the passes read them, the graph of these, and how often they ran."""

    pack: Pack
    indices: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    loss: Tensor
    runs: int = 0
    graph: Any = None


class Graphs:
    """Adds the gradients of `parameters` to a flat one, in turn. On a CPU nothing is recorded."""

    def __init__(self, made: Packed, parameters: Sequence[Tensor], slope: Tensor) -> None:
        self.made, self.parameters, self.slope = made, list(parameters), slope
        self._held: dict[tuple[int | tuple[int, int], ...], _Held] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if made.device.type == "cuda" else None

    def add(self, rows: Sequence[Row], shared: int, share: float) -> float:
        """The completion loss of rows that share `shared` tokens, times `share`; its gradient is added."""
        once = _filled(rows, shared)
        numbers, columns, targets = losses.completion_targets(rows)
        places = once.places(numbers.tolist(), (columns - shared).tolist())
        size = min(grid(len(places), OTHER_PARTS), len(once.ids))
        key = (len(once.ids), *once.groups, shared, size)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._hold(once, size)
        more = size - len(places)
        # Fillings of the targets weigh nothing, and no token may stand there twice.
        left = torch.ones(len(once.ids), dtype=torch.bool)
        left[places] = False
        places = torch.cat([places, left.nonzero()[:more, 0]])
        targets = torch.cat([targets, targets.new_zeros(more)])
        held.indices.copy_(torch.cat([*_indices(once), places, targets]))
        held.weights[: size - more].fill_(share / (size - more))
        held.weights[size - more :].zero_()
        held.runs += 1
        if held.graph is None and self._worth_recording(held):
            held.graph = self._recorded(held)
        if held.graph is None:
            self._pass(held)
        else:
            held.graph.replay()
        return float(held.loss)

    def _worth_recording(self, held: _Held) -> bool:
        # A block that runs again on the way back looks at the random numbers' state, which no graph can.
        recorded = sum(one.graph is not None for one in self._held.values())
        fits = len(held.pack.ids) <= self.made.room and recorded < MOST_GRAPHS
        return self._pool is not None and held.runs > EAGER_RUNS and fits

    def _recorded(self, held: _Held) -> Any:
        """The graph of a pass, which doesn't run here; None, now and later, where none can be made."""
        try:
            graph = torch.cuda.CUDAGraph()
            with (
                torch.cuda.device(self.made.device),  # whose streams record, were another one the first
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                self._pass(held)
        except RuntimeError:
            # A driver or an operation that can't be recorded: the passes go on as they are.
            self._pool = None
            return None
        return graph

    def _hold(self, once: Pack, size: int) -> _Held:
        device, weight = self.made.device, self.made.model.lm_head.weight
        kind = torch.promote_types(weight.dtype, torch.float32)
        sizes = [*map(len, _indices(once)), size, size]
        indices = torch.zeros(sum(sizes), dtype=torch.long, device=device)
        ids, positions, tokens, slots, places, targets = indices.split(sizes)
        return _Held(
            pack=replace(once, ids=ids, positions=positions, tokens=tokens, slots=slots, _masks={}),
            indices=indices,
            places=places,
            targets=targets,
            weights=torch.zeros(size, dtype=kind, device=device),
            loss=torch.zeros((), dtype=kind, device=device),
        )

    def _pass(self, held: _Held) -> None:
        with torch.enable_grad():
            hidden = self.made.hidden(held.pack, held.places)
            head = self.made.model.lm_head
            loss = losses.completion_loss(hidden, head, held.targets, held.weights)
            found = torch.autograd.grad(loss, self.parameters)
        self.slope.add_(torch.cat([part.reshape(-1) for part in found]))
        held.loss.copy_(loss.detach())


def grid(size: int, parts: int) -> int:
    """The size that a size is filled up to: a `parts`th more at most, but for the smallest."""
    return up(size, _step(size, parts))


def _step(size: int, parts: int) -> int:
    return max(ROUND, 1 << max(0, (size // parts).bit_length() - 1))


def _filled(rows: Sequence[Row], shared: int) -> Pack:
    """The rows as a pack on the CPU, in one of few shapes."""
    own = [(*row.prompt[shared:], *row.answer[:-1]) for row in rows]
    longest = grid(max(map(len, own)), OTHER_PARTS)
    total = shared + sum(map(len, own))
    lines = len(own) + -(-_step(total, TOKEN_PARTS) // longest)
    shape = Shape(tokens=grid(total, TOKEN_PARTS), rows=lines, longest=longest)
    return pack(own, torch.device("cpu"), prefix=rows[0].prompt[:shared], shape=shape)


def _indices(once: Pack) -> list[Tensor]:
    return [once.ids, once.positions, once.tokens, once.slots]
