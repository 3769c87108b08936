"""What a teacher is asked and what of its answers is kept, over HTTP and on a local model; no tune is run."""

import json
import math
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rung.checks.rows import prepare
from rung.climb.climb import Options
from rung.climb.hosted import hosted_models
from rung.climb.synthesis import SynthOptions, synthesise
from rung.data.synth import fresh
from rung.errors import EngineError, ModelError, RungError, TaskError, TrainingError
from rung.evaluate import Store
from rung.rungs import teacher as teaching
from rung.rungs.base import Context
from rung.rungs.distill import Distill
from rung.rungs.few_shot import _kinds, _settings
from rung.rungs.instructions import answer_spec, spec_for
from rung.rungs.taught import (
    AS_IT_WAS,
    TAUGHT_FILE,
    affordable_inputs,
    compared,
    inputs,
    scored_on_dev,
    shows_answers,
    teach,
)
from rung.rungs.teacher import (
    DRAWS,
    FIRST_DRAWS,
    TEMPERATURE,
    draw_s,
    draws_of,
    hosted_teacher,
    quickest,
    teacher_system,
)
from rung.rungs.teaching_money import PROBED, draw_usd
from rung.runs import append_jsonl
from rung.spec import AnswerSpec, Spec
from rung.system import System, ref_to, save
from tests.fixtures_climb import Log, label_rows, make_tiny_gguf, opened, text_rows, write_rows
from tests.fixtures_hosted import KEY, PRICES, Hosted, as_asked, beside, topic, unlabelled


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.01)
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def context(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(120)), tmp_path) as found:
        yield beside(found, server, tmp_path, unlabelled(40))


def taught(context: Context):
    return teach(context, teacher_system(context, str(context.task.teacher)), inputs(context))


def drawing(tiny, tmp_path, monkeypatch, seconds: dict[str, float], count: int = 64) -> System:
    """A written teacher's System after the race, in which the engines take so many seconds."""
    monkeypatch.setattr(teaching, "_seconds", lambda context, system, rows: seconds[system.spec.engine])
    with opened(tiny, write_rows(tmp_path / "texts.jsonl", text_rows(120)), tmp_path) as context:
        name = str(tiny)
        system = teacher_system(context, name)
        rows = [replace(context.train[0], id=str(i), output=None) for i in range(count)]
        found = quickest(context, system, rows)
        # Settled: the clock isn't asked again.
        monkeypatch.setattr(teaching, "_seconds", lambda *_: 1 / 0)
        assert quickest(context, system, rows).digest == found.digest
        return found


class Slow:
    """A clock by which each answer of a server took so many seconds, one after the other."""

    def __init__(self, server: Hosted, answer_s: float):
        self.server, self.answer_s = server, answer_s

    def monotonic(self) -> float:
        return time.monotonic() + self.answer_s * len(self.server.seen)

    def perf_counter(self) -> float:
        return time.perf_counter() + self.answer_s * len(self.server.seen)


def slow(monkeypatch, server: Hosted, answer_s: float) -> None:
    for module in ("rung.rungs.base", "rung.evaluate"):
        monkeypatch.setattr(f"{module}.time", Slow(server, answer_s))


def test_a_teacher_that_is_too_slow_for_the_budget_is_told_by_a_few_answers(context, server, monkeypatch):
    slow(monkeypatch, server, 10.0)
    with pytest.raises(TrainingError, match="takes about 30 s for an input and is asked 20 .* --budget"):
        Distill().build(replace(context, deadline=time.monotonic() + 120))
    assert len(server.seen) == 4


def test_a_slow_teacher_is_scored_on_fewer_dev_rows_and_asked_what_fits_its_time(
    context, server, monkeypatch
):
    slow(monkeypatch, server, 5.0)
    short = replace(context, deadline=time.monotonic() + 500)
    system = teacher_system(short, str(context.task.teacher))
    scored = scored_on_dev(short, system)
    assert len(scored.predictions) == len(server.seen) == 9
    later = replace(context, deadline=time.monotonic() + 45 + 790)
    # By three draws each 26 fit at first; two were enough, and by that pace there's time for 13 more.
    assert teach(later, system, inputs(later), scored.seconds_per_answer).asked == 39
    assert later.told("inputs asked together after 0") == 26
    assert len(server.seen) == 9 + FIRST_DRAWS * 39


def test_of_a_slow_teacher_the_engines_race_over_few_inputs_or_not_at_all(tiny, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(teaching, "_seconds", lambda context, system, rows: given.append(len(rows)) or 1.0)
    with opened(tiny, write_rows(tmp_path / "texts.jsonl", text_rows(120)), tmp_path) as context:
        system = teacher_system(context, str(tiny))
        rows = [replace(context.train[0], id=str(i), output=None) for i in range(64)]
        assert quickest(context, system, rows, answer_s=4.0) == system and given == [6, 6]
        assert draw_s(context, 4.0) == pytest.approx(1 / 6)
        other = elsewhere(context, tmp_path / "other")
        assert quickest(other, system, rows, answer_s=20.0) == system and given == [6, 6]
        assert draw_s(other, 20.0) == 20.0


@pytest.mark.parametrize(("llama", "torch", "engine"), [(1.0, 2.0, "llama"), (2.0, 1.0, "torch")])
def test_a_local_teacher_draws_under_the_engine_that_is_faster(
    tiny, tmp_path, monkeypatch, llama, torch, engine
):
    found = drawing(tiny, tmp_path, monkeypatch, {"llama": llama, "torch": torch})
    assert found.spec.engine == engine


def test_no_engines_race_for_a_few_inputs(tiny, tmp_path, monkeypatch):
    assert drawing(tiny, tmp_path, monkeypatch, {}, count=63).spec.engine == "llama"


def test_both_engines_of_a_teacher_draw_and_one_that_cannot_takes_for_ever(tiny, tmp_path, monkeypatch):
    with opened(tiny, write_rows(tmp_path / "texts.jsonl", text_rows(120)), tmp_path) as context:
        system = teacher_system(context, str(tiny))
        rows = [replace(context.train[0], id=str(i), output=None) for i in range(3)]
        other = save(tmp_path / "other", system.spec.model_copy(update={"engine": "torch"}), {})
        assert 0 < teaching._seconds(context, system, rows) < 600
        assert 0 < teaching._seconds(context, other, rows) < 600
        monkeypatch.setattr("rung.engines.room.free_bytes", lambda device: 10)
        assert teaching._seconds(context, other, rows) == math.inf


def elsewhere(context: Context, folder: Path) -> Context:
    """The context with nothing that is kept."""
    return replace(context, folder=folder / "rung", bench=replace(context.bench, store=Store(folder)))


def test_a_hosted_teacher_is_drawn_from_and_its_rows_are_synthetic_and_right(context, server):
    found = taught(context)
    assert (found.asked, len(found.rows), found.dropped) == (40, 40, {})
    assert all(row.synthetic and row.output == topic(row.input) for row in found.rows)
    ids = {e.id for e in (*context.train, *context.dev)}
    assert not ids & {row.id for row in found.rows} and len({row.id for row in found.rows}) == 40
    asked = [body for body in server.seen if body["temperature"] == TEMPERATURE]
    assert len(asked) == FIRST_DRAWS * 40


def test_a_third_draw_is_made_where_the_first_two_disagree_and_nowhere_else(context, server):
    drawn: Counter[str] = Counter()
    hard = {row.input for row in context.unlabelled[:7]}

    def says(text: str, body: dict) -> str:
        drawn[text] += 1
        if text in hard and drawn[text] == 1:
            return json.dumps({"label": min({"billing", "delivery"} - {topic(text)})})
        return as_asked(text, body)

    server.says = says
    system = teacher_system(context, str(context.task.teacher))
    drawn.clear()
    found = teach(context, system, inputs(context))
    assert drawn == {row.input: DRAWS if row.input in hard else FIRST_DRAWS for row in context.unlabelled}
    assert [row.output for row in found.rows] == [topic(row.input) for row in context.unlabelled]


def test_what_cannot_be_verified_is_dropped_and_counted_by_reason(context, server):
    flip = Counter()

    def says(text: str, body: dict) -> str:
        place = [row.input for row in context.unlabelled].index(text) if body["temperature"] else 99
        flip[text] += 1
        if place < 5:
            return "I'd rather not say."
        if place < 12:
            return json.dumps({"label": ["billing", "delivery", "login"][flip[text] % 3]})
        if place < 14:
            return json.dumps({"label": "something else"})
        return as_asked(text, body)

    server.says = says
    found = taught(context)
    assert found.dropped == {"unreadable": 7, "the draws disagree": 7}
    assert [row.output for row in found.rows] == [topic(row.input) for row in context.unlabelled[14:]]
    assert "40 inputs asked, 26 answers kept; dropped: 7 the draws disagree, 7 unreadable" in found.said


def test_no_answer_is_asked_or_paid_twice(context, server):
    first, count, spent = taught(context), len(server.seen), context.pool.till.spent_usd
    context.pool.close()
    context.pool.till = replace(context.pool.till)
    (context.folder / TAUGHT_FILE).unlink()
    assert taught(context).rows == first.rows
    assert len(server.seen) == count and context.pool.till.spent_usd == pytest.approx(spent)


def test_what_was_taught_stays_though_a_call_that_broke_would_hold_now(context, server):
    system = teacher_system(context, str(context.task.teacher))
    server.whole = lambda body: (
        (400, {"error": {"message": "no"}}, {})
        if body["messages"][-1]["content"] == context.unlabelled[3].input
        else (200, server.completion(body), {})
    )
    first = teach(context, system, inputs(context))
    server.whole = None
    assert first.dropped == {"the call broke": 1}
    later = replace(context, bench=replace(context.bench, store=Store(context.folder / "none")))
    count = len(server.seen)
    assert teach(later, system, inputs(later)) == first and len(server.seen) == count
    assert teach(context, system, inputs(context)[:3]) == first, "a lower cap takes none of them away"


@pytest.fixture
def texts(tiny, tmp_path, server):
    """A task of texts, with a few-shot System below that shows the nearest training rows."""
    with opened(tiny, write_rows(tmp_path / "texts.jsonl", text_rows(60)), tmp_path) as found:
        context = beside(found, server, tmp_path)
        (kind, _) = _kinds(context, 4)
        spec = spec_for(
            context, "few_shot", instruction="Shout.", answer=answer_spec(context, constrained=True)
        ).model_copy(update={**_settings(context, kind.shots), "engine": "torch"})
        yield replace(context, built={"few_shot": save(tmp_path / "few", spec, kind.files)})


def test_no_more_nearest_examples_are_tried_than_there_are_rows(texts):
    (nearest, _) = _kinds(replace(texts, train=texts.train[:12]), 64)
    assert nearest.counts == (4, 8)
    (nearest, _) = _kinds(replace(texts, train=texts.train[:3]), 64)
    assert nearest.counts == (3,) and nearest.shots.k == 3


def test_a_teacher_is_not_shown_the_answer_to_the_training_row_that_it_is_asked(texts, server):
    def copies(text: str, body: dict) -> str:
        last = body["messages"][-2]
        return last["content"] if last["role"] == "assistant" else f"{text.upper()} TODAY"

    server.says = copies
    system = teacher_system(texts, str(texts.task.teacher))
    assert system.spec.shots.choice != "nearest"
    found = taught(texts)
    golds = {e.id: e.output for e in texts.train}
    assert found.rows and not [r for r in found.rows if r.output == golds[r.id.removesuffix("-taught")]]
    shown = [turn["content"] for body in server.seen for turn in body["messages"] if turn["role"] != "user"]
    assert not {str(output) for output in golds.values()} & set(shown)
    few = texts.built["few_shot"]
    assert shows_answers(texts, few)
    with pytest.raises(TrainingError, match="shows the training rows' own answers"):
        affordable_inputs(texts, few, scored_on_dev(texts, system))
    assert not shows_answers(replace(texts, unlabelled=unlabelled(3)), few)


def test_an_answer_that_is_the_rows_own_word_for_word_is_not_learned_twice(texts, server):
    outputs = {e.input: str(e.output) for e in texts.train}
    server.says = lambda text, body: outputs.get(text.split("\n")[-1], "?")
    found = taught(texts)
    assert found.rows == () and found.dropped == {AS_IT_WAS: len(texts.train)}


def test_the_teacher_takes_half_of_the_money_at_most(context, server):
    usd = draw_usd(context)
    system = teacher_system(context, str(context.task.teacher))
    scored = replace(scored_on_dev(context, system), prompt_tokens=1.0, completion_tokens=1.0)
    context.pool.close()
    left = usd * 100
    context.pool.till = replace(context.pool.till, cap_usd=context.pool.till.spent_usd + left)
    assert Distill().skip(context) is None
    assert left / 2 < PROBED * DRAWS * usd, "the money is too little to see how many need a third draw"
    (rows, short), each = affordable_inputs(context, system, scored), DRAWS * usd
    assert left / 2 - each < len(rows) * each <= left / 2, "no less than was foretold"
    assert f"is enough for {len(rows)} of 40 inputs" in short
    assert "of 0" not in context.reporter.text and "inputs; $0.0" in context.reporter.text


def test_a_system_teaches_labels_with_its_probabilities_and_needs_no_network(context, server, tiny, tmp_path):
    spec = Spec(
        rung="prompt",
        task="topics",
        kind="label",
        labels=context.labels,
        engine="llama",
        model=ref_to(context.model, str(tiny)),
        answer=AnswerSpec(form="words"),
    )
    save(tmp_path / "bigger", spec, {})
    named = replace(context, task=context.task.model_copy(update={"teacher": str(tmp_path / "bigger")}))
    system = teacher_system(named, str(tmp_path / "bigger"))
    assert draws_of(system) == 1 and hosted_teacher(named.task) is None
    found = taught(named)
    sure = [a.probability >= 0.5 for a in system.answer(context.unlabelled, context.pool)]
    assert len(found.rows) == sum(sure) and found.dropped == Counter({"unsure": 40 - sum(sure)})
    assert server.seen == []
    other = save(tmp_path / "other", spec.model_copy(update={"labels": ("x", "y")}), {})
    with pytest.raises(TaskError, match="teacher: the System .* answers 'topics' with a label of its own"):
        teacher_system(named, str(other.folder))


def test_a_local_model_writes_several_draws_and_the_same_seed_the_same_ones(tiny, tmp_path, server):
    with opened(tiny, write_rows(tmp_path / "t.jsonl", text_rows(60)), tmp_path) as found:
        context = beside(found, server, tmp_path, unlabelled(6, kind="text"))
        task = context.task.model_copy(update={"teacher": str(tiny)})
        context = replace(context, task=task)
        system = teacher_system(context, str(tiny))
        assert draws_of(system) == DRAWS and system.spec.engine == "llama"
        first = taught(context)
        assert taught(elsewhere(context, tmp_path / "b")) == first and first.asked == 6


def test_only_texts_are_learned_anew_from_training_rows(context, tiny, tmp_path, server):
    assert inputs(replace(context, unlabelled=())) == ()
    with opened(tiny, write_rows(tmp_path / "t.jsonl", text_rows(60)), tmp_path) as found:
        text = beside(found, server, tmp_path)
        judged = replace(text, bench=replace(text.bench, metric="judge"))
        assert inputs(judged) == inputs(text) == text.train
        outputs = {e.input: e.output for e in text.train}
        server.says = lambda said, body: f"{outputs.get(said.split(chr(10))[-1])} NOW"
        found = taught(text)
        assert {row.output for row in found.rows} == {f"{row.output} NOW" for row in text.train}
        server.says = lambda said, body: "nothing like it"
        text.pool.till = None
        text.pool.close()
        assert taught(elsewhere(text, tmp_path / "b")).dropped == {"wrong": len(text.train)}


def test_a_teacher_that_is_worse_than_its_student_is_told_of(context, server):
    system = teacher_system(context, str(context.task.teacher))
    good = scored_on_dev(context, system)
    spec = system.spec.model_copy(update={"instruction": "Be wrong."})
    server.says = lambda text, body: json.dumps({"label": "billing"})
    bad = scored_on_dev(context, save(context.work / "bad", spec, {}))
    assert good.score == 1.0 > bad.score
    assert "the teacher is worse than what it teaches" in compared(context, bad, system)[0]
    (told,) = compared(context, good, System(context.work, spec))
    assert "1.000 on 24 dev rows; the student .3" in told and "worse" not in told


def test_unlabelled_inputs_that_train_dev_or_test_hold_are_left_out(tmp_path, tiny):
    rows = label_rows(150)
    exact = [{"input": row["input"].upper()} for row in rows[3:33]]
    write_rows(tmp_path / "free.jsonl", [*exact, {"input": "something quite new"}])
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "task.yaml").write_text("data: {train: rows.jsonl, unlabelled: free.jsonl}\n")
    prepared = prepare(tmp_path, Options(models=(str(tiny),)))
    assert [e.input for e in prepared.unlabelled] == ["something quite new"]
    assert any(
        "free.jsonl: 1 inputs for a teacher to answer; 30 more are like" in n for n in prepared.inferred
    )


def test_an_instruction_is_part_of_an_input_as_it_is_of_a_rows(tmp_path, tiny):
    rows = [{"instruction": "Name the team.", **row} for row in label_rows(150)]
    asked = [{"instruction": row["instruction"], "input": row["input"]} for row in rows[:40]]
    write_rows(tmp_path / "free.jsonl", [*asked, {"instruction": "Name the team.", "input": "quite new"}])
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "task.yaml").write_text("data: {train: rows.jsonl, unlabelled: free.jsonl}\n")
    prepared = prepare(tmp_path, Options(models=(str(tiny),)))
    assert [e.input for e in prepared.unlabelled] == ["Name the team.\n\nquite new"]


def synth_task(tmp_path, tiny, teacher: str, **limits):
    write_rows(tmp_path / "rows.jsonl", label_rows(60))
    task = {
        "data": {"train": "rows.jsonl"},
        "models": [str(tiny)],
        "teacher": teacher,
        "prices": PRICES.model_dump(),
        "limits": limits,
    }
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    return tmp_path


def test_synth_writes_marked_new_inputs_and_goes_on_with_the_rounds_that_it_has(tmp_path, tiny, server):
    task = synth_task(tmp_path, tiny, server.name)
    made = iter(range(10_000))

    def says(text: str, body: dict) -> str:
        assert "JSON list" in text and body["temperature"] == 1.0
        old = label_rows(60)[0]["input"]
        return json.dumps([old, *(f"sentence number {next(made)} of {n} kinds" for n in range(9))])

    server.says = says
    out = tmp_path / "free.jsonl"
    done = synthesise(task, SynthOptions(out=out, rows=15), Log())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert done.rows == len(rows) == 15 and all(
        r["synthetic"] and r["generator"] == server.name for r in rows
    )
    assert label_rows(60)[0]["input"] not in {r["input"] for r in rows}
    assert KEY not in "".join(p.read_text() for p in tmp_path.glob("free.jsonl*"))
    assert done.paid_usd > 0
    with pytest.raises(TaskError, match="is there already"):
        synthesise(task, SynthOptions(out=out, rows=15), Log())
    with pytest.raises(RungError, match=r"--out '.*free\.csv': .* ends in \.jsonl"):
        synthesise(task, SynthOptions(out=tmp_path / "free.csv", rows=15), Log())
    out.unlink()
    append_jsonl(tmp_path / "free.jsonl.rounds.jsonl", [{"asked": "a line that was cut", "round": 7}])
    count = len(server.seen)
    assert synthesise(task, SynthOptions(out=out, rows=15), Log()).rows == 15 and len(server.seen) == count


def test_synth_asks_anew_where_something_else_is_asked(tmp_path, tiny, server):
    task, made = synth_task(tmp_path, tiny, server.name), iter(range(10_000))

    def says(text: str, body: dict) -> str:
        return json.dumps([f"sentence number {next(made)} of {n} kinds" for n in range(9)])

    server.says = says
    out, file = tmp_path / "free.jsonl", task / "task.yaml"
    first = file.read_text()
    found = []
    for written in (first, json.dumps({**json.loads(first), "about": "Name the queue of a ticket."}), first):
        file.write_text(written)
        out.unlink(missing_ok=True)
        synthesise(task, SynthOptions(out=out, rows=9), Log())
        found.append((out.read_text(), len(server.seen)))
    (one, asked), (other, more), again = found
    assert not set(one.splitlines()) & set(other.splitlines()) and more > asked
    assert again == (one, more)


def test_synth_asks_a_local_teacher_anew_where_another_file_lies_under_its_name(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("rung.climb.synthesis.MOST_TOKENS", 32)
    teacher = Path(shutil.copy(tiny, tmp_path / "teacher.gguf"))
    task, out = synth_task(tmp_path, tiny, str(teacher)), tmp_path / "free.jsonl"

    def rounds() -> int:
        with pytest.raises(EngineError, match="wrote no new input in 6 rounds"):
            synthesise(task, SynthOptions(out=out, rows=5), Log())
        return len((tmp_path / "free.jsonl.rounds.jsonl").read_text().splitlines())

    assert rounds() == rounds() == 6
    make_tiny_gguf(teacher, context=500)
    assert rounds() == 12


def test_a_made_input_that_is_like_two_earlier_ones_takes_no_new_one_away(tmp_path, tiny, server):
    links = "how long does it take until a parcel reaches the small islands in the far north of norway"
    earlier = [links.replace("parcel", "packet"), links.replace("north", "south")]
    assert fresh(earlier, []) == earlier and len(fresh([*earlier, links], [])) == 1
    rounds = iter([earlier, [links, "who may open the old garden gate"]])
    server.says = lambda text, body: json.dumps(next(rounds, []))
    out = tmp_path / "free.jsonl"
    synthesise(synth_task(tmp_path, tiny, server.name), SynthOptions(out=out, rows=3), Log())
    made = [json.loads(line)["input"] for line in out.read_text().splitlines()]
    assert made == [*earlier, "who may open the old garden gate"]


def test_synth_keeps_to_the_cap_and_says_when_a_teacher_writes_no_list(tmp_path, tiny, server, monkeypatch):
    task = synth_task(tmp_path, tiny, server.name, api_usd=0.0001)
    with pytest.raises(EngineError, match="could pass the cap of \\$0.0001"):
        synthesise(task, SynthOptions(out=tmp_path / "free.jsonl"), Log())
    assert server.seen == []
    server.says = lambda text, body: "I can't."
    with pytest.raises(EngineError, match=r"wrote no new input in 6 rounds \(6 were no list of texts\)"):
        synthesise(task, SynthOptions(out=tmp_path / "free.jsonl", rows=5, api_usd=1.0), Log())
    monkeypatch.setattr("rung.climb.synthesis.MOST_TOKENS", 32)
    with pytest.raises(EngineError, match="wrote no new input"):
        synthesise(task, SynthOptions(out=tmp_path / "more.jsonl", rows=5, teacher=str(tiny)), Log())


def test_a_teacher_under_a_home_that_nobody_has_is_a_model_that_is_not_there(tmp_path, tiny):
    task = synth_task(tmp_path, tiny, "~nobody-here/x.gguf")
    with pytest.raises(ModelError, match="no model '~nobody-here/x.gguf'"):
        synthesise(task, SynthOptions(out=tmp_path / "free.jsonl"), Log())


def test_a_task_names_its_hosted_models_once_for_the_till(context):
    assert [m.model for m in hosted_models(context.task)] == ["oracle", "oracle"]
