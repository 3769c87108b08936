"""What the checks find in the prompts of a model: a tiny one, run by llama.cpp."""

from dataclasses import replace

import pytest

from rung.checks.base import Subject
from rung.checks.renders import Renders
from rung.checks.shown import shown_rows
from rung.checks.table import CHECKS
from rung.records import Splits
from rung.training.batches import Row
from tests.fixtures_climb import CHATML, OPEN, TASKS, make_tiny_gguf, opened, write_rows
from tests.fixtures_spaces import PHI, make_spaced_gguf

BY_NAME = {one.name: one for one in CHECKS}
ASKING = (
    "template",
    "cut_answers",
    "supervised",
    "end_of_turn",
    "double_bos",
    "serving_render",
    "tokens",
    "too_long",
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def subject_of(gguf, tmp_path):
    """Subjects of one kind of task, their rows changed and their model talked to in another way."""
    open_contexts = []

    def made(kind, change=lambda rows: rows, model=gguf, **chat_changes):
        data = write_rows(tmp_path / f"{kind}{len(open_contexts)}.jsonl", change(TASKS[kind](80)))
        manager = opened(model, data, tmp_path / f"run{len(open_contexts)}")
        context = manager.__enter__()
        open_contexts.append(manager)
        chat = context.pool.chat(context.model)
        context.pool.chats[context.model.digest] = replace(chat, **chat_changes)
        rows = (*context.train, *context.dev)
        return Subject(
            task=context.task,
            splits=Splits(train=context.train, dev=context.dev, test=(), test_given=True, digest=""),
            renders=Renders(context, rows),
        )

    yield made
    for manager in open_contexts:
        manager.__exit__(None, None, None)


def found(name, subject):
    outcome = BY_NAME[name].run(subject)
    assert isinstance(outcome, list), outcome
    return [(finding.severity, finding.message) for finding in outcome]


@pytest.mark.parametrize("kind", TASKS)
def test_nothing_is_found_where_all_is_well_but_the_length_of_rows(subject_of, kind):
    subject = subject_of(kind)
    found_here = {name: found(name, subject) for name in ASKING}
    (tokens,) = found_here.pop("tokens")
    assert tokens[0] == "info" and "tokens" in tokens[1]
    assert found_here == {name: [] for name in found_here}


@pytest.mark.parametrize("name", ASKING)
def test_without_a_model_a_check_says_that_it_looked_at_nothing(subject_of, name):
    subject = replace(subject_of("label"), renders=None)
    outcome = BY_NAME[name].run(subject)
    assert isinstance(outcome, str) and "model isn't here" in outcome


def test_a_template_without_a_system_turn_leaves_the_instruction_out(subject_of):
    turns = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}<|im_end|>{% endfor %}"
    ((severity, message),) = found("template", subject_of("label", template=turns))
    assert severity == "block" and "leaves out turn 1 ('system')" in message


def test_a_template_that_changes_the_question_is_named(subject_of):
    turns = "{% for m in messages %}{{ m['content'] if m['role'] == 'system' else 'hi' }}{% endfor %}"
    said = found("template", subject_of("label", template=turns))
    assert [severity for severity, _ in said] == ["block"] and "leaves out turn 2 ('user')" in said[0][1]


def test_a_template_that_refuses_the_turns_is_named(subject_of):
    ((severity, message),) = found("template", subject_of("label", template="{{ raise_exception('no') }}"))
    assert severity == "block" and "can't make a prompt" in message


def test_a_second_beginning_blocks(subject_of):
    subject = subject_of("label")
    context = subject.renders.context
    chat = context.pool.chat(context.model)
    twice = "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokens = replace(chat.tokens, add_bos=True)
    subject = subject_of("label", template=twice, tokens=tokens)
    assert found("double_bos", subject) == []  # terse prompts, which a tune learns, don't use the template
    form = subject.renders.plainest
    made = subject.renders.rows(form)
    bos = tokens.bos_id
    subject.renders._made[form] = tuple(
        (row, Row(prompt=(bos, bos, *one.prompt), answer=one.answer)) for row, one in made
    )
    ((severity, message),) = found("double_bos", subject)
    assert severity == "block" and f"{len(made)} rows" in message and "<|im_start|>" in message


@pytest.mark.parametrize(("share", "severity"), [(0.2, "warn"), (0.6, "block")])
def test_answers_that_do_not_end_are_counted(subject_of, share, severity):
    subject = subject_of("text")
    form = subject.renders.plainest
    made = subject.renders.rows(form)
    some = int(share * len(made))
    subject.renders._made[form] = tuple(
        (row, replace(one, answer=one.answer[:-1]) if at < some else one)
        for at, (row, one) in enumerate(made)
    )
    ((found_severity, message),) = found("end_of_turn", subject)
    assert found_severity == severity and f"{some} rows" in message and "<|im_end|>" in message


def test_a_row_that_teaches_nothing_blocks(subject_of):
    subject = subject_of("text")
    form = subject.renders.plainest
    (first, one), *others = subject.renders.rows(form)
    subject.renders._made[form] = ((first, replace(one, answer=())), *others)
    ((severity, message),) = found("supervised", subject)
    assert severity == "block" and f"1 row, such as {first.where}" in message


def test_an_answer_that_does_not_fit_behind_its_prompt_is_named(subject_of):
    def some_long(rows):
        return [{**row, "output": "late " * 600} if at < 10 else row for at, row in enumerate(rows)]

    subject = subject_of("text", some_long)
    long = sum(str(row.output).startswith("late") for row in subject.rows)
    ((severity, message),) = found("cut_answers", subject)
    assert severity == "block" and 0 < long <= 10 and f"{long} rows (" in message


@pytest.mark.parametrize(("kind", "count"), [("label", 80), ("json", 80), ("label", 24)])
def test_a_prompt_that_the_server_would_make_otherwise_blocks(subject_of, kind, count):
    other = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] + '<|im_end|>' }}"
        "{% endfor %}{{ '<|im_start|>assistant:' }}"
    )
    subject = subject_of(kind, lambda rows: rows[:count], template=other)
    looked = min(20, len(subject.rows))
    ((severity, message),) = found("serving_render", subject)
    assert severity == "block" and "by its template" in message
    assert f"{looked} rows of {looked} looked" in message


TOLD = CHATML.replace(
    "assistant\n' }}",
    "assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
"""Qwen3's form: it thinks unless it is told not to."""
DATED = CHATML.replace("{% for", "{{ strftime_now('%d %b %Y') }}\n{% for", 1)
MODELS = {
    "blanks": lambda path: make_spaced_gguf(path),
    "phi-3": lambda path: make_spaced_gguf(path, "phi-3", PHI),
    "thinking": lambda path: make_tiny_gguf(path, template=OPEN),
    "told": lambda path: make_tiny_gguf(path, template=TOLD),
    "dated": lambda path: make_tiny_gguf(path, template=DATED),
}


@pytest.mark.parametrize("name", MODELS)
def test_prompts_that_the_server_reads_alike_may_be_spelled_otherwise(subject_of, tmp_path, name):
    """A blank that a vocabulary puts first, or a control token takes; a thought closed; a fixed day."""
    model = MODELS[name](tmp_path / "model.gguf")

    def some_spelled(rows):
        return [{**row, "input": f"{row['input']} <|im_end|> {at}"} for at, row in enumerate(rows)]

    for change in (lambda rows: rows, some_spelled):
        assert found("serving_render", subject_of("label", change, model)) == []


def test_other_white_space_than_the_server_reads_blocks(subject_of, tmp_path):
    model = make_spaced_gguf(tmp_path / "model.gguf", "phi-3", PHI)
    subject = subject_of("label", model=model)
    chat = subject.renders.context.pool.chat(subject.renders.context.model)
    kept = replace(chat.tokens, takes_behind=frozenset())
    ((severity, message),) = found("serving_render", subject_of("label", model=model, tokens=kept))
    assert severity == "block" and "aren't served as they are learned" in message


def test_rows_are_shown_as_they_are_learned(subject_of):
    renders = subject_of("label").renders
    codes, words, *_ = shown_rows(renders, 3)
    assert len(shown_rows(renders, 3)) == 6 and (codes.form, words.form) == ("codes", "words")
    row = renders.examples[0]
    assert "".join(words.prompt) == row.input + "<|im_end|>"
    assert "".join(words.answer) == str(row.output) + "<|im_end|>" and len(codes.answer) == 1
