"""Function calls that were made beside those that were wanted, in any order."""

from collections import Counter
from collections.abc import Hashable, Sequence

from rung.records import Json
from rung.scoring.leaves import Leaf, Path, leaves, same_value
from rung.task.accepted import accepts_more


def same_calls(answer: Json, target: Json) -> float:
    """1 if the answer makes the target's calls and no others, in any order.

    A call is right by its name and its arguments as JSON values; one of the target's that accepts more is
    met by any of that.
    """
    given, wanted = _calls(answer), _calls(target)
    if not any(map(accepts_more, wanted)):
        return float(Counter(map(_counted, given)) == Counter(map(_counted, wanted)))
    return float(len(given) == len(wanted) and _all_met(given, wanted))


def form(value: Json) -> Hashable:
    """Equal for those that make the same calls, in any order."""
    return frozenset(Counter(map(_counted, _calls(value))).items())


def same_names(answer: Json, target: Json) -> float:
    """1 if both call the same functions as often, whatever the arguments."""
    return float(Counter(_name(call) for call in _calls(answer)) == Counter(map(_name, _calls(target))))


def _calls(value: Json) -> list[dict[str, Json]]:
    return [call for call in value if isinstance(call, dict)] if isinstance(value, list) else []


def _name(call: dict[str, Json]) -> str:
    return str(call.get("name"))


def _counted(call: dict[str, Json]) -> tuple[str, frozenset[tuple[Path, Leaf]]]:
    """A call as its name and the leaves of its arguments: 1 is 1.0, key order doesn't count."""
    return _name(call), frozenset(leaves(call.get("arguments")))


def _all_met(given: Sequence[dict[str, Json]], wanted: Sequence[dict[str, Json]]) -> bool:
    """Whether each wanted call has a given one of its own that meets it (augmenting paths: Kuhn 1955)."""
    meets = [[at for at, call in enumerate(given) if _meets(call, want)] for want in wanted]
    taken: dict[int, int] = {}

    def find(want: int, tried: set[int]) -> bool:
        for at in meets[want]:
            if at not in tried:
                tried.add(at)
                if at not in taken or find(taken[at], tried):
                    taken[at] = want
                    return True
        return False

    return all(find(want, set()) for want in range(len(wanted)))


def _meets(call: dict[str, Json], wanted: dict[str, Json]) -> bool:
    """Whether every argument has an accepted value, and those that are left out may be."""
    if _name(call) != _name(wanted):
        return False
    given, own = _object(call.get("arguments")), _object(wanted.get("arguments"))
    accepted, optional = _object(wanted.get("accepted")), wanted.get("optional")
    may = optional if isinstance(optional, list) else []
    if any(key not in given and key not in may for key in own):
        return False
    return all(_is_right(key, value, own, accepted) for key, value in given.items())


def _is_right(key: str, value: Json, own: dict[str, Json], accepted: dict[str, Json]) -> bool:
    if key in own and same_value(value, own[key]):
        return True
    others = accepted.get(key)
    return isinstance(others, list) and any(same_value(value, other) for other in others)


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
