"""Values as constrained decoding writes them: keys as the schema lists them, whole numbers as such."""

from rung.records import Json
from rung.task.parts import holding, local_part
from rung.task.patterns import matches

DEEPEST = 20
"""References and options that are followed from one part of a schema."""


def in_order(value: Json, schema: Json) -> Json:
    """A JSON value with its keys at any depth in the schema's order; keys that it doesn't name come last.

    A number such as 3.0 becomes a whole one where the schema asks for one, or lists the values.
    """
    return _in_order(value, schema, schema)


def _in_order(value: Json, part: Json, root: Json) -> Json:
    if not isinstance(value, list | dict | float):
        return value
    rules = rules_for(value, part, root)
    if isinstance(value, float):
        return int(value) if value.is_integer() and _is_written_whole(rules) else value
    if isinstance(value, list):
        items = zip(value, rules_of_items(rules, len(value)), strict=False)
        return [_in_order(item, rule, root) for item, rule in items]
    named = _object(rules)
    names = [k for k in named if k in value] + [k for k in value if k not in named]
    return {name: _in_order(value[name], rule_of(name, rules), root) for name in names}


def _is_written_whole(rules: dict[str, Json]) -> bool:
    """Whether a grammar writes no fraction for a whole number under these rules."""
    kinds = _kinds(rules)
    return bool(rules.keys() & {"enum", "const"}) or ("integer" in kinds and "number" not in kinds)


def names_keys(rules: dict[str, Json]) -> bool:
    """Whether the rules of an object name any of its keys."""
    return bool(_object(rules))


def rules_of_items(rules: dict[str, Json], count: int) -> list[Json]:
    """The parts for so many items of a list, one each at least."""
    first = rules.get("prefixItems")
    parts = list(first) if isinstance(first, list) else []
    return parts + [rules.get("items")] * (count - len(parts))


def rule_of(name: str, rules: dict[str, Json]) -> Json:
    """The part for a key: that of its name or of a pattern that it matches, else that of all others."""
    named = _object(rules)
    if name in named:
        return named[name]
    patterns = rules.get("patternProperties")
    for pattern, part in patterns.items() if isinstance(patterns, dict) else ():
        if matches(pattern, name):
            return part
    return rules.get("additionalProperties")


def rules_for(value: Json, part: Json, root: Json) -> dict[str, Json]:
    """What a part of the schema `root` says of a value: references followed, the first option that fits."""
    return _rules_for(value, part, root, {})


def _rules_for(
    value: Json, part: Json, root: Json, known: dict[int, dict[str, Json]], depth: int = 0
) -> dict[str, Json]:
    """The schema's part for this value: references followed, the first option taken that it fits.

    `known` are the parts that were looked at for it, by id: options may lead to the same ones over and over.
    """
    if not isinstance(part, dict) or depth > DEEPEST:
        return part if isinstance(part, dict) else {}
    if id(part) not in known:
        known[id(part)] = part
        known[id(part)] = _followed(value, part, root, known, depth + 1)
    return known[id(part)]


def _followed(
    value: Json, part: dict[str, Json], root: Json, known: dict[int, dict[str, Json]], depth: int
) -> dict[str, Json]:
    """What holds beside a part comes before it: what it refers to, then what allOf, oneOf and anyOf name.

    What only those options name that weren't taken comes last.
    """
    rules = part
    for key in ("anyOf", "oneOf", "allOf"):
        options = part.get(key)
        if isinstance(options, list):
            found = [_rules_for(value, option, root, known, depth) for option in options]
            fitting = [one for one in found if _fits(value, one)]
            for one in reversed(fitting if key == "allOf" else fitting[:1]):
                rules = _both(one, rules)
    if isinstance(part.get("$ref"), str):
        target = local_part(str(part["$ref"]), root)
        rules = _both(_rules_for(value, target, root, known, depth), rules)
    if isinstance(value, dict) and rules is not part:
        named = _object(rules)
        for one in holding(part, root):
            named = {**named, **{name: rule for name, rule in _object(one).items() if name not in named}}
        rules = {**rules, "properties": named}
    return rules


def _both(first: dict[str, Json], rules: dict[str, Json]) -> dict[str, Json]:
    """Two parts that hold for one value; what both say is the second's, but that of a property is both's."""
    one, other = _object(first), _object(rules)
    shared: dict[str, Json] = {
        name: {"allOf": [one[name], other[name]]}
        for name in one
        if name in other and one[name] != other[name]
    }
    return {**first, **rules, "properties": {**one, **other, **shared}}


def _fits(value: Json, rules: dict[str, Json]) -> bool:
    """Whether a value could be meant by these rules: a list by its type, an object by its keys too.

    Of numbers a float is looked at alone.
    """
    kinds = _kinds(rules)
    if kinds and isinstance(value, list | dict | float):
        if isinstance(value, float):
            possible = {"number", "integer"} if value.is_integer() else {"number"}
        else:
            possible = {"array" if isinstance(value, list) else "object"}
        if possible.isdisjoint(map(str, kinds)):
            return False
    if not isinstance(value, dict):
        return True
    required = rules.get("required")
    closed = rules.get("additionalProperties") is False and not rules.get("patternProperties")
    return set(required if isinstance(required, list) else ()) <= value.keys() and (
        not closed or value.keys() <= _object(rules).keys()
    )


def _kinds(rules: dict[str, Json]) -> list[Json]:
    kind = rules.get("type", [])
    return kind if isinstance(kind, list) else [kind]


def _object(rules: dict[str, Json]) -> dict[str, Json]:
    found = rules.get("properties")
    return found if isinstance(found, dict) else {}
