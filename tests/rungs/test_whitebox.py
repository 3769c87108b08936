"""Distillation on policy: who can teach so, that it brings a student near its teacher, and what is kept."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.errors import EngineError, ModelError, OtherLessonError
from rung.records import Trial
from rung.rungs import distill, tuning, whitebox
from rung.rungs.base import Built, Context
from rung.rungs.distill import Distill
from rung.rungs.sft import Sft
from rung.rungs.whitebox import no_white_box, on_policy
from rung.spec import ShotSpec
from rung.system import System
from tests.fixtures_climb import label_rows, make_tiny_gguf, number_rows, opened, write_rows
from tests.rungs.test_reinforce_rung import weakened

pytestmark = pytest.mark.usefixtures("toy_rates")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def short_rows(count: int) -> list[dict]:
    """Rows whose answer is an object of one key, so that drawing it takes few tokens."""
    return [{**row, "output": {"topic": row["output"]}} for row in label_rows(count)]


def tuned(tiny, folder, rows: list[dict], epochs: int) -> System:
    """A System of sft, with weights of its own by its adapter."""
    with (
        pytest.MonkeyPatch.context() as patch,
        opened(tiny, write_rows(folder / "rows.jsonl", rows), folder) as context,
    ):
        patch.setattr(tuning, "MOST_EPOCHS", epochs)
        return Sft().build(context).system


@pytest.fixture(scope="module")
def teacher(tiny, tmp_path_factory) -> System:
    """Mostly right, in bf16 as well: one of few passes is little better than chance."""
    return tuned(tiny, tmp_path_factory.mktemp("teacher"), short_rows(160), 16)


@pytest.fixture
def begin(tiny, tmp_path):
    """Opens a context of a hundred rows, and forty inputs without outputs."""
    stack = []

    def of(rows: list[dict]) -> Context:
        opening = opened(tiny, write_rows(tmp_path / "rows.jsonl", rows[:100]), tmp_path)
        stack.append(opening)
        found = opening.__enter__()
        like = replace(found.train[0], output=None)
        free = [replace(like, id=f"free-{n}", input=row["input"]) for n, row in enumerate(rows[100:])]
        return replace(found, unlabelled=tuple(free))

    yield of
    for opening in reversed(stack):
        opening.__exit__(None, None, None)


@pytest.fixture
def context(begin):
    return begin(short_rows(140))


def journal(context) -> list[dict]:
    path = context.work / "on-policy" / "work" / "training" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def made_of(system: System, score: float, n: int) -> Built:
    chosen = Trial(name="the System made of it", score=score, n=n, seconds=0.0, chosen=True)
    return Built(system=system, what="LoRA", passes=2.0, trials=(chosen,), notes=("taught",))


def test_a_student_comes_nearer_to_its_teacher_and_is_kept_where_dev_gains(
    context, teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(whitebox, "MOST_PASSES", 6)
    monkeypatch.setattr(whitebox, "RATE", 5e-4)
    spec = teacher.spec.model_copy(update={"rung": "distill"})
    weak = weakened(System(teacher.folder, spec), 0.2, tmp_path / "weak")
    before = context.measure(weak, context.dev, "before").score
    made = on_policy(context, teacher, made_of(weak, before, len(context.dev)), context.unlabelled)
    apart = [record["loss"] for record in journal(context) if record["kind"] == "stretch"]
    assert apart[-1] < 0.7 * apart[0]
    (told,) = [note for note in made.notes if note.startswith("on policy: ")]
    assert "18 steps of 16 answers of the student's own to 40 inputs" in told
    assert (
        f"reverse KL to the teacher, {apart[0]:.3f} nats a token at first and {apart[-1]:.3f} at last" in told
    )
    after = context.measure(made.system, context.dev, "after").score
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    assert after > before and chosen.score == after and made.notes[0] == "taught"
    assert made.what.startswith("LoRA; then on policy, schema, rate 0.0005, ")
    assert made.passes == 2.0 and (made.system.spec.rung, made.upon) == ("distill", None)


def test_what_is_no_better_on_dev_leaves_the_student_as_it_was(context, teacher, tmp_path):
    # Not so sure of anything that a step which rounding alone decides moves it far.
    teacher = weakened(teacher, 0.5, tmp_path / "mild")
    student = System(teacher.folder, teacher.spec.model_copy(update={"rung": "distill"}))
    score = context.measure(student, context.dev, "before").score
    made = on_policy(context, teacher, made_of(student, score, len(context.dev)), context.unlabelled)
    scores = [record["value"] for record in journal(context) if record["kind"] == "score"]
    if max(scores) == scores[0]:
        assert made.system is student and made.what == "LoRA"
        assert "on policy no step was better on dev" in made.notes
    assert [trial.chosen for trial in made.trials].count(True) == 1 and made.trials[-1].chosen
    # The teacher is the student, and only their numbers' rounding is apart.
    assert all(record["loss"] < 0.05 for record in journal(context) if record["kind"] == "stretch")


def test_a_course_beside_one_teacher_is_not_gone_on_with_beside_another(context, teacher, tmp_path):
    student = made_of(System(teacher.folder, teacher.spec.model_copy(update={"rung": "distill"})), 0.5, 20)
    on_policy(context, teacher, student, context.unlabelled)
    begun = len(journal(context))
    on_policy(context, teacher, student, context.unlabelled)
    assert len(journal(context)) == begun
    with pytest.raises(OtherLessonError, match="another digest") as raised:
        on_policy(context, weakened(teacher, 0.5, tmp_path / "other"), student, context.unlabelled)
    assert raised.value.folder == context.work / "on-policy"


def test_a_course_without_time_leaves_the_student_and_says_so(context, teacher):
    made = made_of(teacher, 0.5, 20)
    late = replace(context, deadline=context.deadline - 580)
    found = on_policy(late, teacher, made, context.unlabelled)
    assert found.system is teacher and found.trials == made.trials
    assert "nothing was learned from the teacher on policy: " in found.notes[-1]
    assert "of the budget are left to tune in" in found.notes[-1]


def test_a_teacher_that_the_free_memory_does_not_hold_is_told_of_and_not_loaded(
    context, teacher, monkeypatch
):
    monkeypatch.setattr(whitebox, "free_bytes", lambda device: 10_000)
    made = made_of(teacher, 0.5, 20)
    found = on_policy(context, teacher, made, context.unlabelled)
    assert found.system is teacher and found.trials == made.trials
    assert "the teacher needs about 0.0 GiB beside its student, and 0.0 GiB are free" in found.notes[-1]


@pytest.mark.parametrize("error", [EngineError("it died"), ModelError("no such adapter")])
def test_a_teacher_that_cannot_be_read_leaves_the_student_and_says_so(context, teacher, monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(whitebox, "load_adapter", broken)
    made = made_of(teacher, 0.5, 20)
    found = on_policy(context, teacher, made, context.unlabelled)
    assert found.system is teacher
    assert found.notes[-1] == f"nothing was learned from the teacher on policy: {error}"


def test_a_step_in_which_every_answer_breaks_ends_the_course(context, teacher, monkeypatch):
    def broken(state, given, items, place, count):
        failed = SimpleNamespace(failure="it died", drawn=())
        return [(None,) for _ in items], [(failed,) for _ in items]

    monkeypatch.setattr(whitebox, "drawn_answers", broken)
    found = on_policy(context, teacher, made_of(teacher, 0.5, 20), context.unlabelled)
    assert found.notes[-1].endswith("no answer could be drawn to the inputs: it died")


def test_a_teacher_that_looks_up_examples_is_asked_no_training_row(context, teacher):
    def ids(choice: str) -> set[str]:
        shots = ShotSpec(choice=choice, k=0 if choice == "none" else 2)
        spec = teacher.spec.model_copy(update={"shots": shots})
        return {e.id for e in distill._for_on_policy(context, System(teacher.folder, spec))}

    free = {e.id for e in context.unlabelled}
    assert ids("nearest") == free
    assert ids("none") == ids("fixed") == free | {e.id for e in context.train}


def test_too_few_inputs_for_a_course_are_not_told_as_too_little_time(context, teacher):
    found = on_policy(context, teacher, made_of(teacher, 0.5, 20), context.unlabelled[:32])
    assert "the inputs are enough for 4 steps, and fewer than 5 teach" in found.notes[-1]


@pytest.fixture(scope="module")
def of_numbers(tiny, tmp_path_factory) -> System:
    """A teacher that was tuned on numbers of a few tokens, on which its draws agree."""
    return tuned(tiny, tmp_path_factory.mktemp("numbers"), number_rows(160), 3)


@pytest.fixture
def numbers(begin, of_numbers, monkeypatch) -> tuple[Context, System]:
    """A context of that teacher; and that."""
    teacher = of_numbers
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 1)
    context = begin(number_rows(140))
    task = context.task.model_copy(update={"teacher": str(teacher.folder)})
    return replace(context, task=task), teacher


def test_the_rung_distill_goes_on_on_policy_with_a_teacher_of_the_same_tokens(numbers):
    context, _ = numbers
    assert Distill().skip(context) is None
    made = Distill().build(context)
    (told,) = [note for note in made.notes if note.startswith("on policy: ")]
    inputs = len(context.train) + len(context.unlabelled)
    assert f"of 16 answers of the student's own to {inputs} inputs" in told
    scored = context.measure(made.system, context.dev, "again").score
    (chosen,) = [trial for trial in made.trials if trial.chosen]
    assert chosen.score == scored and made.system.spec.rung == "distill"


def test_no_time_is_kept_for_a_teacher_whose_weights_the_free_memory_does_not_hold(numbers, monkeypatch):
    context, _ = numbers
    monkeypatch.setattr(whitebox, "free_bytes", lambda device: 10_000)
    made = Distill().build(context)
    assert any(
        "not its probabilities: the teacher needs about 0.0 GiB beside its student" in n for n in made.notes
    )
    kept_s = context.told("seconds kept for on policy")
    tuned_s, reserve_s = context.told("seconds to tune, and to keep")
    assert tuned_s + reserve_s > 0.9 * kept_s / whitebox.TIME_SHARE


def test_where_time_allows_few_answers_sfts_tune_is_gone_on_from_without_any(
    context, teacher, tmp_path, monkeypatch
):
    sft = weakened(teacher, 0.2, tmp_path / "weak")
    task = context.task.model_copy(update={"teacher": str(teacher.folder)})
    named = replace(context, task=task, built={"sft": sft})
    monkeypatch.setattr(whitebox, "RATE", 5e-4)
    monkeypatch.setattr(distill, "TEACHING_SHARE", 1e-9)
    before = context.measure(sft, context.dev, "before").score
    made = Distill().build(named)
    answers = [path.name for path in context.bench.store.folder.iterdir()]
    assert not any("draw" in name for name in answers)
    after = context.measure(made.system, context.dev, "after").score
    assert after > before and (made.system.spec.rung, made.upon) == ("distill", "sft")
    assert made.what.startswith("on policy, schema, rate 0.0005, ")
    assert "its answers to about 0 inputs, fewer than the" in made.found[0]
    assert made.found[1].startswith("the teacher scores ")
    assert "isn't counted" in made.notes[0]
    asked = len(context.train) + len(context.unlabelled)
    assert any(f"of the student's own to {asked} inputs" in note for note in made.notes)


def test_where_there_is_time_for_answers_or_no_memory_sfts_tune_is_not_gone_on_from(
    numbers, tmp_path, monkeypatch
):
    context, teacher = numbers
    named = replace(context, built={"sft": teacher})
    scored = context.measure(teacher, context.dev, "teacher")
    assert Distill()._from_sft(named, teacher, scored) == (None, "")
    monkeypatch.setattr(distill, "TEACHING_SHARE", 1e-9)
    monkeypatch.setattr(whitebox, "free_bytes", lambda device: 10_000)
    made, why = Distill()._from_sft(replace(named, folder=tmp_path / "fresh"), teacher, scored)
    assert made is None and why.startswith("sft's tune couldn't be gone on from on policy: the teacher needs")


def test_after_a_course_from_sft_that_was_refused_the_teachers_answers_are_learned_from(numbers, monkeypatch):
    context, teacher = numbers
    monkeypatch.setattr(distill, "TEACHING_SHARE", 1e-9)
    monkeypatch.setattr(whitebox, "FEWEST_STEPS", 10_000)
    made = Distill().build(replace(context, built={"sft": teacher}))
    assert " rows of " in made.what
    first = next(note for note in made.notes if note.startswith("sft's tune couldn't be gone on from"))
    assert "fewer than 10000 teach next to nothing" in first
    # The second course has another start, and a state of its own.
    assert any(note.startswith("nothing was learned from the teacher on policy: ") for note in made.notes)


def test_who_cannot_teach_so_is_told_of(context, teacher, tiny, tmp_path):
    spec = teacher.spec
    assert no_white_box(context, teacher, spec) is None
    chat = teacher.chat(context.pool)

    def other(**changes) -> Any:
        plain = {"is_hosted": False, "spec": spec, "chat": lambda pool: chat}
        return SimpleNamespace(**(plain | changes))

    assert no_white_box(context, other(), spec) is None
    assert "isn't one local model" in str(no_white_box(context, other(is_hosted=True), spec))
    voting = spec.model_copy(update={"engine": "head"})
    assert "isn't one local model" in str(no_white_box(context, other(spec=voting), spec))
    texts = SimpleNamespace(tokens=SimpleNamespace(texts=("a", "b")))
    assert "its tokens aren't those" in str(no_white_box(context, other(chat=lambda pool: texts), spec))
    ends = replace(chat, end=0)
    assert "begins or ends its answers" in str(no_white_box(context, other(chat=lambda pool: ends), spec))
    tagged = spec.model_copy(update={"answer": spec.answer.model_copy(update={"written": "tagged"})})
    assert "calls in another form" in str(no_white_box(context, other(), tagged))
    with opened(tiny, write_rows(tmp_path / "labels.jsonl", label_rows(120)), tmp_path / "l") as labels:
        assert "labels are chosen" in str(no_white_box(labels, teacher, spec))


def test_the_numbers_of_its_page_are_those_of_the_program():
    page = Path(__file__).parents[2] / "docs" / "distill.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"{whitebox.PROMPTS} in a step, twice through them at most" in text and whitebox.MOST_PASSES == 2
    assert whitebox.RATE == 1e-4 and "at a rate of 10⁻⁴" in text
    assert f"{100 * whitebox.TIME_SHARE:.0f} % of the time" in text
    assert f"where it is {whitebox.FEWEST_S:.0f} s at least" in text
