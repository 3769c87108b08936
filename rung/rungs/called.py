"""How a hosted model is asked for calls: by `tools`, as its provider has them, or for JSON; dev rows tell."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from rung.engines.base import Completion
from rung.errors import EngineError
from rung.evaluate import PACED_ROWS
from rung.records import Example, Json
from rung.rungs.base import Context, strict_score
from rung.rungs.bought import to_buy
from rung.spec import Written
from rung.system import System
from rung.task.calls import functions_in

WAYS: tuple[Written, ...] = ("tools", "json")
"""Which is tried where a task's answers are calls, the one first that is taken at a tie."""
SAID: Mapping[Written, str] = {
    "tools": "functions as `tools`",
    "json": "calls as JSON",
    "tagged": "calls in FunctionGemma's form",
}
NAMING_ROWS = 5
"""Dev rows that a server may refuse before it's taken to answer none."""
WAY_ROWS = PACED_ROWS
"""Dev rows that are answered in either way, at most."""
TAUGHT_ROWS = 20
"""The same of a teacher, which is asked few others."""
MOST_FAULTS = 2
"""A fault that may pass can be of one row's functions; so many are the server's."""
NOTHING_OFFERED = "no dev row offers functions"
_REFUSED, _BETTER = "why it takes no functions as `tools`", "how it is asked for calls"


def system_folder(context: Context, rung: str, written: Written = "json") -> Path:
    """Where a hosted model is a System that is asked in this way."""
    return context.work / f"hosted-{rung}{'' if written == 'json' else f'-{written}'}"


def _begun_in_json(context: Context, rung: str) -> bool:
    """Whether an earlier version began to ask for this rung: it asked for JSON alone, and settled no way.

    What was paid for then is gone on with.
    """
    return context.told(_REFUSED) is None and system_folder(context, rung).exists()


def open_ways(context: Context, rung: str) -> tuple[Written, ...]:
    """The ways of asking that what was settled before leaves open; nothing is asked."""
    if context.kind != "tool_call" or _begun_in_json(context, rung):
        return ("json",)
    if (better := context.told(_BETTER)) is not None:
        return (TypeAdapter(Written).validate_python(better),)
    return WAYS[1:] if context.told(_REFUSED) else WAYS


def refused(context: Context, rung: str, made: Callable[[], System], in_json: Callable[[], System]) -> str:
    """Why a server is asked no question that offers `tools`; empty where it is, or no calls are wanted.

    `made` gives the System that asks so, `in_json` the other one as far as it's known. The first dev rows
    that offer functions are asked, until one is answered; where none of them offers any, none is asked.
    Settled once. Raises EngineError where the server can't be asked now; not for want of money where answers
    in JSON were paid for before.
    """
    if context.kind != "tool_call" or _begun_in_json(context, rung):
        return ""
    rows = [row for row in context.dev if functions_in(row.context)]

    def why() -> str:
        if not rows:
            return NOTHING_OFFERED
        try:
            return _refusal(context, made(), in_json, rows)
        except EngineError as error:
            till = context.pool.till
            if till is None or till.raised_by not in str(error):
                raise
            if any(to_buy(context, in_json, context.dev[:TAUGHT_ROWS])):
                raise
            return str(error)

    return str(context.settled(_REFUSED, why))


def _refusal(context: Context, system: System, in_json: Callable[[], System], rows: Sequence[Example]) -> str:
    refusals, faults = list[str](), list[str]()
    for row in rows[:NAMING_ROWS]:
        found = _offered(context, system, in_json, row)
        if found.failure is None or found.prompt_tokens:
            return ""
        (refusals if found.final else faults).append(found.failure)
        if len(faults) == MOST_FAULTS:
            break
    if len(faults) == MOST_FAULTS or not refusals:
        raise EngineError(faults[-1])
    return refusals[-1]


def _offered(context: Context, system: System, in_json: Callable[[], System], row: Example) -> Completion:
    """What a server says to a row's functions. Raises EngineError where it can't be asked.

    With a plain 404 it may refuse them, or not be there: what it says to a row without them tells. That row
    is to be asked anyway where functions are refused.
    """
    try:
        return _asked(context, system, row)
    except EngineError:
        some = context.dev[:TAUGHT_ROWS]
        left = [one for one, count in zip(some, to_buy(context, in_json, some), strict=True) if count]
        if not left or _asked(context, in_json(), left[-1]).failure is not None:
            raise
        return _asked(context, system, row)


def _asked(context: Context, system: System, row: Example) -> Completion:
    (found,) = system.hosted_completions([row], system.find([row], context.pool), context.pool)
    return found


def better(context: Context, ways: Mapping[Written, System]) -> System:
    """The System whose way of asking is ahead on a few dev rows, of several the first. Settled once.

    Raises EngineError where it can't be asked.
    """
    if len(ways) == 1:
        return next(iter(ways.values()))

    def found() -> Json:
        rows = context.dev[:TAUGHT_ROWS]
        values = {
            way: context.sign * strict_score(context.measure_all(one, rows, SAID[way]), rows)
            for way, one in ways.items()
        }
        return max(values, key=lambda way: values[way])

    return ways[TypeAdapter(Written).validate_python(context.settled(_BETTER, found))]
