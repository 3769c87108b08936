"""New inputs from a teacher: what it is asked, how its list is read, and which of them are new."""

import json
import random
import re
from collections.abc import Sequence

from rung.data.unlabelled import apart_from
from rung.records import Example
from rung.task.outputs import read_json

SHOWN = 6
"""Real inputs in one request."""
WANTED = 10
"""New ones asked for in it."""
LONGEST = 4000
"""Characters of an input: a longer one is a list that wasn't read as one, or a model that doesn't stop."""
_NUMBERED = re.compile(r"\s{0,3}(\d{1,3})[.):]\s+(\S.*)")


def asking(about: str, real: Sequence[Example], wanted: int = WANTED) -> str:
    """The request for new inputs, with some real ones as the pattern."""
    job = f"The job they are for: {about.strip()}\n" if about.strip() else ""
    shown = "\n".join(f"{number}. {_line(one)}" for number, one in enumerate(real, start=1))
    return (
        f"Here are {len(real)} inputs that people sent.\n{job}\n{shown}\n\n"
        f"Write {wanted} new inputs of the same sort: like these in length, language and style, but about "
        "other things, and no answers to them. Reply with a JSON list of texts and nothing else."
    )


def sampled(rows: Sequence[Example], round_number: int, seed: int) -> list[Example]:
    """The real inputs that a round shows: other ones in each, the same ones for a seed."""
    return random.Random(f"{seed}:{round_number}").sample(list(rows), min(SHOWN, len(rows)))


def read_inputs(text: str) -> list[str]:
    """The inputs in an answer: a JSON list of texts, with or without a fence, or lines with rising numbers.

    Strict: a list that is broken or holds anything but texts gives nothing.
    """
    bare = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", text).strip()
    if bare.startswith("["):
        try:
            found = read_json(bare)
        except ValueError:
            return []
        assert isinstance(found, list), "it begins with a bracket"
        return _usable(found) if all(isinstance(one, str) for one in found) else []
    hits = [match for line in bare.splitlines() if (match := _NUMBERED.fullmatch(line))]
    rising = [int(match[1]) for match in hits] == list(range(1, len(hits) + 1))
    return _usable([match[2] for match in hits]) if rising else []


def fresh(texts: Sequence[str], known: Sequence[Example]) -> list[str]:
    """The texts that are like no known input, exactly or nearly, and like none before them."""
    rows = [Example(id=str(place), input=text, output=None) for place, text in enumerate(texts)]
    # A context is part of a question: what has none is compared with the inputs alone.
    bare = [Example(id=e.id, input=e.input, output=None) for e in known]
    return [row.input for row in apart_from(rows, bare)]


def made_row(text: str, teacher: str) -> str:
    """A line of the file of new inputs, marked as made, and by whom."""
    row = {"input": text, "synthetic": True, "generator": teacher}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _line(row: Example) -> str:
    return " ".join(row.input.split())


def _usable(texts: Sequence[object]) -> list[str]:
    return [text.strip() for text in texts if isinstance(text, str) and 0 < len(text.strip()) <= LONGEST]
