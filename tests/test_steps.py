"""Answers of several calls: what is asked, with which seeds, what is told of it, and that all ways agree."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rung.answering import Answerer
from rung.asking import fitted
from rung.cli.answers import as_json
from rung.engines.base import Progress
from rung.models.chat import Message
from rung.models.resolve import resolve
from rung.records import Answer, Example, Step
from rung.spec import AnswerSpec, ShotSpec, Spec, StepsSpec
from rung.steps import Call, answered, calls_of, fault_of, seed_of
from rung.system import Pool, System, ref_to, save
from rung.wording import messages
from tests.fixtures_climb import make_tiny_gguf

LABELS = ("billing", "delivery", "login")
SCHEMA = {
    "type": "object",
    "properties": {"topic": {"enum": list(LABELS)}, "days": {"type": "integer", "maximum": 99}},
    "required": ["topic", "days"],
}
ROWS = [Example(id=str(i), input=f"my parcel {i}", output=None) for i in range(4)]
VOTE = StepsSpec(kind="vote", samples=5, temperature=0.7)
THINK = StepsSpec(kind="think", max_tokens=12, close="Now the answer.")
REPAIR = StepsSpec(kind="repair", max_tokens=12, close="Wrong: {fault}. Again.")


def spec_of(kind, steps, form="free", **changes):
    fields = {"labels": LABELS} if kind == "label" else {"schema_": SCHEMA} if kind == "json" else {}
    fields |= {"engine": "llama", "answer": AnswerSpec(form=form, max_tokens=24), **changes}
    return Spec(rung="workflow", task="t", kind=kind, steps=steps, **fields)


class Script:
    """Answers in the order of a script, and keeps what was asked."""

    def __init__(self, *texts: str, broken: str | None = None, cut: str | None = None) -> None:
        self.texts, self.broken, self.cut = list(texts), broken, cut
        self.asked: list[tuple[Spec, Call]] = []

    def __call__(self, spec: Spec, calls: Sequence[Call], progress: Progress) -> list[Answer]:
        found = []
        for call in calls:
            self.asked.append((spec, call))
            text = self.texts.pop(0)
            failure = "the engine died" if text == self.broken else None
            value = None if failure else read(spec, text)
            found.append(
                Answer(
                    text=text,
                    value=value,
                    failure=failure,
                    prompt_tokens=10,
                    completion_tokens=2,
                    latency_s=1.0,
                    cut=text == self.cut,
                )
            )
            progress(len(found), len(calls))
        return found


def read(spec, text):
    from rung.scoring.extract import read_answer

    return read_answer(text, kind=spec.kind, labels=spec.labels, schema=spec.schema_)


def test_a_vote_draws_its_samples_with_fixed_seeds_and_gives_the_commonest():
    put = Script("7", "8", "7", "9", "7.0", "1", "2", "2", "1", "1")
    first, second = answered(spec_of("number", VOTE), ROWS[:2], put)
    assert (first.value, first.text, second.value) == (7, "7", 1)
    seeds = [call.seed for _, call in put.asked]
    assert (
        seeds == [seed_of(row, sample) for row in ROWS[:2] for sample in range(5)] and len(set(seeds)) == 10
    )
    assert first.steps == tuple(Step("sample", text, 10, 2, 1.0) for text in ("7", "8", "7", "9", "7.0"))
    assert (first.prompt_tokens, first.completion_tokens, first.latency_s) == (50, 10, 1.0)
    assert calls_of(first) == 5 and first.probability is None


def test_an_answer_of_several_calls_is_cut_where_the_call_that_gave_it_was():
    vote = answered(spec_of("number", VOTE), ROWS[:2], Script(*"72372", *"51551", cut="7"))
    assert [(found.value, found.cut) for found in vote] == [(7, True), (5, False)]
    (draft,) = answered(spec_of("text", REPAIR), ROWS[:1], Script("a draft", "", cut="a draft"))
    assert (draft.text, draft.cut) == ("a draft", True)
    (thought,) = answered(spec_of("text", THINK), ROWS[:1], Script("a thought", "the end", cut="a thought"))
    assert not thought.cut


def test_a_seed_hangs_on_the_question_alone():
    row = ROWS[0]
    assert seed_of(row, 1) == seed_of(replace(row, id="served", where="x:1", output=3), 1)
    assert len({seed_of(row, 0), seed_of(row, 1), seed_of(ROWS[1], 0)}) == 3
    assert seed_of(replace(row, context="c"), 0) != seed_of(row, 0)
    assert all(0 <= seed_of(row, i) < 2**31 for i in range(100))


def test_objects_are_voted_on_by_fields_and_written_in_the_schemas_order():
    texts = [json.dumps({"days": d, "topic": t}) for d, t in ((1, "login"), (2, "billing"), (2, "login"))]
    steps = VOTE.model_copy(update={"samples": 3})
    (found,) = answered(spec_of("json", steps), ROWS[:1], Script(*texts))
    assert found.value == {"days": 2, "topic": "login"}
    (made,) = answered(
        spec_of("json", steps), ROWS[:1], Script(texts[0], texts[1], '{"topic":"login","days":2}')
    )
    assert made.text == '{"topic":"login","days":2}'


def test_an_object_that_nobody_wrote_fits_the_schema_all_the_same():
    schema = {"oneOf": [{"properties": {"a": {"const": n}, "b": {"const": n}}} for n in (1, 2)]}
    spec = spec_of("json", VOTE.model_copy(update={"samples": 3}), schema_=schema)
    texts = ('{"a":1,"b":1}', '{"a":2,"b":2}', '{"a":1}', '{"b":2}', '{"a":2,"b":2}')
    (found,) = answered(spec, ROWS[:1], Script(*texts[:3]))
    assert found.value is not None and read(spec, json.dumps(found.value)) == found.value


def test_reasoning_stands_in_the_conversation_before_the_answer():
    put = Script("it is lost, so", "delivery")
    (found,) = answered(spec_of("label", THINK, form="words"), ROWS[:1], put)
    (free, first), (last, second) = put.asked
    assert free.answer == AnswerSpec(form="free", max_tokens=12) and first.after == () and first.seed is None
    assert last.answer.form == "words"
    assert second.after == (
        Message(role="assistant", content="it is lost, so"),
        Message(role="user", content="Now the answer."),
    )
    assert found.value == "delivery" and found.steps == (
        Step("thought", "it is lost, so", 10, 2, 1.0),
        Step("answer", "delivery", 10, 2, 1.0),
    )
    assert (found.prompt_tokens, found.completion_tokens, found.latency_s) == (20, 4, 2.0)


def test_several_trains_of_thought_vote():
    steps = THINK.model_copy(update={"samples": 3, "temperature": 0.7})
    put = Script("t1", "t2", "t3", "4", "5", "5")
    (found,) = answered(spec_of("number", steps), ROWS[:1], put)
    assert found.value == 5 and calls_of(found) == 6
    assert [call.seed is None for _, call in put.asked] == [False] * 3 + [True] * 3


def test_a_draft_that_can_be_read_is_the_answer():
    put = Script('{"topic":"login","days":3}')
    (found,) = answered(spec_of("json", REPAIR, form="schema"), ROWS[:1], put)
    assert len(put.asked) == 1 and put.asked[0][0].answer.form == "free" and calls_of(found) == 1
    assert found.value == {"topic": "login", "days": 3}


def test_a_draft_with_a_fault_is_told_it_and_answered_once_more():
    spec = spec_of("json", REPAIR, form="schema")
    drafts, mended = ('{"topic":"tax","days":3}', '{"topic":"login","days":1}'), '{"topic":"login","days":3}'
    first, second = answered(spec, ROWS[:2], Script(*drafts, mended))
    assert second.value == {"topic": "login", "days": 1} and calls_of(second) == 1
    (draft, fault, final) = first.steps
    assert draft == Step("draft", '{"topic":"tax","days":3}', 10, 2, 1.0) and final.what == "answer"
    assert fault == Step("fault", "at topic: 'tax' is not one of ['billing', 'delivery', 'login']")
    assert first.value == {"topic": "login", "days": 3} and calls_of(first) == 2
    asked = Script("{", '{"topic":"login","days":3}')
    answered(spec, ROWS[:1], asked)
    told = asked.asked[1][1].after
    assert told[0] == Message(role="assistant", content="{") and told[1].content.startswith(
        "Wrong: it isn't JSON"
    )
    assert asked.asked[1][0].answer.form == "schema"


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("number", "about twelve", "it holds no number"),
        ("number", "about 12", "it was cut off before it ended"),
        ("label", "tax", "'tax' names none of the labels: billing, delivery, login, or several"),
        ("json", "days: 3", "it isn't JSON: broken JSON at column 1"),
        ("json", '{"topic":"login"}', "at the top: 'days' is a required property"),
        ("text", "Hello.", ""),
    ],
)
def test_a_fault_says_what_is_wrong_in_one_line(kind, text, said):
    fault = fault_of(spec_of(kind, REPAIR), Answer(text=text, value=None))
    assert fault is not None and fault.startswith(said) and "\n" not in fault


def test_a_text_is_gone_over_and_an_empty_review_leaves_the_draft():
    first, second = answered(spec_of("text", REPAIR), ROWS[:2], Script("Hello", "Bye", "Hello, dear.", ""))
    assert (first.text, second.text, second.value) == ("Hello, dear.", "Bye", "Bye")
    assert calls_of(first) == calls_of(second) == 2


@pytest.mark.parametrize("steps", [VOTE.model_copy(update={"samples": 2}), THINK, REPAIR])
def test_an_answer_of_which_a_call_broke_is_a_broken_one(steps):
    found = answered(spec_of("number", steps), ROWS[:1], Script("x", "broken", "3", broken="broken"))
    assert found[0].failure == "the engine died" and found[0].value is None


def test_progress_goes_up_and_ends_at_all_rows():
    seen = []
    answered(
        spec_of("number", THINK), ROWS, Script(*"12345678"), lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen) and seen[-1] == (4, 4)


def test_a_system_of_one_call_has_the_digest_that_it_had_before_there_were_steps():
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    plain = Spec(
        rung="few_shot",
        task="t",
        kind="json",
        schema_=schema,
        engine="torch",
        instruction="Read.",
        shots=ShotSpec(choice="fixed", k=8),
    )
    assert plain.digest == "4343725bd8b372ed"
    steps = [VOTE, VOTE.model_copy(update={"samples": 7}), THINK, REPAIR]
    assert len({plain.digest, *(plain.model_copy(update={"steps": one}).digest for one in steps)}) == 5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return resolve(str(make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")))


@pytest.fixture(scope="module")
def pool(tiny):
    with Pool(models={tiny.digest: tiny}, threads=1, parallel=4) as found:
        yield found


def made(folder, tiny, kind, steps, engine, form) -> System:
    spec = spec_of(
        kind, steps, form=form, engine=engine, model=ref_to(tiny, str(tiny.gguf)), instruction="Say."
    )
    return save(folder / f"{kind}-{engine}-{steps.kind}", spec, {})


@pytest.mark.parametrize("engine", ["llama", "torch"])
@pytest.mark.parametrize(
    ("kind", "steps", "form"),
    [
        ("json", VOTE, "schema"),
        ("label", THINK, "words"),
        ("json", REPAIR, "schema"),
        ("text", REPAIR, "free"),
    ],
)
def test_a_system_of_several_calls_answers_alike_wherever_it_is_asked(
    kind, steps, form, engine, tiny, pool, tmp_path
):
    system = made(tmp_path, tiny, kind, steps, engine, form)
    first = system.answer(ROWS[:2], pool)
    assert all(a.failure is None and calls_of(a) >= 2 for a in first)
    again = System.load(system.folder)
    assert again.digest == system.digest and again.spec.steps == steps
    (alone,) = Answerer(again, pool).batch([{"input": ROWS[0].input}])
    assert alone.value == first[0].value
    assert [one[:4] for one in alone.steps] == [one[:4] for one in first[0].steps]
    assert sum(one.prompt_tokens for one in alone.steps) == alone.prompt_tokens
    assert sum(one.completion_tokens for one in alone.steps) == alone.completion_tokens
    told = json.loads(as_json(alone))["steps"]
    assert [(one["step"], one["text"]) for one in told] == [one[:2] for one in first[0].steps]
    assert all(("prompt_tokens" in one) == (one["step"] != "fault") for one in told)
    if kind == "json":
        assert all(read(system.spec, a.text) == a.value is not None for a in first)
    assert system.has_probabilities == (kind == "label")
    if kind == "label":
        assert sum(first[0].distribution) == pytest.approx(1) and first[0].probability


def test_what_doesnt_fit_beside_the_question_is_left_out_of_it(tiny, pool):
    chat, long = pool.chat(tiny), Message(role="assistant", content="word " * 300)
    spec = spec_of("number", THINK, instruction="Say.")
    bare, _ = fitted(spec, chat, ROWS[0], [], 200)
    after = (long, Message(role="user", content="So?"))
    whole, _ = fitted(spec, chat, ROWS[0], [], 2000, after=after)
    cut, _ = fitted(spec, chat, ROWS[0], [], 200, after=after)
    assert cut == bare == chat.render(messages("Say.", ROWS[0])) and len(whole) > 200
