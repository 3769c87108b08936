"""Tunes in FunctionGemma's form of call: on a tiny model with a template of that kind, under both engines.

Its GGUF file calls the marks of calls control tokens, which both engines would leave out of an answer's text.
"""

import json
import time
from dataclasses import replace
from itertools import islice, permutations

import pytest

from rung.calling import from_tags, tagged_text
from rung.checks.base import Subject
from rung.checks.renders import Renders
from rung.checks.table import CHECKS
from rung.models.tagged_calls import ASKED, ESCAPE, STOPS, spelled
from rung.records import Splits, Trial
from rung.rungs import coursing, reinforcing, reward_gate, rollouts, tuning, whitebox
from rung.rungs.base import JOURNAL_FILE, Built
from rung.rungs.below import TAGGED
from rung.rungs.preferred import material
from rung.rungs.reinforcing import reinforce
from rung.rungs.rendered import rendered, rendered_rejected
from rung.rungs.sft import Sft, answer_forms, begun_forms, settled_system
from rung.rungs.tune import BEST_FOLDER, Arm, Plan, Tune
from rung.rungs.whitebox import no_white_box, on_policy
from rung.runs import append_jsonl
from rung.scoring.calls import same_calls
from rung.system import System, save
from rung.training.losses import completion_targets
from tests.fixtures_climb import FILLERS, TOPICS, Log, make_tiny_gguf, opened, write_rows
from tests.fixtures_serve import Server, said
from tests.models.test_tagged_calls import TAGGED as TEMPLATE
from tests.rungs.test_reinforce_rung import weakened

CONTROL, USER_DEFINED = 3, 4
STEPS = 120
FIND = {
    "name": "find",
    "description": "Looks up.",
    "parameters": {"properties": {"topic": {"enum": list(TOPICS)}}, "required": ["topic"]},
}
ASK = {"name": "ask", "description": "", "parameters": {"properties": {"at": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": one} for one in (FIND, ASK)]
CALLED = {
    "refund": [{"name": "find", "arguments": {"topic": "billing"}}],
    "password": [],
}
"""What each last word is answered with; one of them with no call at all."""
OTHER = [{"name": "ask", "arguments": {"at": "desk"}}]


def rows(count: int) -> list[dict]:
    """Conversations whose last word says what is called, if anything."""
    found = []
    for number, fillers in enumerate(islice(permutations(FILLERS, 3), count)):
        word = list(CALLED)[number % len(CALLED)]
        calls = [
            {"type": "function", "function": {**call, "arguments": json.dumps(call["arguments"])}}
            for call in CALLED[word]
        ]
        asked = {"role": "user", "content": " ".join((*fillers, word))}
        answer = {"role": "assistant", "content": None, "tool_calls": calls}
        found.append({"messages": [asked, answer], "tools": TOOLS})
    return found


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_gguf(folder / "tiny.gguf", context=1024, template=TEMPLATE, marks=CONTROL)


@pytest.fixture(scope="module")
def context(gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    with opened(gguf, write_rows(folder / "calls.jsonl", rows(160)), folder) as found:
        yield found


@pytest.fixture(scope="module")
def tuned(context):
    """What some steps in that form made of the model: its answers then, its score, and the System of it."""
    forms = answer_forms(context)
    plan = Plan(folder=context.work / "training", budget_s=600, reserve_s=0.0, seed=0)
    with Tune(context, forms, plan) as tune:
        arm = Arm(form=TAGGED, rate=tune.method.rates[2])
        tune.run(arm, STEPS)
        tune.keep(arm, STEPS)
        score = tune.score(arm, STEPS, context.dev)
        answers = tune.answers(arm, context.dev)
    return answers, score, settled_system(context, forms[TAGGED], plan.folder / BEST_FOLDER)


def under(context, system, engine) -> System:
    """The same System under an engine."""
    files = {name: system.folder / name for name in system.spec.files}
    return save(context.work / engine, system.spec.model_copy(update={"engine": engine}), files)


def values(answers) -> list:
    assert all(a.failure is None for a in answers)
    return [a.value for a in answers]


def test_calls_are_learned_as_the_model_was_taught_and_as_json(context):
    forms = answer_forms(context)
    assert list(forms) == [TAGGED, "calls"]
    own, json_ = forms.values()
    assert (own.style, own.answer.form, own.answer.written) == ("chat", "free", "tagged")
    assert own.answer.most_calls == json_.answer.most_calls == 4 and json_.style == "terse"
    chat = context.pool.chat(context.model)
    kinds = {e.output[0]["name"] if e.output else "": e for e in context.train}
    for row, made in zip(kinds.values(), rendered(context, own, list(kinds.values())), strict=True):
        shown = chat.tokens.decode(made.prompt)
        assert shown.startswith(f"developer\n{ASKED}<start_function_declaration>declaration:")
        assert shown.endswith(f"user\n{row.input}\nmodel\n") and "Functions (JSON)" not in shown
        text = spelled(row.output)
        assert text == tagged_text(row.output) and chat.tokens.decode(made.answer[:-1]) == text
        # Every token that is to be written is learned, the one that ends it too, and none of the prompt.
        _, columns, targets = completion_targets([made])
        assert targets.tolist() == list(made.answer) and columns.tolist()[0] == len(made.prompt) - 1
        ends = STOPS[0] if row.output else "<|im_end|>"
        assert chat.tokens.texts[made.answer[-1]] == ends
        assert len(made.answer) <= own.answer.max_tokens


@pytest.mark.parametrize("odd", [ESCAPE, STOPS[0]])
def test_where_a_row_cannot_be_spelled_so_calls_are_json_alone_and_that_is_told(context, odd):
    from rung.rungs.sft import _on_form

    assert _on_form(context) == ()
    call = {"name": "ask", "arguments": {"at": f"a{odd}b"}}
    row = replace(context.dev[0], output=[call], where="calls.jsonl:7")
    other = replace(context, dev=(row, *context.dev[1:]))
    assert list(answer_forms(other)) == ["calls"]
    (note,) = _on_form(other)
    assert note.startswith("calls are learned as JSON alone: a row calls with what") and row.where in note
    assert Renders(context, (row,)).forms.keys() == {"calls"}
    spec = answer_forms(context)[TAGGED]
    assert rendered_rejected(context, spec, [replace(row, rejected=json.dumps([call]))]) == [None]


def test_rejected_answers_are_spelled_as_chosen_ones_are(context):
    spec, chat = answer_forms(context)[TAGGED], context.pool.chat(context.model)
    chosen = next(e for e in context.train if e.output == CALLED["refund"])
    worse = [*OTHER, *OTHER]
    texts = (json.dumps(worse), json.dumps(CALLED["refund"]), "It is at the desk.", "[]")
    given = [replace(chosen, rejected=text) for text in texts]
    calls, same, words, none = rendered_rejected(context, spec, given)
    (wanted,) = rendered(context, spec, [chosen])
    assert calls is not None and words is not None and none is not None
    assert chat.tokens.decode(calls.answer[:-1]) == spelled(worse) and calls.answer[-1] == chat.call_end
    assert same == wanted and calls.prompt == wanted.prompt
    assert chat.tokens.decode(words.answer) == "It is at the desk." and words.answer[-1] == chat.end
    assert none.answer == (chat.end,) != (chat.call_end,)
    found = material(replace(context, train=given, dev=()), spec)
    assert [item.rows[1] for item in found.items] == [calls, words, none]


def test_a_tune_writes_that_form_and_both_engines_answer_as_it_did(context, tuned):
    answers, score, (system, parity, note) = tuned
    assert system.spec.answer.written == "tagged" and system.spec.style == "chat"
    assert parity is not None and parity.agreement >= 0.99 and note.startswith("engine ")
    assert score["score"] > 0.8 and score["verbatim"] == pytest.approx(score["score"], abs=0.05)
    assert {json.dumps(value) for value in values(answers)} >= set(map(json.dumps, CALLED.values()))
    for engine in ("torch", "llama"):
        made = under(context, system, engine)
        found = made.answer(context.dev, context.pool)
        assert sum(a == b for a, b in zip(values(found), values(answers), strict=True)) >= 0.95 * len(found)
        assert not any(a.cut for a in found if a.value is not None)
        for row, answer in zip(context.dev, found, strict=True):
            if answer.value is not None and same_calls(answer.value, row.output):
                assert answer.text == from_tags(spelled(row.output), None)[0]
                assert answer.completion_tokens < len(rendered(context, system.spec, [row])[0].answer)
        again = System.load(made.folder)
        assert again.digest == made.digest
        assert values(again.answer(context.dev[:4], context.pool)) == values(found[:4])


@pytest.mark.parametrize("marks", [CONTROL, USER_DEFINED])
def test_what_was_learned_is_read_whatever_a_file_calls_the_marks(context, tuned, tmp_path, marks):
    """The weights are the same, and the adapter is put over both."""
    answers, _, (system, *_) = tuned
    path = make_tiny_gguf(tmp_path / "other.gguf", context=1024, template=TEMPLATE, marks=marks)
    with opened(path, context.task.data.train, tmp_path) as other:
        spec = system.spec.model_copy(update={"model": other.ref, "engine": "llama"})
        files = {name: system.folder / name for name in system.spec.files}
        found = save(tmp_path / "system", spec, files).answer(context.dev[:12], other.pool)
    assert sum(a == b for a, b in zip(values(found), values(answers[:12]), strict=True)) >= 11


def one_of_each(given) -> list:
    """A row that is answered with a call, and one that isn't."""
    return list({bool(e.output): e for e in given}.values())


def test_it_is_served_as_calls_under_both_engines_streamed_or_not(context, tuned, tmp_path):
    _, _, (system, *_) = tuned
    made = {engine: under(context, system, engine) for engine in ("torch", "llama")}
    with Server(*(f"{name}={one.folder}" for name, one in made.items()), home=tmp_path) as server:
        for name, one in made.items():
            rows_ = one_of_each(context.dev)
            for row, answer in zip(rows_, one.answer(rows_, context.pool), strict=True):
                asked = {"model": name, "messages": said(row.input), "tools": TOOLS}
                (choice,) = server.user.chat.completions.create(**asked).choices
                calls = [call.function for call in choice.message.tool_calls or ()]
                read = [{"name": c.name, "arguments": json.loads(c.arguments)} for c in calls]
                assert read == (answer.value or [])
                assert choice.finish_reason == ("tool_calls" if read else "stop")
                assert not (read and choice.message.content) and ESCAPE not in str(choice.message.content)
                streamed = server.user.chat.completions.create(**asked, stream=True)
                deltas = [call for chunk in streamed for call in chunk.choices[0].delta.tool_calls or ()]
                assert [call.function.name for call in deltas] == [call.name for call in calls]


def test_the_rung_makes_a_system_of_it_and_goes_on_where_it_was(context, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 2)
    fresh = replace(context, folder=tmp_path / "rung", deadline=time.monotonic() + 120)
    made = Sft().build(fresh)
    assert "answers as tagged calls" in made.what and made.system.spec.answer.written == "tagged"
    assert any("too few for it" in note for note in made.notes)
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    assert context.measure(made.system, context.dev, "again").score == chosen.score
    assert Sft().build(fresh).system.digest == made.system.digest


def test_reward_reads_the_tags_and_goes_on_from_there(context, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(reinforcing, "MOST_STEPS", 10)
    monkeypatch.setattr(reinforcing, "PROMPTS", 2)
    monkeypatch.setattr(coursing, "LOOKS", 2)
    for name in ("MOST_PROMPTS", "FEWEST_PROMPTS", "CHUNK"):
        monkeypatch.setattr(reward_gate, name, 6)
    # A model as small as this is sure of nothing.
    monkeypatch.setattr(rollouts, "TEMPERATURE", 0.2)
    monkeypatch.setattr(rollouts, "MOST_EVEN", 1.0)
    monkeypatch.setattr(reward_gate, "LEAST_MIXED", 0.0)
    monkeypatch.setattr(reward_gate, "MOST_REWARD", 1.0)
    _, _, (system, *_) = tuned
    fresh = replace(context, folder=tmp_path / "rung", deadline=time.monotonic() + 300, dev=context.dev[:10])
    plan = Plan(folder=fresh.work / "training", budget_s=250.0, reserve_s=10.0, seed=0)
    seen = []
    drawn = reinforcing.drawn_groups
    monkeypatch.setattr(reinforcing, "drawn_groups", lambda *some: seen.append(drawn(*some)) or seen[-1])
    outcome = reinforce(fresh, system, plan)
    assert outcome.what.startswith("GRPO, ") and "10 steps" in outcome.found[1]
    chat = context.pool.chat(context.model)
    pairs = [
        pair
        for groups in seen
        for group in groups
        for pair in zip(group.completions, group.rewards, strict=True)
    ]
    calls = [(one, reward) for one, reward in pairs if one.text == spelled(CALLED["refund"])]
    assert calls and {reward for _, reward in calls} <= {0.0, 1.0} and any(reward for _, reward in calls)
    # What ended them was drawn, and is learned from.
    assert {one.drawn[-1] for one, _ in calls} == {chat.call_end} != {chat.end}


def test_a_teacher_of_the_same_form_teaches_on_policy_and_one_of_another_is_refused(
    context, tuned, tmp_path, monkeypatch
):
    for name, value in (("MOST_STEPS", 5), ("PROMPTS", 4)):
        monkeypatch.setattr(whitebox, name, value)
    monkeypatch.setattr(coursing, "LOOKS", 2)
    _, _, (system, *_) = tuned
    fresh = replace(context, folder=tmp_path / "rung", deadline=time.monotonic() + 300, dev=context.dev[:10])
    teacher = under(context, system, "torch")
    forms = answer_forms(fresh)
    assert no_white_box(fresh, teacher, forms[TAGGED]) is None
    assert "another form" in str(no_white_box(fresh, teacher, forms["calls"]))
    weak = weakened(System(system.folder, system.spec), 0.5, tmp_path / "weak")
    trial = Trial(name="the System made of it", score=0.0, n=len(fresh.dev), seconds=0.0, chosen=True)
    made = Built(system=weak, what="LoRA", passes=2.0, trials=(trial,))
    found = on_policy(fresh, teacher, made, context.train[:24])
    assert any(
        note.startswith("on policy: 5 steps of 4 answers of the student's own") for note in found.notes
    )
    plain = replace(made, system=System(weak.folder, forms["calls"]))
    (refused,) = on_policy(fresh, teacher, plain, context.train[:24]).notes
    assert refused.startswith("only the teacher's answers were learned from") and "another form" in refused


def test_the_checks_find_nothing_wrong_with_it(context):
    splits = Splits(train=context.train, dev=context.dev, test=(), test_given=True, digest="")
    rows_ = (*context.train[:20], *context.dev[:20])
    subject = Subject(task=context.task, splits=splits, renders=Renders(context, rows_))
    by_name = {one.name: one for one in CHECKS}
    for name in ("template", "cut_answers", "supervised", "end_of_turn", "double_bos", "serving_render"):
        assert by_name[name].run(subject) == [], name


def test_a_tune_goes_on_in_the_forms_that_it_was_begun_with(context, tmp_path):
    """One that an earlier version began has a journal, and settled no forms: it learned calls as JSON."""
    log = Log()
    old, new = (replace(context, folder=tmp_path / name, reporter=log) for name in ("old", "new"))
    plans = [Plan(folder=one.work / "training", budget_s=60, reserve_s=0.0, seed=0) for one in (old, new)]
    append_jsonl(plans[0].folder / JOURNAL_FILE, [{"kind": "batch", "rows": 4}])
    assert list(begun_forms(old, plans[0], "sft")) == ["calls"]
    assert log.lines == ["sft goes on as an earlier version began it: calls are JSON alone"]
    assert begun_forms(new, plans[1], "sft") == answer_forms(new)
    append_jsonl(plans[1].folder / JOURNAL_FILE, [{"kind": "batch", "rows": 4}])
    assert begun_forms(new, plans[1], "sft") == answer_forms(new), "it was begun with both"
    assert list(begun_forms(old, plans[0], "sft")) == ["calls"] and len(log.lines) == 1
