"""JSON Schemas as constraints: which can be kept to the letter, and in what form.

llama.cpp here is built with llguidance, which the torch engine uses too. llguidance says which keywords
it can't enforce, but llama.cpp then drops the whole constraint without a word (with `not`, free text
came back). So every schema is checked before it is sent.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING

from rung.engines.bounds import MOST_WAYS, Bounds, Known, own, ways
from rung.engines.tight import tight as tight
from rung.errors import EngineError
from rung.records import Json
from rung.task.parts import LISTS, MAPS, SINGLE

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

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
    known: Known = {}
    joined: set[Bounds] = set()
    loose = (
        f"{path}: {message}"
        for path, part in subschemas(schema)
        for message in (_repeated_keys(part), *_loose_numbers(part, schema, known, joined))
        if message is not None
    )
    whole = _complaint(json.dumps(schema))
    refused = () if whole is None else _refused(schema, whole)
    return tuple(islice(chain(refused, loose), MOST_FAULTS))


def require_schema(schema: Json) -> None:
    """Raise EngineError naming what of `schema` can't be enforced."""
    faults = check_schema(schema)
    if faults:
        raise EngineError(
            "the answers can't be held to this JSON Schema: "
            + "; ".join(faults)
            + ". Take these keywords out and check them on the finished answer instead (of a System: in its "
            "task, and climb again)"
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


def _loose_numbers(part: dict[str, Json], root: Json, known: Known, joined: set[Bounds]) -> Iterator[str]:
    """What llguidance says nothing of in a part's numbers, and doesn't keep to.

    `joined` are the bounds of several schemas that were met in all of the schema: MOST_WAYS at most.
    """
    try:
        found = ways(part, root, known)
    except ValueError as error:
        yield str(error)
        return
    joined.update(bounds for bounds in found if bounds.parts > 1)
    if len(joined) > MOST_WAYS:
        yield f"with it the options of the schema give numbers bounds in more than {MOST_WAYS:,} ways"
        return
    # What one other part says by itself is told there.
    here = own(part).parts
    told = (_let_through(bounds) for bounds in found if bounds.parts > 1 or here)
    yield from dict.fromkeys(message for message in told if message is not None)
    listed = part.get("enum")
    values = [("const", part.get("const"))]
    values += [("enum", one) for one in (listed if isinstance(listed, list) else ())]
    for key, value in values:
        # Past this a float skips whole numbers.
        large = (n for n in _values(value) if isinstance(n, int) and abs(n) > 2**53)
        yield from (
            f"{key} {number}: another number would be written for it; write it as a string"
            for number in large
            if _is_written_otherwise(number)
        )


@lru_cache(maxsize=4096)
def _let_through(bounds: Bounds) -> str | None:
    """Which of the bounds llguidance lets a number through for that isn't within them, or miscounts."""
    number = json.dumps(bounds.schema())
    if not bounds.parts or _complaint(number) is not None:
        return None
    if steps := bounds.uncounted():
        return f"{steps}: multiples of so many digits aren't counted"
    matcher = _byte_grammar(number)
    for text in bounds.near():
        if (limit := bounds.broken(text)) and _takes(matcher, text):
            return f"{limit}: with these bounds {text} would be let through"
    return None


@lru_cache(maxsize=4096)
def _is_written_otherwise(number: int) -> bool:
    """Whether the grammar of a constant has other digits than the constant."""
    schema = json.dumps({"const": number})
    return _complaint(schema) is None and not _takes(_byte_grammar(schema), str(number))


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
