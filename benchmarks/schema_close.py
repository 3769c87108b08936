"""Answers under JSON Schemas at many limits: how many parse, how many are refused, what closing them costs.

    python benchmarks/schema_close.py ../shared/data

The schemas that rung infers for two sets, and some made at random, through a real engine with greedy
answers. A limit under the smallest answer must be refused with the least number of tokens, and every other
answer be valid under its schema within its limit; what isn't is printed, and the exit status is 1. The time
of closing is taken on the same tokens again, one request at a time.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import median, options, print_machine, table, use_all_cores
from made_schemas import made_schema

from rung.engines.base import Completion, Engine, Request
from rung.engines.closing import Closings
from rung.models.chat import Chat, Message
from rung.records import Json

SETS = ("sroie_receipts", "bfcl_v4_single_turn")
MADE = "made at random"
CONTEXT = 1024
ASKED_CHARACTERS = 300


@dataclass
class Tally:
    """What came of the requests under one kind of schemas; times in milliseconds."""

    schemas: int = 0
    asked: int = 0
    refused: int = 0
    valid: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)
    compile_ms: list[float] = field(default_factory=list)
    close_ms: list[float] = field(default_factory=list)


def main() -> None:
    """Both sets, then the made schemas."""
    parser = options(__doc__, folder=False, runs=False)
    parser.add_argument("folder", type=Path, help=f"holds the sets {' and '.join(SETS)}")
    parser.add_argument("--engine", choices=("llama", "torch"), default="llama")
    parser.add_argument("--made", type=int, default=100, help="schemas made at random, from seed 0 on")
    parser.add_argument("--rows", type=int, default=5, help="of each set")
    parser.add_argument("--longest", type=int, default=96, help="the highest limit, in tokens")
    given = parser.parse_args()
    print_machine()
    use_all_cores()
    from rung.models.chat import load_chat
    from rung.models.resolve import resolve

    chat = load_chat(resolve("smollm2-135m"))
    closings = Closings(chat.tokens.spellings)
    tallies: dict[str, Tally] = {}
    engine = started(given.engine)
    for name, schema, asked in (*sets(given), *made(given.made)):
        tally = tallies.setdefault(name, Tally())
        tally.schemas += not tally.schemas or name == MADE
        prompt = chat.render([Message(role="user", content=asked)])
        ask_all(engine, closings, tally, request_of(chat, prompt, schema, given.longest))
    engine.close()
    head = (
        "schemas",
        "requests",
        "refused",
        "parsed and valid, of the others",
        "cut and closed, of the others",
        "closing, ms: median (worst)",
        "compiling a schema, ms: median (worst)",
    )
    table(head, [line(name, tally) for name, tally in tallies.items()])
    wrong = [fault for tally in tallies.values() for fault in tally.wrong]
    sys.exit("\n".join(wrong) or 0)


def started(name: str) -> Engine:
    """The engine on the default model."""
    from rung.engines import start
    from rung.engines.base import EngineSpec
    from rung.models.resolve import resolve
    from rung.models.weights import dequantised

    model = resolve("smollm2-135m")
    if name == "llama":
        return start(EngineSpec(engine="llama", gguf=model.gguf, context=CONTEXT, parallel=2))
    return start(EngineSpec(engine="torch", weights=dequantised(model), context=CONTEXT))


def sets(given: argparse.Namespace) -> Iterator[tuple[str, Json, str]]:
    """(set, the schema inferred from its training rows, what is asked) for the first test rows of each."""
    from rung.data.sources import read_source
    from rung.task.schemas import infer_schema

    for name in SETS:
        schema = infer_schema(
            [row.output for row in read_source(given.folder / name / "train.jsonl").examples]
        )
        for row in read_source(given.folder / name / "test.jsonl").examples[: given.rows]:
            yield name, schema, f"Answer in JSON.\n{str(row.input)[:ASKED_CHARACTERS]}"


def made(count: int) -> Iterator[tuple[str, Json, str]]:
    """The first schemas made at random that an answer can be held to."""
    from rung.engines.schema import check_schema

    found = seed = 0
    while found < count:
        schema = made_schema(random.Random(seed))
        seed += 1
        if not check_schema(schema):
            found += 1
            shown = json.dumps(schema, ensure_ascii=False)[:ASKED_CHARACTERS]
            yield MADE, schema, f"Write an example of this JSON Schema.\n{shown}"


def request_of(chat: Chat, prompt: tuple[int, ...], schema: Json, limit: int) -> Request:
    return Request(prompt=prompt, max_tokens=limit, stop_ids=chat.stop_ids, schema=schema)


def ask_all(engine: Engine, closings: Closings, tally: Tally, longest: Request) -> None:
    """One request at each limit from 1 to the longest, counted."""
    from dataclasses import replace

    start = time.perf_counter()
    least = closings.least_tokens(longest.schema)
    seconds = time.perf_counter() - start
    if len(tally.compile_ms) < tally.schemas:
        tally.compile_ms.append(1000 * seconds)
    limits = limits_of(least, longest.max_tokens)
    answers = engine.generate([replace(longest, max_tokens=limit) for limit in limits])
    tally.asked += len(limits)
    for limit, answer in zip(limits, answers, strict=True):
        refused = answer.failure is not None and f"raise it to {least} or more" in answer.failure
        tally.refused += refused
        if refused != (limit < least) or not refused and not is_valid(answer, longest.schema, limit):
            tally.wrong.append(f"with {limit} tokens of {least} at least: {answer} to {longest.schema}")
        if refused:
            continue
        tally.valid += is_valid(answer, longest.schema, limit)
        tally.cut += answer.truncated
        start = time.perf_counter()
        closings.closed(longest.schema, answers[-1].tokens[:limit], limit)
        tally.close_ms.append(1000 * (time.perf_counter() - start))


def limits_of(least: int, longest: int) -> Sequence[int]:
    """One token, one too few, the fewest, and some up to the longest."""
    most = max(longest, least)
    return sorted({1, max(1, least - 1), *(least + step * (most - least) // 5 for step in range(6))})


def is_valid(answer: Completion, schema: Json, limit: int) -> bool:
    """Whether an answer parses, is valid under its schema and keeps to its limit."""
    import jsonschema

    if answer.failure is not None or len(answer.tokens) > limit:
        return False
    try:
        return jsonschema.Draft202012Validator(schema).is_valid(json.loads(answer.text))
    except ValueError:
        return False


def line(name: str, tally: Tally) -> list[str]:
    """A line of the table."""
    answered = tally.asked - tally.refused
    return [
        f"{name} ({tally.schemas})",
        f"{tally.asked:,}",
        f"{tally.refused / tally.asked:.1%}",
        f"{tally.valid / answered:.1%}",
        f"{tally.cut / answered:.1%}",
        f"{median(tally.close_ms):.1f} ({max(tally.close_ms):.1f})",
        f"{median(tally.compile_ms):.1f} ({max(tally.compile_ms):.1f})",
    ]


if __name__ == "__main__":
    main()
