"""Judges on this machine: what they are asked, read back, and tasks that they judge."""

import json
import re
from pathlib import Path

from tests.fixtures_climb import text_rows, write_rows
from tests.fixtures_hosted import PRICES, Hosted

ORDERS = re.compile(
    r"=== input (\w+)\n(.*)\n=== answer A \1\n(.*)\n=== answer B \1\n(.*)\n=== end \1\n", re.DOTALL
)
CONTENTS = re.compile(
    r"=== input (\w+)\n(.*)\n=== text A \1\n(.*)\n=== text B \1\n(.*)\n=== end \1\n", re.DOTALL
)
ROWS = 270
"""Of which 54 are dev rows and 54 test rows."""


def asked(text: str) -> tuple[str, str, str]:
    """The input and the two answers that a judge is shown."""
    found = ORDERS.match(text)
    assert found is not None, text
    return found[2], found[3], found[4]


def compared(text: str) -> tuple[str, str, str]:
    """The input, the wanted text and the other one that a judge of content is shown."""
    found = CONTENTS.match(text)
    assert found is not None, text
    return found[2], found[3], found[4]


def is_judging(body: dict) -> bool:
    form = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return "verdict" in form.get("properties", {})


def merit(text: str) -> int:
    """What the judge of these tests goes by: capitals, and an exclamation mark."""
    return sum(letter.isupper() for letter in text) + 2 * text.count("!")


def verdict(text: str) -> str:
    """A judge's word on one order: of some inputs whatever comes first, of others nothing that is one."""
    question, a, b = asked(text)
    words = question.split()
    if "tax" in words and ("is" in words[4:] or len(words) == 2):
        return "maybe"
    if "again" in words:
        return "A"
    better, worse = merit(a), merit(b)
    return "tie" if better == worse else "A" if better > worse else "B"


def says(text: str, body: dict) -> str:
    """A rival that writes capitals, with a mark after some and a letter small in others; and the judge."""
    if is_judging(body):
        return json.dumps({"verdict": verdict(text)})
    last = text.split("\n\n")[-1]
    if "please" in last:
        return f"{last.upper()}!"
    return last.upper() if "my" in last else last.capitalize()


def content_verdict(text: str) -> str:
    """A good judge's word on a text: case is style, words are content; some of its words are no verdict."""
    _, wanted, given = compared(text)
    if "tax" in given.lower().split() and not given.isupper():
        return "maybe"
    return "same" if given.lower().split() == wanted.lower().split() else "other"


def in_style(text: str, body: dict) -> str:
    """A rival that writes in capitals as wanted, denies some of it, or writes it small; and the judge."""
    if is_judging(body):
        return json.dumps({"verdict": content_verdict(text)})
    last = text.split("\n\n")[-1]
    if "please" in last:
        return f"{last.upper()} NOT"
    return last.upper() if "my" in last else last.capitalize()


def judged_task(folder: Path, tiny: Path, server: Hosted, **keys) -> Path:
    """A task whose texts that server judges, and answers as a rival, too."""
    write_rows(folder / "rows.jsonl", text_rows(keys.pop("rows", ROWS)))
    task = {
        "name": "shouts",
        "data": {"train": "rows.jsonl"},
        "output": {"kind": "text"},
        "metric": "judge",
        "judge": {"model": f"openai:judge@{server.url}"},
        "models": [str(tiny), f"openai:rival@{server.url}"],
        "prices": PRICES.model_dump(),
        **keys,
    }
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder / "task.yaml"
