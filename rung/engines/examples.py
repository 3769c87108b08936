"""Examples of the strings that a JSON Schema's patterns, formats and least lengths take."""

import json
import re
from collections.abc import Iterator

from rung.engines.schema import byte_grammar, subschemas
from rung.engines.shortest import MOST_WORK, Hints, Place, shortest
from rung.engines.spelling import Vocabulary
from rung.records import Json

CONSTRAINTS = ("pattern", "format", "minLength", "maxLength")
OPERATORS = r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[a-zA-Z0-9]|\{[\d,]*\}|\(\?[^)\w]*|[\^$.|?*+()]"
"""Of a regular expression: everything that doesn't stand for itself."""
FILLINGS = (b" ", b"-", b"=", b"_", b"0", b"a")
"""What a string of some length is filled with: of most of these vocabularies hold long runs."""
ONCE = 10 * MOST_WORK
"""For a search that a schema needs once."""


def endings_of(schema: Json, vocabulary: Vocabulary, limit: int) -> tuple[bytes, ...]:
    """For each string that `schema` constrains a short example, from each of its bytes on to the quote.

    The shortest first.
    """
    found = {
        example[first:]
        for part in dict.fromkeys(_strings(schema))
        if (example := _example(json.loads(part), vocabulary, limit))
        for first in range(1, len(example) - 1)
    }
    return tuple(sorted(found, key=lambda text: (len(text), text)))


def _strings(schema: Json) -> Iterator[str]:
    """The constraints on strings in a schema, as schemas in JSON."""
    for _, part in subschemas(schema):
        constraints = {key: part[key] for key in CONSTRAINTS if key in part}
        if constraints.keys() - {"maxLength"}:
            yield json.dumps({"type": "string", **constraints})
        named = part.get("patternProperties")
        for pattern in named if isinstance(named, dict) else ():
            yield json.dumps({"type": "string", "pattern": pattern})


def _example(part: dict[str, Json], vocabulary: Vocabulary, limit: int) -> bytes | None:
    matcher = byte_grammar(part)
    pattern, least = part.get("pattern"), part.get("minLength")
    if pattern is None and "format" not in part and isinstance(least, int):
        runs = (vocabulary.spell(b'"%b"' % (filling * least)) for filling in FILLINGS)
        return min(runs, key=lambda run: run.count).text
    literals = tuple(dict.fromkeys(_literals(pattern))) if isinstance(pattern, str) else ()
    found = shortest(vocabulary, matcher, Place(), limit=limit, hints=Hints(literals=literals), work=ONCE)
    return None if found is None else found.text


def _literals(pattern: str) -> Iterator[bytes]:
    """The runs of letters that a pattern spells out; a letter that an escape makes one counts as such."""
    run = ""
    for part in re.finditer(rf"(?P<operator>{OPERATORS})|\\?(?P<letter>.)", pattern, re.DOTALL):
        if part["operator"] is None:
            run += part["letter"]
        elif run:
            yield run.encode()
            run = ""
    if run:
        yield run.encode()
