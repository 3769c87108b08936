"""The fields that two JSON values share: the objects of a list are matched one to one."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeAlias

from rung.records import Json
from rung.scoring.leaves import Leaf, Path, leaf

MOST_PAIRS = 250_000
"""Fields of one list's items times those of the other's, up to which the best matching is sought."""

Part: TypeAlias = "dict[str, Part] | list[Part] | Leaf"
"""A value with leaves as they are compared; an empty object or list is one, too."""


def parts(value: Json) -> Part:
    """A value to compare: text without regard to case and spacing, 1 as 1.0 but not as true."""
    if isinstance(value, dict) and value:
        return {key: parts(item) for key, item in value.items()}
    if isinstance(value, list) and value:
        return [parts(item) for item in value]
    sort, found = leaf(value)
    return sort, spaced(found).casefold() if isinstance(found, str) else found


def spaced(text: str) -> str:
    """NFC, with each run of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def form(part: Part) -> Hashable:
    """Equal for those that share all their fields, whatever the order of keys and items."""
    if isinstance(part, dict):
        return frozenset((key, form(inner)) for key, inner in part.items())
    if isinstance(part, list):
        return frozenset(Counter(map(form, part)).items())
    return part


def count(part: Part) -> int:
    """How many fields there are: the leaves."""
    return sum(1 for _ in _fields(part))


def shared(one: Part, other: Part) -> int:
    """The most fields that both have, of the same value and at the same place.

    Items of lists have no order. An object or list among them is matched with one of the other side: its
    fields can't be had from several.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return sum(shared(part, other[key]) for key, part in one.items() if key in other)
    if isinstance(one, list) and isinstance(other, list):
        return _in_lists(one, other)
    return int(one == other)


def _in_lists(ones: Sequence[Part], others: Sequence[Part]) -> int:
    """Equal items go together first, and the rest is matched, objects with objects and lists with lists.

    No other matching shares more. If one of two equal items goes with a first and the other with a second,
    the first and the second share with each other what the pairs share beyond the fields of one such item.
    """
    forms = [list(map(form, side)) for side in (ones, others)]
    same = Counter(forms[0]) & Counter(forms[1])
    left, right = (_without(side, own, same) for side, own in zip((ones, others), forms, strict=True))
    found = sum(map(count, ones)) - sum(map(count, left))
    for sort in (dict, list):
        found += _matched(*([part for part in side if isinstance(part, sort)] for side in (left, right)))
    return found


def _without(items: Sequence[Part], forms: Sequence[Hashable], same: Counter[Hashable]) -> list[Part]:
    """The items that are left when so many of each form are taken out."""
    taken, kept = Counter(same), []
    for item, own in zip(items, forms, strict=True):
        if taken[own]:
            taken[own] -= 1
        else:
            kept.append(item)
    return kept


def _matched(ones: Sequence[Part], others: Sequence[Part]) -> int:
    """The fields shared by items of which each goes with one of the other side at most.

    The assignment that shares the most (Kuhn 1955; Crouse 2016), so that it makes the best F1 of the whole.
    """
    if not ones or not others:
        return 0
    if len(ones) == len(others) == 1:
        return shared(ones[0], others[0])
    if sum(map(count, ones)) * sum(map(count, others)) > MOST_PAIRS:
        return sum(shared(ones[at], others[to]) for at, to in _by_rarest(ones, others))
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    gains = np.array([[shared(one, other) for other in others] for one in ones])
    return int(gains[linear_sum_assignment(gains, maximize=True)].sum())


def _by_rarest(ones: Sequence[Part], others: Sequence[Part]) -> list[tuple[int, int]]:
    """The places of items to go together, of very many: those that have the rarest fields in common first.

    A number or a name that few have tells which items are meant. The order of the items doesn't matter.
    """
    having = [_places(items) for items in (ones, others)]
    common = having[0].keys() & having[1].keys()
    rarest = sorted((len(having[0][one]) * len(having[1][one]), repr(one), one) for one in common)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, one in rarest:
        free = [at for at in having[0][one] if at not in pairs]
        wanted = [to for to in having[1][one] if to not in taken]
        for at, to in zip(free, wanted, strict=False):
            pairs[at] = to
            taken.add(to)
    return list(pairs.items())


def _places(items: Sequence[Part]) -> dict[tuple[Path, Leaf], list[int]]:
    """Which items have a field, by field; the items in an order of their own."""
    found = defaultdict(list)
    fields = [sorted(set(_fields(item)), key=repr) for item in items]
    for at in sorted(range(len(items)), key=lambda at: repr(fields[at])):
        for one in fields[at]:
            found[one].append(at)
    return found


def _fields(part: Part, path: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    """Each leaf with its path, on which the items of a list all have the same place."""
    if isinstance(part, dict):
        for key, inner in part.items():
            yield from _fields(inner, (*path, key))
    elif isinstance(part, list):
        for inner in part:
            yield from _fields(inner, (*path, 0))
    else:
        yield path, part
