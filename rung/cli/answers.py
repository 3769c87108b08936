"""A question from standard input, and an answer as a line or as JSON."""

import json
import sys

from rung.errors import TaskError
from rung.hosted import hosted_of
from rung.records import Answer, Json, Step
from rung.report.notation import clean, value_text
from rung.system import System
from rung.task.text import BOM, utf8


def standard_input() -> str:
    """All of standard input as text, without the line break at its end. TaskError where it isn't UTF-8."""
    try:
        return utf8(sys.stdin.buffer.read().removeprefix(BOM)).removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"standard input isn't UTF-8 text (byte {error.start:,}); convert it, or give it as an argument"
        ) from None


def say_aside(line: str) -> None:
    """Say a line on standard error: standard output is for the answer alone."""
    print(clean(line), file=sys.stderr)


def say_host(system: System) -> None:
    """Say aside who is asked, where that isn't this machine."""
    if system.is_hosted:
        say_aside(f"asks {hosted_of(system.ref).host}")


def as_line(answer: Answer) -> str:
    """What was read from the answer, or the answer itself where nothing could be read."""
    return clean(answer.text if answer.value is None else value_text(answer.value))


def as_json(answer: Answer) -> str:
    """The whole answer on one line; `answer` is null where the text couldn't be read as the task's kind.

    `raw_probability` is null where calibration changes nothing: `probability` is as it came then. `steps` are
    there where the System makes an answer of several calls: what each of them gave, and the faults found.
    `passages` are the ids of those that the prompt held, the best first, and `source` the first that has the
    answer's words; only a System that looks up passages has them.
    """
    whole = {
        "answer": answer.value,
        "text": answer.text,
        "probability": answer.probability,
        "raw_probability": answer.raw_probability,
        "options": [{"answer": name, "probability": share} for name, share in answer.options],
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "latency_s": round(answer.latency_s, 6),
    }
    if answer.steps:
        whole["steps"] = [_step(step) for step in answer.steps]
    if answer.passages:
        whole |= {"passages": answer.passages, "source": answer.source}
    return json.dumps(whole, ensure_ascii=False)


def _step(step: Step) -> dict[str, Json]:
    """One call of an answer with what it took, or a fault that was found."""
    told: dict[str, Json] = {"step": step.what, "text": step.text}
    if step.what != "fault":
        told["prompt_tokens"], told["completion_tokens"] = step.prompt_tokens, step.completion_tokens
        told["latency_s"] = round(step.latency_s, 6)
    return told
