"""A model that was tuned to reflect and is served here: `optimise` takes what it writes to a small model.

Nothing is scripted. The small model was tuned, too: told the rule it names the topic, told anything else it
says one word, so that the instruction is what its score hangs on.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rung.climb.hosted import PAID_FILE, hosted_models
from rung.engines.till import Till
from rung.models.gguf_file import write_merged
from rung.models.resolve import resolve
from rung.models.weight_types import WRITTEN
from rung.models.weights import dequantised
from rung.records import Answer
from rung.rungs import length, tuning
from rung.rungs import optimise as module
from rung.rungs.api import prices
from rung.rungs.base import Context
from rung.rungs.optimise import Optimise
from rung.rungs.reflect import COMPONENT, _Search
from rung.rungs.replies import replying
from rung.rungs.sft import Sft
from rung.system import System
from rung.training.lora_delta import deltas_by_gguf_name
from tests.fixtures_climb import TOPICS, WIDTH, label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import KEY, PRICES
from tests.fixtures_serve import Server

RULE = "help with my parcel"
"""In words that are tokens of the tiny models."""
LAST = "billing"
BARE = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
)
"""As tunes ask, so that one that was trained on rows follows an instruction as it does a row's context."""


def task_of(folder: Path, rows: Sequence[dict]) -> Path:
    """A task of texts."""
    write_rows(folder / "rows.jsonl", [*rows])
    task = {"data": {"train": "rows.jsonl"}, "output": {"kind": "text"}, "metric": "exact"}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def tuned(base: Path, folder: Path, rows: Sequence[dict], epochs: int) -> System:
    """The System that a tune of a base model on these rows makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MOST_EPOCHS", epochs)
        patch.setattr(length, "MOST_EVALUATIONS", 2)
        with opened(base, task_of(folder / "task", rows), folder / "tune") as context:
            return Sft().build(context).system


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    """The instruction that a search begins with."""
    folder = tmp_path_factory.mktemp("plain")
    tiny = make_tiny_gguf(folder / "tiny.gguf")
    with opened(tiny, task_of(folder / "task", label_rows(80)), folder / "asking") as context:
        return str(module._start(context).spec.instruction)


@pytest.fixture(scope="module")
def student(plain, tmp_path_factory) -> Path:
    """A base model that follows the rule, and no other instruction."""
    folder = tmp_path_factory.mktemp("student")
    base = make_tiny_gguf(folder / "base.gguf", width=2 * WIDTH, template=BARE)
    rows = label_rows(600, 2)
    rows[::2] = [{**row, "context": RULE} for row in rows[::2]]
    rows[1::2] = [{**row, "context": plain, "output": LAST} for row in rows[1::2]]
    adapter = tuned(base, folder, rows, 6).adapter
    assert adapter is not None
    config = json.loads((dequantised(resolve(str(base))) / "config.json").read_text())
    made = folder / "student.gguf"
    write_merged(base, deltas_by_gguf_name(adapter, config), made, wanted=WRITTEN["f32"], changes={})
    return made


@pytest.fixture
def context(student, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with opened(student, task_of(tmp_path / "task", label_rows(80)), tmp_path) as found:
        yield found


def reflections(context: Context, count: int) -> list[dict]:
    """What a search asks of a model that reflects, made as it makes it, each with an answer that it reads."""
    model = replying("openai:nobody@http://127.0.0.1:9/v1", context.pool, 0)
    assert model is not None
    search, dice = _Search(context, module._start(context), model), random.Random(1)
    rows = []
    for _ in range(count):
        said = [(row, dice.choice([*TOPICS])) for row in dice.sample(context.train, 3)]
        shown = [(row, Answer(text=text, value=text), float(text == row.output)) for row, text in said]
        batch = SimpleNamespace(trajectories=shown)
        records = search.make_reflective_dataset({}, batch, [COMPONENT])[COMPONENT]
        told = dice.choice([RULE, str(search.start.spec.instruction)])
        rows.append({"input": search._prompt(told, records), "output": f"```\n{RULE}\n```"})
    return rows


@pytest.fixture(scope="module")
def mentor(student, tmp_path_factory):
    """`rung serve` with a model that was tuned to answer what a search asks."""
    folder = tmp_path_factory.mktemp("mentor")
    base = make_tiny_gguf(folder / "base.gguf", width=2 * WIDTH, context=4096)
    with opened(student, task_of(folder / "asked", label_rows(120, 5)), folder / "asking") as context:
        rows = reflections(context, 60)
    system = tuned(base, folder, rows, 14)
    with Server(f"mentor={system.folder}", home=folder) as server:
        yield server


def scored(context: Context, instruction: str) -> float:
    """The small model on dev under an instruction."""
    search = _Search(context, module._start(context), SimpleNamespace())
    return context.measure(search.system(instruction), context.dev, instruction).score


def test_the_small_model_does_what_the_rule_says_and_nothing_under_another_instruction(context, plain):
    assert scored(context, RULE) > 0.75 > 0.5 > scored(context, plain)


def test_an_instruction_that_a_served_model_writes_is_tried_on_dev_and_chosen(context, mentor, plain):
    names = {"teacher": f"openai:mentor@{mentor.address}/v1", "prices": PRICES}
    task = context.task.model_copy(update=names)
    context.pool.till = Till(context.folder / PAID_FILE, 1.0, prices(task, hosted_models(task)))
    with context.paying():
        built = Optimise(metric_calls=240).build(replace(context, task=task))
    asked = mentor.gauge("rung_requests_total")
    assert not any("ended early" in note for note in built.notes)
    (note,) = [note for note in built.notes if " wrote " in note]
    found = re.match(
        r"mentor wrote (\d+) instructions .* reading ([\d,]+) tokens and writing ([\d,]+);", note
    )
    assert found and int(found[1]) == asked >= 1
    assert int(found[2].replace(",", "")) > 500 * asked and built.spent_usd > 0
    scores = {trial.name: trial for trial in built.trials}
    begun = scores["the instruction it began with"]
    (chosen,) = [trial for trial in built.trials if trial.chosen]
    assert re.fullmatch(r"instruction \d+ of the search", chosen.name) and chosen.n == len(context.dev)
    assert chosen.score > begun.score + 0.2
    paid = (context.folder / PAID_FILE).read_text(encoding="utf-8").splitlines()
    written = [json.loads(line)["answer"]["text"] for line in paid]
    told = str(built.system.spec.instruction)
    assert told != plain and any(told in text for text in written), "it's the model's own"
    assert RULE.split()[0] in told, "which was tuned to write so"
