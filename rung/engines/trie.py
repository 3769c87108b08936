"""Picking the likeliest of a set of token sequences with as few model calls as possible.

The candidates form a trie. Decoding constrained to them restricts the model's next-token distribution
at each branching node to the node's children; a node with one child is certain and needs no call.
A candidate's probability is the product along its path, so it never exceeds that of any node above it:
expanding the likeliest open node first finds the exact argmax, usually long before every node is open.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from rung.errors import EngineError

NO_NUMBERS: Final = "the model computes no number here: its weights, or its adapter's, are too large"
Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A branching node: the tokens from the root to it, its children, and what each child leads to.

    `below[i]` is the next branching node under `children[i]`, or the index of the one candidate there.
    """

    path: Tokens
    children: Tokens
    below: tuple["Node | int", ...]


class Trie:
    """The branching nodes of a set of candidates; `root` is 0, the index, where there is only one;
    `lengths` are the candidates' tokens.

    Raises ValueError without candidates, and where two are equal or one is a prefix of another.
    """

    def __init__(self, candidates: Sequence[Tokens]):
        if not candidates:
            raise ValueError("no candidates to choose from: give at least one token sequence")
        self.size = len(candidates)
        self.lengths = tuple(map(len, candidates))
        self.single_tokens = all(len(tokens) == 1 for tokens in candidates)
        self._nodes: dict[Tokens, Node] = {}
        self.root = self._grow(candidates, list(range(len(candidates))), 0)

    @property
    def branchings(self) -> int:
        """At how many nodes candidates part; an exhaustive search asks the model about each of them."""
        return len(self._nodes)

    @property
    def deepest(self) -> int:
        """How many tokens lead to the node farthest from the root at which candidates part."""
        return max(map(len, self._nodes), default=0)

    def children(self, path: Tokens) -> Tokens:
        """The tokens that may follow `path`, which must lead to a branching node."""
        return self._nodes[path].children

    def _grow(self, candidates: Sequence[Tokens], members: list[int], depth: int) -> Node | int:
        """The first branching node under the first `depth` tokens, which all `members` share."""
        if len(members) == 1:
            return members[0]
        groups: dict[int, list[int]] = {}
        while len(groups) < 2:
            groups = {}
            for member in members:
                tokens = candidates[member]
                if len(tokens) == depth:
                    other = next(index for index in members if index != member)
                    raise ValueError(
                        f"candidate {member} {tokens!r} is equal to or a prefix of candidate {other} "
                        f"{candidates[other]!r}: end every candidate with a stop token"
                    )
                groups.setdefault(tokens[depth], []).append(member)
            depth += 1
        node = Node(
            path=tuple(candidates[members[0]][: depth - 1]),
            children=tuple(groups),
            below=tuple(self._grow(candidates, group, depth) for group in groups.values()),
        )
        self._nodes[node.path] = node
        return node


class Search:
    """Best-first search of a trie, driven by whoever can ask the model: `next`, `feed`, and again.

    Stops when the best finished candidate is at least as likely as the bound of every open node, so
    the argmax is exact; `exhaustive` opens every node, so that every candidate's probability is known.
    """

    def __init__(self, trie: Trie, *, exhaustive: bool = False):
        self._exhaustive = exhaustive
        self._logprobs = [-math.inf] * trie.size
        self._open: list[tuple[float, int, Node]] = []
        self._pushed = 0
        self._reach(trie.root, 0.0)

    def next(self) -> Tokens | None:
        """The path to the likeliest open node, whose children are asked for; None when done."""
        if not self._open:
            return None
        bound = -self._open[0][0]
        if not self._exhaustive and max(self._logprobs) >= bound:
            return None
        return self._open[0][2].path

    def feed(self, logprobs: Sequence[float]) -> None:
        """Give the log-probabilities of the children (in order) of the node that `next` named.

        They are renormalised here, so an unknown constant may be added to all of them.
        Raises ValueError if there is another number of them, EngineError if none is finite.
        """
        negative, _, node = heapq.heappop(self._open)
        total = log_sum(logprobs)
        if len(logprobs) != len(node.children):
            raise ValueError(f"no log-probabilities of {node.children!r} after {node.path!r}: {logprobs!r}")
        if not math.isfinite(total):
            raise EngineError(NO_NUMBERS)
        for below, logprob in zip(node.below, logprobs, strict=True):
            self._reach(below, logprob - total - negative)

    def result(self) -> tuple[int, tuple[float, ...]]:
        """The likeliest candidate's index and all log-probabilities; -inf below a node never opened."""
        best = max(range(len(self._logprobs)), key=self._logprobs.__getitem__)
        return best, tuple(self._logprobs)

    def _reach(self, place: Node | int, logprob: float) -> None:
        if isinstance(place, int):
            self._logprobs[place] = logprob
        else:
            heapq.heappush(self._open, (-logprob, self._pushed, place))
            self._pushed += 1


def log_sum(logprobs: Sequence[float]) -> float:
    """log Σ exp, without overflow; -inf for nothing but -inf."""
    top = max(logprobs, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(value - top) for value in logprobs))
