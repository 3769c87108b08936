"""What each row is drawn with: the rows of its group, and those that ask the same thing."""

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b

from rung.records import Example


def question(example: Example) -> tuple[str, str]:
    """What is asked, without differences that don't matter: NFKC, case and white space are folded."""
    return normalised(example.input), normalised(example.context or "")


def normalised(text: str) -> str:
    """NFKC, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def drawn_with(examples: Sequence[Example]) -> dict[str, str]:
    """By the ids of rows that are drawn with others: the id of the first row that each is drawn with.

    A split keeps a question and a group on one side, with all their rows: one draw, however many these are,
    and so are a group's rows with all that ask what any of them does. Rows that are drawn alone aren't there.
    """
    # Of a long question a hash of 128 bits is kept, as where rows are split.
    asked = (blake2b("\n".join(question(e)).encode(), digest_size=16).digest() for e in examples)
    roots = connected(first_places(asked), first_places(e.group for e in examples))
    rows = Counter(roots)
    return {e.id: examples[root].id for e, root in zip(examples, roots, strict=True) if rows[root] > 1}


def count_draws(examples: Sequence[Example]) -> int:
    """How many draws these rows are."""
    drawn = drawn_with(examples)
    return len({drawn.get(e.id, e.id) for e in examples})


def named_draws(examples: Sequence[Example]) -> dict[str, str]:
    """By the ids of all rows the name of the draw that each is of, the same for any order of the rows.

    A row goes by its group, or by its id where it has none; a draw by the first of its rows' names.
    """
    drawn, names = drawn_with(examples), dict[str, str]()
    for example in examples:
        draw, own = drawn.get(example.id, example.id), example.group or example.id
        names[draw] = min(names.get(draw, own), own)
    return {e.id: names[drawn.get(e.id, e.id)] for e in examples}


def first_places(keys: Iterable[Hashable | None]) -> list[int]:
    """For each key the place of the first one that equals it; None equals none."""
    first: dict[Hashable, int] = {}
    return [at if key is None else first.setdefault(key, at) for at, key in enumerate(keys)]


def connected(*links: Sequence[int]) -> list[int]:
    """For each place the first one that it's connected with, where `links` say of each which it belongs with.

    Union-find with path halving; the first of a component is its root.
    """
    parent = list(range(len(links[0])))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for other in links:
        for at, to in enumerate(other):
            one, two = root(at), root(to)
            parent[max(one, two)] = min(one, two)
    return [root(at) for at in range(len(parent))]
