"""A hosted model on this machine: an OpenAI-compatible server whose answers and faults tests choose."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rung.climb.hosted import hosted_models
from rung.engines.till import Till
from rung.records import Example
from rung.rungs.api import prices
from rung.rungs.base import Context
from rung.task.calls import FUNCTIONS
from rung.task.model import Prices
from tests.fixtures_climb import TOPICS, call_rows, label_rows
from tests.fixtures_http import Posted, Said

KEY = "sk-test-51Hx9dQyzTq0very-secret"
PRICES = Prices(input_usd_per_m=1.0, output_usd_per_m=4.0, cached_input_usd_per_m=0.1)
MODEL = "oracle-2026-01-01"
TOKENS_A_WORD = 4
"""About as many as the tiny model has."""


class Hosted(Posted):
    """Answers each conversation with what `says` makes of its last turn; `faults` come first, one a call.

    `whole` takes the place of all that, where it's given: status, body and headers for a body.
    """

    def __init__(self, says: Callable[[str, dict], str]) -> None:
        self.says = says
        self.reports = MODEL
        self.faults: list[Said] = []
        self.whole: Callable[[dict], Said] | None = None
        super().__init__(self.answer)
        self.name = f"openai:oracle@{self.url}"

    def answer(self, body: dict, path: str) -> Said:
        if self.whole is not None:
            return self.whole(body)
        return self.faults.pop(0) if self.faults else (200, self.completion(body), {})

    def completion(self, body: dict) -> dict:
        """Usage is counted in words, so that what was paid can be counted apart from the program."""
        text = self.says(body["messages"][-1]["content"], body)
        prompt = TOKENS_A_WORD * sum(len(turn["content"].split()) for turn in body["messages"])
        return {
            "model": self.reports,
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": TOKENS_A_WORD * len(text.split()),
                "prompt_tokens_details": {"cached_tokens": prompt // 4},
            },
        }


def topic(text: str) -> str:
    """The label of a made-up row, from its words."""
    counts = {label: sum(word in text.split() for word in words) for label, words in TOPICS.items()}
    return max(counts, key=counts.__getitem__)


def as_asked(text: str, body: dict) -> str:
    """A competent answer to a row of any of the made-up tasks, seen from what is asked for."""
    last = text.split("\n\n")[-1]
    form = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    if "label" in form.get("properties", {}):
        return json.dumps({"label": topic(last)})
    if "topic" in form.get("properties", {}):
        return json.dumps({"topic": topic(last), "first": last.split()[0]})
    if "JSON list of calls" in body["messages"][0]["content"]:
        offered = '"find"' in text
        call = {"name": "find", "arguments": {"topic": topic(last)}}
        return json.dumps([call if offered else {"name": "ask", "arguments": {"at": "desk"}}])
    if "number" in body["messages"][0]["content"]:
        return "12"
    return last.upper()


def unlabelled(count: int = 40, *, kind: str = "label") -> tuple[Example, ...]:
    """Inputs that no made-up task has, with a context where rows of that kind have one."""
    functions = FUNCTIONS + json.dumps([row["function"] for row in call_rows(1)[0]["tools"]])
    rows = label_rows(count, seed=77)
    return tuple(
        Example(
            id=f"free{number}",
            input=row["input"],
            output=None,
            context={"text": f"This is about {row['output']}.", "tool_call": functions}.get(kind),
            where=f"free.jsonl:{number}",
        )
        for number, row in enumerate(rows, start=1)
    )


def beside(context: Context, server: Hosted, folder: Path, inputs: Sequence[Example] = ()) -> Context:
    """The context of a task that names the server as rival and as teacher, with a till of one dollar."""
    names = {"models": (*context.task.models, server.name), "teacher": server.name, "prices": PRICES}
    task = context.task.model_copy(update=names)
    context.pool.till = Till(folder / "paid.jsonl", 1.0, prices(task, hosted_models(task)))
    return replace(context, task=task, unlabelled=tuple(inputs))
