"""What schemathesis makes up, bent so that a part of it reaches what is served. Schemathesis loads this.

`RUNG_FUZZ_MODELS` names what may be asked, `RUNG_FUZZ_SYSTEM` a folder that may be loaded as `fuzzed`.
"""

import os
import zlib
from typing import Any

import schemathesis

MODELS = os.environ.get("RUNG_FUZZ_MODELS", "").split(",")
SYSTEM = os.environ.get("RUNG_FUZZ_SYSTEM", "")
MOST_TOKENS = 24
ASKED = ("messages", "prompt", "input", "state", "questions")
ROLES = ("system", "developer", "user", "assistant", "tool", "user", "user")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Seven of eight bodies ask for what is there, most of them something that can be read."""
    if not isinstance(body, dict):
        return body
    dice = _dice(body)
    if "model" in body and dice % 8:
        # Few fields at once: of all together some pair never fits.
        kept = {key: value for key, value in body.items() if key in ASKED or _dice(key, dice) % 4 == 0}
        body = {**kept, "model": MODELS[dice % len(MODELS)]}
        for field in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(field), int):
                body[field] = min(body[field], MOST_TOKENS)
        if "messages" in body and (dice >> 3) % 4:
            body = {**body, "messages": _messages(body["messages"], dice >> 5), "max_tokens": MOST_TOKENS}
        if isinstance(body.get("n"), int):
            body["n"] = min(body["n"], 3)
    if "system" in body and "model" not in body and dice % 2:
        body = {**body, "system": SYSTEM, "name": "fuzzed"}
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Half of the names are one that may go."""
    name = str((path_parameters or {}).get("name", ""))
    served = set(MODELS) - {"fuzzed"}
    if path_parameters and (name in served or _dice(name) % 2):
        return {**path_parameters, "name": "fuzzed"}
    return path_parameters


def _dice(*seen: Any) -> int:
    """The same number for the same, whenever it is run."""
    return zlib.crc32(repr(seen).encode("utf-8", "replace"))


def _messages(made: Any, dice: int) -> list[Any]:
    """Turns whose roles are known and whose texts are what was made up; some stay as they were."""
    given = made if isinstance(made, list) else [made]
    turns: list[Any] = [
        {
            **(turn if isinstance(turn, dict) and dice % 3 else {}),
            "role": ROLES[dice % 7],
            "content": str(turn),
        }
        for turn in given[:3]
    ]
    return turns if dice % 5 == 0 else [*turns, {"role": "user", "content": str(made)[:200] or "hello"}]
