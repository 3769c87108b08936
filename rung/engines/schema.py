"""JSON Schemas as constraints: which can be kept to the letter, and in what form.

llama.cpp here is built with llguidance, which the torch engine uses too. llguidance says which keywords
it can't enforce, but llama.cpp then drops the whole constraint without a word (with `not`, free text
came back). So every schema is checked before it is sent.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from rung.errors import EngineError
from rung.records import Json
from rung.task.schemas import LISTS, MAPS, SINGLE

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
END = 261
"""The token that ends a text in llguidance's vocabulary of single bytes."""
MOST_SUBSCHEMAS = 1_000
"""Of a schema that comes with a request."""
MOST_VALUES = 10_000
"""The same of everything in it: entries of lists and objects, and these themselves."""
MOST_FAULTS = 5
"""Parts that are named of those that can't be enforced."""
SEARCHED = 1 << 20
"""Characters of JSON that are given to llguidance to find these parts."""


def require_small(schema: Json) -> None:
    """Raise EngineError for a schema so large that looking through it would take long."""
    count = sum(1 for _ in islice(subschemas(schema), MOST_SUBSCHEMAS + 1))
    if count > MOST_SUBSCHEMAS:
        raise EngineError(f"the schema has more than {MOST_SUBSCHEMAS:,} subschemas: write a smaller one")
    if sum(1 for _ in islice(_values(schema), MOST_VALUES + 1)) > MOST_VALUES:
        raise EngineError(f"the schema holds more than {MOST_VALUES:,} values: write a smaller one")


def check_schema(schema: Json) -> tuple[str, ...]:
    """What can't be enforced of `schema`, the first few parts with their paths; empty when all of it can.

    A path is a JSON pointer, `#/properties/total`; the message names the keyword.
    """
    loose = (
        f"{path}: {message}"
        for path, part in subschemas(schema)
        for message in (_repeated_keys(part), _excluded_bound(part))
        if message is not None
    )
    whole = _complaint(json.dumps(schema))
    refused = () if whole is None else _refused(schema, whole)
    return tuple(islice((*refused, *islice(loose, MOST_FAULTS)), MOST_FAULTS))


def require_schema(schema: Json) -> None:
    """Raise EngineError naming what of `schema` can't be enforced."""
    faults = check_schema(schema)
    if faults:
        raise EngineError(
            "the answers can't be held to this JSON Schema: "
            + "; ".join(faults)
            + ". Take these keywords out and check them on the finished answer instead"
        )


def require_harmless_stops(stops: Sequence[str]) -> None:
    """Raise EngineError for a stop string that compact JSON may hold: an answer would be cut there.

    Compact JSON holds no control characters: in strings they are escaped, and there is no free white space.
    """
    for stop in stops:
        if not any(character < " " for character in stop):
            raise EngineError(
                f"the stop string {stop!r} may occur inside an answer under a JSON Schema and would cut it: "
                "leave it out, such an answer ends by itself"
            )


def grammar(schema: Json, ends: Sequence[int] = ()) -> str:
    """`schema` as llama.cpp takes it, in llguidance's syntax and in the tight form.

    One of the tokens `ends` may come where the answer is whole. llama.cpp itself lets a single one of a
    vocabulary's end tokens through there, not always that which the model was taught, and a number, which
    could always go on, then does.
    """
    value = "%json " + json.dumps(tight(schema))
    if not ends:
        return f"%llguidance {{}}\nstart: {value}"
    tokens = ",".join(map(str, sorted(set(ends))))
    return f"%llguidance {{}}\nstart: value end\nend: <[{tokens}]> |\nvalue: {value}"


def tight(schema: Json) -> Json:
    """`schema` with what small models fill without end taken away: free white space, unnamed properties.

    Every answer to the tight schema is one to `schema` too. White space is off altogether (compact
    JSON). An object that names properties admits no others unless it says so; all stay open in a schema
    that combines objects by allOf, or by $ref, anyOf or oneOf beside properties.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        return schema
    combined = any(
        "allOf" in part or len(part.keys() & {"$ref", "anyOf", "oneOf", "properties"}) > 1
        for _, part in subschemas(schema)
    )
    closed = schema if combined else _close(schema)
    return {**closed, "x-guidance": {"whitespace_flexible": False}}


def _close(schema: dict[str, Json]) -> dict[str, Json]:
    result = {**schema}
    for key in MAPS:
        named = schema.get(key)
        if isinstance(named, dict):
            result[key] = {name: _closed(part) for name, part in named.items()}
    for key in LISTS:
        parts = schema.get(key)
        if isinstance(parts, list):
            result[key] = [_closed(part) for part in parts]
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = _closed(schema[key])
    named, required = schema.get("properties"), schema.get("required", [])
    open_ended = schema.keys() & {"additionalProperties", "patternProperties", "minProperties"}
    if isinstance(named, dict) and isinstance(required, list) and not open_ended:
        if all(name in named for name in required):
            result["additionalProperties"] = False
    return result


def _closed(part: Json) -> Json:
    return _close(part) if isinstance(part, dict) else part


def subschemas(schema: Json, path: str = "#") -> Iterator[tuple[str, dict[str, Json]]]:
    """Every schema object in `schema`, itself first, with its JSON pointer."""
    if isinstance(schema, dict):
        yield path, schema
    for below, part in _parts(schema, path):
        yield from subschemas(part, below)


def _parts(schema: Json, path: str) -> Iterator[tuple[str, dict[str, Json]]]:
    """The schema objects right under `schema`, each with its JSON pointer."""
    if not isinstance(schema, dict):
        return
    for key in MAPS:
        named = schema.get(key)
        if isinstance(named, dict):
            yield from ((f"{path}/{key}/{name}", p) for name, p in named.items() if isinstance(p, dict))
    for key in LISTS:
        listed = schema.get(key)
        if isinstance(listed, list):
            yield from ((f"{path}/{key}/{at}", p) for at, p in enumerate(listed) if isinstance(p, dict))
    for key in SINGLE:
        part = schema.get(key)
        if isinstance(part, dict):
            yield f"{path}/{key}", part


def _values(schema: Json) -> Iterator[Json]:
    """Every value in the JSON."""
    left = [schema]
    while left:
        value = left.pop()
        yield value
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refused(schema: Json, whole: str) -> tuple[str, ...]:
    """The deepest parts that llguidance has something against, the first few; `whole` is what it says of all.

    A part is looked at with the definitions, and only under one that is refused itself.
    """
    definitions = {
        key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema
    }
    found: list[str] = []
    left: list[tuple[str, Json, str]] = [("#", schema, whole)]
    given = 0
    while left and len(found) < MOST_FAULTS:
        path, refused, message = left.pop(0)
        deeper: list[tuple[str, Json, str]] = []
        for below, part in _parts(refused, path):
            text = json.dumps({**definitions, **part})
            given += len(text)
            if given > SEARCHED or len(deeper) == MOST_FAULTS:
                break
            if (complaint := _complaint(text)) is not None:
                deeper.append((below, part, complaint))
        left = [*deeper, *left]
        if not deeper:
            found.append(f"{path}: {message}")
    return tuple(found)


def _complaint(schema: str) -> str | None:
    """What llguidance has against a schema, which is JSON text, warnings included, as one line."""
    from llguidance import LLMatcher

    try:
        text = LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:
        return " ".join(str(error).split())
    _, messages = LLMatcher.validate_grammar_with_warnings(text)
    return " ".join("; ".join(messages).split()) or None


def _repeated_keys(schema: dict[str, Json]) -> str | None:
    """What is wrong with a minProperties that one key, written twice, would seem to meet."""
    least, required = schema.get("minProperties"), schema.get("required")
    unnamed = schema.get("additionalProperties", True) is not False or schema.get("patternProperties")
    named = len({*map(str, required)}) if isinstance(required, list) else 0
    if unnamed and isinstance(least, int) and least > named + 1:
        return f"minProperties {least}: an answer may write a key twice, and only one of them counts"
    return None


def _excluded_bound(schema: dict[str, Json]) -> str | None:
    """Which exclusive bound llguidance lets through: a whole one, where the other begins with its digits."""
    bounds = {
        key: value
        for key in BOUNDS
        if isinstance(value := schema.get(key), int | float) and not isinstance(value, bool)
    }
    if not bounds.keys() & {"exclusiveMinimum", "exclusiveMaximum"}:
        return None
    return _let_through(json.dumps({"type": "number", **bounds}))


@lru_cache(maxsize=4096)
def _let_through(number: str) -> str | None:
    """The same of a schema that is nothing but a number's bounds, as JSON text."""
    if _complaint(number) is not None:
        return None
    bounds = json.loads(number)
    matcher = _byte_grammar(number)
    for key in sorted(bounds.keys() & {"exclusiveMinimum", "exclusiveMaximum"}):
        spelt = [f"{sign}{abs(bounds[key]):{form}}" for sign in ("", "-") for form in (".0f", ".1f")]
        if any(float(text) == bounds[key] and _takes(matcher, text) for text in spelt):
            return f"{key} {bounds[key]}: with these bounds {bounds[key]} itself would be let through"
    return None


def accepts(schema: Json, text: str) -> bool:
    """Whether the grammar of `schema` lets exactly `text` through."""
    return _takes(byte_grammar(schema), text)


def byte_grammar(schema: Json) -> "LLMatcher":
    """A matcher over llguidance's vocabulary of single bytes; in a state of error where there is none."""
    return _byte_grammar(json.dumps(schema))


def _byte_grammar(schema: str) -> "LLMatcher":
    from llguidance import LLMatcher

    return LLMatcher(_bytes(), LLMatcher.grammar_from_json_schema(schema))


@lru_cache(maxsize=1)
def _bytes() -> "LLTokenizer":
    """Kept: to make it takes longer than to compile most schemas."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _takes(matcher: "LLMatcher", text: str) -> bool:
    return taken(matcher, text) is None


def taken(matcher: "LLMatcher", text: str) -> str | None:
    """How much of `text` a matcher that has read nothing lets through; None where it takes exactly that.

    The matcher stays as it is.
    """
    spelled = text.encode()
    count = matcher.validate_tokens([*spelled, END])
    return None if count == len(spelled) + 1 else spelled[:count].decode(errors="ignore")
