from dataclasses import replace

import pytest

from rung.records import Example
from rung.rungs.few_shot import stratified
from rung.rungs.instructions import (
    answer_notes,
    answer_schema,
    answer_spec,
    few_shot_instruction,
    instructions,
    number_schema,
)
from rung.rungs.prompt import NO_ABOUT, Prompt
from rung.rungs.sft import answer_forms, label_codes
from tests.fixtures_climb import (
    TASKS,
    make_tiny_gguf,
    opened,
    write_rows,
)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """A context for each kind of output."""
    folder = tmp_path_factory.mktemp("kinds")
    tiny = make_tiny_gguf(folder / "tiny.gguf")
    openings = {
        kind: opened(tiny, write_rows(folder / f"{kind}.jsonl", rows(60)), folder / kind)
        for kind, rows in TASKS.items()
    }
    yield {kind: opening.__enter__() for kind, opening in openings.items()}
    for opening in openings.values():
        opening.__exit__(None, None, None)


def about(context, text):
    return replace(context, task=context.task.model_copy(update={"about": text}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("label", "Answer with exactly one of these labels: billing, delivery, login."),
        (
            "json",
            'Answer with one JSON object under this JSON Schema: {"type":"object","properties":{"topic"',
        ),
        ("number", "Answer with one number."),
        ("text", "Write the reply to the text."),
    ],
)
def test_an_instruction_says_what_to_answer(contexts, kind, said):
    found = instructions(contexts[kind])
    assert list(found) == ["plain", "strict"]
    assert said in found["plain"] and found["strict"].startswith(found["plain"])


@pytest.mark.parametrize("kind", TASKS)
def test_the_tasks_own_words_come_first(contexts, kind):
    context = about(contexts[kind], "  Do the job.  ")
    assert instructions(context)["plain"].startswith("Do the job.")
    assert few_shot_instruction(context) == "Do the job."
    assert few_shot_instruction(contexts[kind]) == "Answer in the way of the examples."


@pytest.mark.parametrize(
    ("kind", "form"), [("label", "words"), ("json", "schema"), ("number", "schema"), ("text", "free")]
)
def test_constrained_answers_are_held_to_what_the_kind_allows(contexts, kind, form):
    context = contexts[kind]
    assert answer_spec(context, constrained=True).form == form
    free = answer_spec(context, constrained=False)
    chat = context.pool.chat(context.model)
    longest = max(len(chat.answer_ids(context.target(e))) for e in context.train)
    assert free.form == "free" and longest + 8 <= free.max_tokens <= max(longest + 8, 1.5 * longest)


@pytest.mark.parametrize(
    ("targets", "schema"),
    [
        ([0.0, 7.0, 42.0], {"type": "integer", "minimum": 0, "maximum": 999}),
        ([3.8, 5.0], {"type": "number", "minimum": 0, "maximum": 99}),
        ([-0.5, 120.25], {"type": "number", "minimum": -9999, "maximum": 9999}),
        ([0.0], {"type": "integer", "minimum": 0, "maximum": 99}),
    ],
)
def test_numbers_have_one_digit_more_than_the_targets_at_most(targets, schema):
    assert number_schema(targets) == schema


def test_a_schema_that_no_engine_can_enforce_is_answered_freely_and_said(contexts):
    context = contexts["json"]
    schema = {"type": "object", "properties": {"topic": {"not": {"type": "string"}}}}
    output = context.task.output.model_copy(update={"json_schema": schema})
    odd = replace(context, task=context.task.model_copy(update={"output": output}))
    assert answer_spec(odd, constrained=True).form == "free"
    assert answer_schema(odd) == schema, "the answer is still checked against it"
    (note,) = answer_notes(odd)
    assert "decoded freely" in note and "#/properties/topic" in note
    assert answer_notes(context) == ()


def test_a_task_without_about_is_told_so(contexts):
    assert NO_ABOUT in Prompt().build(contexts["label"]).notes


def test_every_label_has_a_code_of_its_own_that_is_no_control_token(contexts):
    context = contexts["label"]
    chat = context.pool.chat(context.model)
    codes = label_codes(context)
    assert len(set(codes)) == 3 and not set(codes) & set(chat.stop_ids)
    assert [chat.tokens.texts[code] for code in codes] == [
        chat.tokens.texts[chat.answer_ids(label, "terse")[0]] for label in context.labels
    ]


def test_more_labels_than_words_still_have_codes(contexts):
    context = contexts["label"]
    labels = tuple("a" * n for n in range(1, 60))
    output = context.task.output.model_copy(update={"labels": labels})
    crowded = replace(context, task=context.task.model_copy(update={"output": output}))
    assert len(set(label_codes(crowded))) == len(labels)


def test_labels_are_tuned_as_codes_and_words_and_everything_else_as_it_is(contexts):
    forms = {kind: list(answer_forms(context)) for kind, context in contexts.items()}
    assert forms == {
        "label": ["codes", "words"],
        "json": ["schema"],
        "number": ["schema"],
        "text": ["free"],
        "tool_call": ["calls"],
    }


def test_stratified_examples_take_turns_among_the_outputs_whatever_the_order_of_the_rows():
    rows = [Example(id=f"{i:02d}", input=str(i), output="rare" if i < 3 else "common") for i in range(30)]
    chosen = stratified(rows, 6, seed=0)
    assert [e.output for e in chosen] == ["common", "rare"] * 3
    assert stratified(rows[::-1], 6, seed=0) == chosen
    assert stratified(rows, 6, seed=1) != chosen
    assert len(stratified(rows, 99, seed=0)) == 30


def test_it_is_said_how_many_dev_rows_have_numbers_that_no_held_answer_can_be(contexts):
    context = contexts["number"]
    assert answer_notes(context) == ()
    first, second, *others = context.dev
    far = replace(context, dev=(replace(first, output=5000.0), replace(second, output=-1.0), *others))
    (note,) = answer_notes(far)
    assert note.startswith(f"2 of {len(context.dev)} dev rows have other numbers") and "from 0 to 999" in note
