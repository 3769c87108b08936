"""The rung workflow: what it tries for each kind of output, what it starts from, and what it tells."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from rung.climb.hosted import answers_usd
from rung.records import Answer, OutputKind, Step
from rung.rungs import optimise, reflect, workflow
from rung.rungs.instructions import answer_spec, spec_for, wordings
from rung.rungs.workflow import Workflow
from rung.spec import ShotSpec
from rung.system import SHOTS_FILE, save
from tests.fixtures_climb import TASKS, make_tiny_gguf, opened, write_rows

PAGE = Path(__file__).parents[2] / "docs" / "prompting.md"
FAULT = Step("fault", "no")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def of_kind(kind, tiny, folder):
    return opened(tiny, write_rows(folder / "topics.jsonl", TASKS[kind](60)), folder)


@pytest.fixture
def context(tiny, tmp_path):
    with of_kind("label", tiny, tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("label", ["reasoning first", "draft, check, repair", "vote of 5, each reasoning first"]),
        ("json", ["reasoning first", "draft, check, repair", "vote of 3", "vote of 5"]),
        ("text", ["draft, review", "vote of 3", "vote of 5"]),
        (
            "number",
            [
                *("reasoning first", "draft, check, repair", "vote of 3", "vote of 5"),
                "vote of 5, each reasoning first",
            ],
        ),
    ],
)
def test_each_kind_of_output_has_its_workflows_and_the_page_says_so(kind, names, tiny, tmp_path):
    with of_kind(kind, tiny, tmp_path) as context:
        assert list(workflow._steps(context)) == names
    shown = {"label": "labels", "json": "JSON", "number": "numbers", "text": "text"}[kind]
    table = re.findall(r"^\| (.+?) \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [
        one for cell, kinds in table if shown in kinds.split(", ") for one in re.split(r", (?=vote)", cell)
    ]
    assert sorted(told) == sorted(names)


def fixed_shots(context, name="few_shot"):
    """A System with two worked examples, as a rung below might have made."""
    spec = spec_for(context, name, instruction="By example.", answer=answer_spec(context, constrained=True))
    spec = spec.model_copy(update={"shots": ShotSpec(choice="fixed", k=2)})
    shots = '{"input": "my invoice", "output": "billing"}\n{"input": "the parcel", "output": "delivery"}\n'
    return save(context.folder / name, spec, {SHOTS_FILE: shots})


def test_it_asks_the_best_prompt_below_with_its_examples_and_its_engine(context):
    below = fixed_shots(context)
    variants, notes = workflow._variants(replace(context, built={"few_shot": below}))
    for variant in variants:
        spec = variant.system.spec
        assert spec.files == below.spec.files and spec.shots == below.spec.shots
        assert (spec.engine, spec.rung) == (below.spec.engine, "workflow")
        assert spec.instruction.startswith("By example.") and spec.answer.form == "words"
    assert variants[0].system.spec.instruction.endswith(workflow.THINK)
    assert variants[1].system.spec.instruction == "By example."
    assert notes == ["asked several times: the System of few_shot"]


def test_the_notes_tell_what_one_call_scored_and_what_several_took(context):
    below = fixed_shots(context)
    right = [(e, Answer(text=str(e.output), value=e.output)) for e in context.dev]
    context.bench.store.append(below.digest, right, 1.0)
    built = Workflow().build(replace(context, built={"few_shot": below}))
    assert built.upon == "few_shot"
    below_told = f"the System of few_shot, 1.000 on {len(context.dev)} dev rows with one call"
    assert any(below_told in note for note in built.notes) and workflow.NO_VOTE in built.notes
    taken = (
        r"\w+ \d\.\d\d, [\d,]+ tokens read and [\d,]+ written, [\d.> ]+ % of the time, "
        r"\$[\d.]+ per 1,000 answers"
    )
    assert re.fullmatch(rf"\d\.\d\d calls per answer: {taken}(; {taken})*", built.found[0])
    dev = context.measure(built.system, context.dev, "again")
    steps = [float(usd) for usd in re.findall(r"\$([\d.]+) per", built.found[0])]
    assert sum(steps) == pytest.approx(answers_usd(dev, built.price, context.task), rel=0.05)
    assert built.found[-1].startswith("such as ")


def at(usd_per_hour, context):
    """The context of a machine that costs so much."""
    return replace(context, task=context.task.model_copy(update={"machine_usd_per_hour": usd_per_hour}))


def test_faults_are_counted_with_those_that_were_mended(context):
    system = fixed_shots(context, "workflow")
    steps = workflow._steps(context)["draft, check, repair"]
    system = save(context.folder / "repair", system.spec.model_copy(update={"steps": steps}), {})
    drafts = [
        Answer(text="x", value="x", steps=(Step("draft", "x", 10, 1, 1.0),)),
        Answer(
            text="y",
            value="y",
            steps=(Step("draft", "?", 10, 4, 1.0), FAULT, Step("answer", "y", 30, 2, 1.0)),
        ),
        Answer(
            text="?", value=None, steps=(Step("draft", "?", 10, 4, 1.0), FAULT, Step("answer", "?", 30, 1))
        ),
    ]
    context.bench.store.append(system.digest, list(zip(context.dev, drafts, strict=False)), 1.0)
    told = workflow._told(at(10.8, context), system)
    assert told == (
        "1.67 calls per answer: draft 1.00, 10 tokens read and 3 written, 75 % of the time, $0.75 per "
        "1,000 answers; answer 0.67, 20 tokens read and 1 written, 25 % of the time, $0.25 per 1,000 answers",
        "2 of 3 drafts had a fault; 1 could be read then",
        "such as draft '?', fault 'no', answer 'y'",
    )
    assert workflow._told(at(0.0, context), system)[0].endswith("written, 25 % of the time")


def test_what_a_step_took_is_told_of_answers_alone_that_say_it(context):
    system = fixed_shots(context, "workflow")
    old = Answer(text="y", value="y", prompt_tokens=96, steps=(Step("draft", "y"),))
    context.bench.store.append(system.digest, [(context.dev[0], old)], 1.0)
    assert workflow._told(context, system)[0] == "1.00 calls per answer"
    new = replace(old, steps=(Step("draft", "y", 10, 2, 0.5),))
    context.bench.store.append(system.digest, [(context.dev[1], new)], 1.0)
    assert "draft 1.00, 10 tokens read and 2 written" in workflow._told(context, system)[0]


def test_steps_are_kept_with_the_answers(context):
    system = fixed_shots(context, "workflow")
    given = Answer(text="y", value="y", steps=(Step("draft", "?", 9, 3, 0.5), FAULT, Step("answer", "y")))
    context.bench.store.append(system.digest, [(context.dev[0], given)], 1.0)
    assert context.bench.store.load(system.digest)[context.dev[0].id].answer == given


def test_the_numbers_on_the_page_are_those_of_the_program(context):
    page = PAGE.read_text(encoding="utf-8")
    assert f"up to {workflow.THOUGHT_TOKENS} tokens of free reasoning" in page
    assert f"at temperature {workflow.HEAT}" in page
    assert f"may take {reflect.METRIC_CALLS} answers" in page
    assert "Sixteen candidates" in page and optimise.CANDIDATES == 16
    assert "sets of 4 or 8 examples" in page and optimise.SHOTS == (4, 8)
    assert "one of six ways" in page
    named = replace(context, task=context.task.model_copy(update={"about": "Name the topic."}))
    assert len(wordings(named)) == 6
    assert re.search("teacher: openai:", page) and "OPENAI_API_KEY" in page


@pytest.mark.parametrize("kind", get_args(OutputKind))
def test_every_kind_of_output_has_its_steps(context, kind):
    output = context.task.output.model_copy(update={"kind": kind})
    asked = replace(context, task=context.task.model_copy(update={"output": output}))
    steps = workflow._steps(asked)
    assert steps and all(one.close or one.kind == "vote" for one in steps.values())
