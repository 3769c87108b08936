"""`rung compare` on real Systems: heads of two climbs of one task, and a language model of 60,000 weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung.cli import main
from rung.cli.comparing import first_changes
from rung.climb.again import rows_again
from rung.climb.climb import Options, climb, load_climb
from rung.compare.asked import CHOSEN_BY, Wanted, asked_rows
from rung.compare.compare import Change, CompareOptions, compare
from rung.compare.outcome import outcome
from rung.compare.sides import Side
from rung.compare.specs import PARTS, differences
from rung.compare.words import verdict
from rung.errors import DataError, RunError, RungError, SystemFolderError, TaskError
from rung.registry import point, read_tag
from rung.rungs.base import Built
from rung.rungs.prompt import Prompt
from rung.ship.tagging import tag_system
from rung.spec import AnswerSpec, ModelRef, RetrievalSpec, ShotSpec, Spec, StepsSpec
from rung.system import System, copy, save
from tests.fixtures_climb import Log, constant_head, json_rows, judged, label_rows, make_tiny_gguf, write_rows
from tests.fixtures_tagged import make_head


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("task") / "topics.jsonl", label_rows(300))


@dataclass
class Always:
    """A rung that gives every row one label."""

    name: str

    def skip(self, context):
        return None

    def build(self, context):
        labels = context.labels
        spec = Spec(rung=self.name, task="t", kind="label", labels=labels, engine="head", features="tfidf")
        return Built(system=save(context.work / "s", spec, constant_head(self.name, labels)), what="one")


@pytest.fixture(scope="module")
def runs(tiny, task, tmp_path_factory) -> Path:
    """Two climbs of the same rows: `one` has a good head, `two` a poor rung and the language model."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rung.rungs.head.REGULARISATION", {"tfidf": (1.0,)})
        options = Options(models=(str(tiny),), budget_s=600)
        climb(task, replace(options, rungs=("head",), out=folder / "one"), Log())
        patch.setattr("rung.climb.options.LADDER", (Always("billing"), Prompt()))
        climb(task, replace(options, rungs=("billing", "prompt"), out=folder / "two"), Log())
    return folder


def no_engine(monkeypatch):
    def refuse(spec, *more):
        raise AssertionError(f"an engine was started: {spec.engine}")

    monkeypatch.setattr("rung.system.start", refuse)


def test_two_runs_of_the_same_rows_are_compared_on_their_dev_rows_without_asking_again(
    runs, task, monkeypatch, tmp_path
):
    no_engine(monkeypatch)
    out = tmp_path / "changed.jsonl"
    with pytest.raises(RungError, match=r"--rows-out .*changed\.csv': .* ends in \.jsonl"):
        compare(
            str(runs / "two"), str(runs / "one"), CompareOptions(rows_out=tmp_path / "changed.csv"), Log()
        )
    found = compare(f"{runs / 'two'}:prompt", str(runs / "one"), CompareOptions(rows_out=out), Log())
    a, b = found.first.measurement, found.second.measurement
    assert (a.split, a.n, b.n, found.rows, found.openings) == ("dev", 60, 60, 60, None)
    assert found.outcome.found == "second_better"
    assert found.outcome.gain == pytest.approx(b.score - a.score)
    assert verdict(found).startswith("B is better than A: B scores ")
    outputs = {row["input"]: row["output"] for row in map(json.loads, task.read_text().splitlines())}
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    ups = [line for line in lines if line["change"] == "up"]
    assert len(lines) == len(found.changes)
    assert all(line["expected"] == line["b"] == outputs[line["input"]] != line["a"] for line in ups)
    assert len(ups) - sum(line["change"] == "down" for line in lines) == round(60 * found.outcome.gain)
    parts = {d.part: (d.first, d.second) for d in found.differences}
    assert parts["rung"] == ("prompt", "head") and parts["model"][1] == "none"
    assert {"instruction", "engine", "features", "files"} <= parts.keys() and "labels" not in parts


def test_rows_that_ask_the_same_are_one_draw_and_that_is_said(runs, tmp_path):
    once = label_rows(60, seed=9)
    twice = [{**row, "input": change(row["input"])} for row in once for change in (str.upper, " {} ".format)]
    told = "the 120 rows are of 60 groups or questions, each of which counts as one draw"
    found = {}
    for rows in (once, twice):
        wanted = Wanted(rows=write_rows(tmp_path / f"{len(rows)}.jsonl", rows))
        compared = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=wanted), Log())
        assert (told in compared.notes) is (rows is twice)
        found[len(rows)] = compared.outcome
    assert found[120].gain == pytest.approx(found[60].gain)
    widths = [one.interval.high - one.interval.low for one in (found[120], found[60])]
    assert widths[0] == pytest.approx(widths[1], rel=0.1), "twice the rows tell no more"


def test_rows_of_one_group_are_said_to_settle_nothing(runs, monkeypatch):
    no_engine(monkeypatch)
    found = compare(f"{runs / 'two'}:prompt", str(runs / "one"), CompareOptions(), Log())
    a, b = found.first.measurement, found.second.measurement
    ids = [p.example_id for p in a.predictions]
    alone = outcome(a, b, targets=dict.fromkeys(ids, "billing"), groups=dict.fromkeys(ids, "g"), seed=0)
    said = verdict(replace(found, outcome=alone))
    assert said.startswith("Not settled: B scores ") and "more rows" not in said
    assert said.endswith(
        "all of one group or question, which alone shows no gain; it takes rows of 6 at least."
    )


def test_the_seal_of_the_test_is_broken_on_request_alone_and_counted(runs, task, tmp_path):
    log = runs / "two" / "test_openings.jsonl"
    before = log.read_text()
    compare(f"{runs / 'two'}:billing", f"{runs / 'two'}:prompt", CompareOptions(), Log())
    assert log.read_text() == before
    asked = CompareOptions(wanted=Wanted(test=True))
    found = compare(f"{runs / 'two'}:billing", f"{runs / 'two'}:prompt", asked, Log())
    looked = found.openings
    assert found.first.measurement.split == "test" and looked is not None and looked >= 2
    again = compare(f"{runs / 'two'}:billing", f"{runs / 'two'}:prompt", asked, Log())
    assert again.openings == looked
    # A file that holds rows of the sealed test is that test by another name.
    rows = write_rows(tmp_path / "all.jsonl", [json.loads(line) for line in task.read_text().splitlines()])
    with pytest.raises(TaskError, match=r"60 of these rows are of the sealed test .* --test opens it"):
        compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=Wanted(rows=rows)), Log())


def test_other_rows_of_the_task_and_what_a_side_learned_from_them(runs, task, tmp_path):
    fresh = write_rows(tmp_path / "fresh.jsonl", label_rows(600)[300:])
    wanted = Wanted(rows=fresh)
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=wanted), Log())
    assert (found.rows, found.notes, found.told) == (300, (), "rows of fresh.jsonl")
    learned = {e.input for e in _splits(runs / "one").train}
    known = [row for row in label_rows(300) if row["input"] in learned][:80]
    wanted = Wanted(rows=write_rows(tmp_path / "known.jsonl", known))
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=wanted), Log())
    assert found.notes == tuple(
        f"{place} learned from 80 of these rows: its score is too good" for place in ("A", "B")
    )


def test_labels_that_the_systems_do_not_know_are_told_of_and_refused_where_they_are_all(runs, tmp_path):
    sides, rows = (f"{runs / 'two'}:billing", str(runs / "one")), label_rows(400)[300:]
    some = [row | {"output": "Billing"} if at in range(5, 35) else row for at, row in enumerate(rows)]
    file = write_rows(tmp_path / "some.jsonl", some)
    found = compare(*sides, CompareOptions(wanted=Wanted(rows=file)), Log())
    assert found.notes == (
        "30 of 100 rows have a label that the Systems don't know, such as some.jsonl:6 'Billing': no answer "
        "of theirs is right there",
    )
    file = write_rows(tmp_path / "none.jsonl", [row | {"output": "x"} for row in rows])
    with pytest.raises(TaskError, match="no row has a label that the Systems know, such as .* has 'x'"):
        compare(*sides, CompareOptions(wanted=Wanted(rows=file)), Log())


def test_a_label_in_another_form_of_unicode_is_one_that_the_systems_know(tmp_path):
    labels = ("b", "é")
    rows = [{"input": f"question {at}", "output": ("b", "e\u0301")[at % 2]} for at in range(20)]
    wanted = Wanted(rows=write_rows(tmp_path / "rows.jsonl", rows))
    spec = Spec(rung="a", task="t", kind="label", labels=labels, engine="head", features="tfidf")
    one = Side(given="a", system=save(tmp_path / "a", spec, constant_head("b", labels)))
    assert not [note for note in asked_rows(one, one, wanted).notes if "don't know" in note]


def test_times_are_of_the_rows_that_are_compared_and_a_climb_keeps_its_own(runs, tmp_path):
    head = load_climb(runs / "one").results[0]
    assert head.dev is not None and head.test is not None
    own = (head.dev.p50_s, head.dev.p95_s)
    assert (head.test.p50_s, head.test.p95_s) == own
    wanted = Wanted(rows=write_rows(tmp_path / "fresh.jsonl", label_rows(400)[300:]))
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=wanted), Log())
    assert found.second.measurement.p50_s != own[0]
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(), Log())
    assert (found.second.measurement.p50_s, found.second.measurement.p95_s) == own


def test_the_rows_of_a_file_or_a_task_are_read_in_the_format_that_is_named(runs, tmp_path):
    told = [{"instruction": "Sort it.", **row} for row in label_rows(400)[300:]]
    file = write_rows(tmp_path / "told.jsonl", told)
    sides = (f"{runs / 'two'}:billing", str(runs / "one"))
    for given in ({"rows": file}, {"task": file}):
        for form, begins in (("auto", True), ("io", False)):
            out = tmp_path / f"{form}-{next(iter(given))}.jsonl"
            options = CompareOptions(wanted=Wanted(**given, format=form), rows_out=out)
            compare(*sides, options, Log())
            asked = [json.loads(line)["input"] for line in out.read_text().splitlines()]
            assert asked and {text.startswith("Sort it.") for text in asked} == {begins}


def test_rows_that_a_side_was_chosen_by_are_told_of(runs, tmp_path):
    dev = [{"input": e.input, "output": e.output} for e in _splits(runs / "one").dev[:50]]
    wanted = Wanted(rows=write_rows(tmp_path / "dev.jsonl", dev))
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(wanted=wanted), Log())
    assert found.notes == tuple(
        f"{place} was chosen by 50 of these rows: its score flatters it" for place in ("A", "B")
    )
    found = compare(f"{runs / 'two'}:billing", str(runs / "one"), CompareOptions(), Log())
    assert found.notes == (CHOSEN_BY,)
    asked = CompareOptions(wanted=Wanted(test=True))
    assert compare(f"{runs / 'two'}:billing", str(runs / "one"), asked, Log()).notes == ()


def test_what_a_side_may_have_learned_from_other_answers_than_the_rows_own_is_told(
    tmp_path, tiny, monkeypatch
):
    rows, free = label_rows(300), label_rows(60, seed=77)
    write_rows(tmp_path / "task" / "rows.jsonl", judged(rows))
    write_rows(tmp_path / "task" / "free.jsonl", [{"input": row["input"]} for row in free])
    task = {"name": "topics", "data": {"train": "rows.jsonl", "unlabelled": "free.jsonl"}}
    (tmp_path / "task" / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    names, run = ("billing", "distill", "preference"), tmp_path / "run"
    monkeypatch.setattr("rung.climb.options.LADDER", tuple(map(Always, names)))
    options = Options(models=(str(tiny),), rungs=names, budget_s=600, out=run)
    climb(tmp_path / "task", options, Log())

    def told(kept, second):
        wanted = Wanted(rows=write_rows(tmp_path / "asked.jsonl", kept))
        return compare(f"{run}:billing", f"{run}:{second}", CompareOptions(wanted=wanted), Log()).notes

    asked = len(rows_again(run).unlabelled)
    assert asked > 40
    said = f"B may have learned a teacher's answers to {asked} of these rows: its score may be too good"
    assert told(free, "distill") == told([row | {"context": "Mail."} for row in free], "distill") == (said,)
    assert told(free, "preference") == ()
    bad = {e.input for e in _splits(run).undesirable}
    kept = [row for row in rows if row["input"] in bad][:50]
    said = "B may have learned from bad answers to 50 of these rows: its score may be too good"
    assert told(kept, "preference") == (said,) and told(kept, "distill") == ()


def test_a_runs_test_file_is_its_test_though_the_runs_rows_have_moved(tmp_path, tiny, monkeypatch):
    rows, test = label_rows(260), label_rows(400)[300:]
    folder = tmp_path / "task"
    write_rows(folder / "rows.jsonl", rows)
    file = write_rows(tmp_path / "test.jsonl", test)
    monkeypatch.setattr("rung.climb.options.LADDER", (Always("billing"), Always("login")))
    options = Options(models=(str(tiny),), budget_s=600, test=file, out=tmp_path / "run")
    climb(folder / "rows.jsonl", replace(options, rungs=("billing", "login")), Log())
    folder.rename(tmp_path / "moved")
    sides = (f"{tmp_path / 'run'}:billing", f"{tmp_path / 'run'}:login")
    with pytest.raises(TaskError, match="100 of these rows are of the sealed test"):
        compare(*sides, CompareOptions(wanted=Wanted(rows=file)), Log())
    log = tmp_path / "run" / "test_openings.jsonl"
    first = json.loads(log.read_text().splitlines()[0])
    write_rows(log, [first | {"system": "another"}])
    found = compare(*sides, CompareOptions(wanted=Wanted(rows=file, test=True)), Log())
    assert found.openings == 2 and "can't be told" in found.notes[0]
    looked = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["system"] for line in looked] == ["another", found.first.system, found.second.system]
    assert {line["test"] for line in looked} == {first["test"]}
    part = write_rows(tmp_path / "part.jsonl", test[:60])
    with pytest.raises(TaskError, match="60 of these rows are of the sealed test"):
        compare(*sides, CompareOptions(wanted=Wanted(rows=part)), Log())
    other = write_rows(tmp_path / "other.jsonl", label_rows(500)[400:])
    assert compare(*sides, CompareOptions(wanted=Wanted(rows=other)), Log()).openings is None


def _splits(run: Path):
    return rows_again(run).splits


def test_a_base_model_answers_as_the_first_prompt_of_a_climb_does(runs, tiny, monkeypatch):
    found = compare(str(tiny), str(runs / "one"), CompareOptions(), Log())
    assert found.first.rung == "prompt" and found.first.measurement.n == 60
    trial = next(p for p in load_climb(runs / "two").results if p.rung == "prompt").trials[0]
    assert trial.name == "plain instruction, constrained"
    first = [p.score for p in found.first.measurement.predictions[: trial.n]]
    assert sum(first) / trial.n == trial.score
    no_engine(monkeypatch)
    again = compare(str(tiny), str(runs / "one"), CompareOptions(), Log())
    assert again.first.measurement == found.first.measurement


def test_a_tag_has_the_rows_of_the_run_that_it_came_from(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    tag_system(str(runs / "one" / "winner"), "topics:1")
    found = compare("topics:1", f"{runs / 'two'}:billing", CompareOptions(), Log())
    assert found.outcome.found == "first_better" and found.rows == 60


def test_systems_that_come_from_no_run_need_rows_and_say_that_nothing_is_known_of_them(
    runs, task, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    loose = tmp_path / "loose"
    copy(System.load(runs / "one" / "winner"), loose)
    with pytest.raises(TaskError, match="comes from no run that is here.*--rows FILE or --task TASK"):
        compare(str(loose), f"{runs / 'two'}:billing", CompareOptions(), Log())
    options = CompareOptions(wanted=Wanted(task=task), out=tmp_path / "compare")
    found = compare(str(loose), f"{runs / 'two'}:billing", options, Log())
    assert found.rows == 60 and "whether A learned from these rows can't be told" in found.notes[0]


@pytest.mark.parametrize(
    ("first", "second", "wanted", "error", "said"),
    [
        ("one", "one", Wanted(), TaskError, "are one System"),
        ("one:head", "one", Wanted(), TaskError, "are one System"),
        ("one:sft", "two", Wanted(), RunError, "built no rung 'sft'; name one of its rungs: .*one:head"),
        ("one", "nowhere", Wanted(), SystemFolderError, "nor is it a run, RUN:RUNG or a model"),
        ("one", "two:billing", Wanted(metric="mae"), TaskError, "does not fit answers of kind 'label'"),
        ("one", "two:billing", Wanted(task=Path("a"), rows=Path("b")), TaskError, "give one of them"),
        ("one", "two:billing", Wanted(rows=Path("absent.jsonl")), DataError, "no such data file"),
        (
            "one",
            "two:billing",
            Wanted(format="io"),
            TaskError,
            "--format 'io' says how the rows of --task or",
        ),
        ("one", "two", Wanted(rows=Path("x.jsonl"), format="csv"), DataError, "unknown data format 'csv'"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(runs, first, second, wanted, error, said, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    monkeypatch.chdir(runs)
    with pytest.raises(error, match=said):
        compare(first, second, CompareOptions(wanted=wanted), Log())


def test_systems_that_answer_different_things_are_not_compared(runs, tmp_path, monkeypatch):
    other = make_head(tmp_path / "head")
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    point(other, read_tag("other:1"), source="x", origin="none")
    with pytest.raises(TaskError, match="choose among different labels: only one of them knows 'billing'"):
        compare(str(runs / "one"), "other:1", CompareOptions(), Log())
    fresh = [{**row, "input": f"{row['input']} then"} for row in json_rows(30)]
    rows = write_rows(tmp_path / "rows.jsonl", fresh)
    with pytest.raises(DataError, match="is no label"):
        compare(str(runs / "one"), f"{runs / 'two'}:billing", CompareOptions(wanted=Wanted(rows=rows)), Log())


def test_runs_of_other_rows_have_none_in_common(runs, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("rung.climb.options.LADDER", (Always("billing"),))
    data = write_rows(tmp_path / "topics.jsonl", label_rows(120))
    _, run = climb(data, Options(models=(str(tiny),), rungs=("billing",), out=tmp_path / "other"), Log())
    assert {r.rung for r in load_climb(run).results} == {"billing"}
    with pytest.raises(TaskError, match="had different rows or split them differently"):
        compare(str(runs / "one"), f"{run}:billing", CompareOptions(), Log())
    data.write_text(data.read_text() + json.dumps(label_rows(121)[120]) + "\n")
    with pytest.raises(RunError, match="were changed since its climb"):
        _splits(run)


def test_the_command_prints_the_verdict_the_figures_and_the_rows(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "110")
    no_engine(monkeypatch)

    def command(*more):
        assert main.run(["compare", f"{runs / 'two'}:billing", str(runs / "one"), *more]) == 0
        return capsys.readouterr().out

    text = " ".join(command().split())
    assert "B is better than A: B scores" in text and "gain of B" in text and "what differs" in text
    assert (
        "wrong in A, right or better in B: 40" in text and "expected " in text and "· A billing · B" in text
    )
    told = json.loads(command("--json"))
    assert told["found"] == "second_better" and told["changed"] == {"up": 40, "down": 0, "other": 0}
    assert told["a"]["score"] == pytest.approx(20 / 60) and told["b"]["system"]
    sealed = " ".join(command("--test").split())
    assert "its rows stay unseen" in sealed and "expected " not in sealed
    assert main.run(["compare", str(runs / "one"), "nowhere"]) == 2


SPEC = Spec(rung="prompt", task="t", kind="label", labels=("a", "b"), engine="llama")
REF = ModelRef(name="m", source="m", digest="d" * 64, licence="mit")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"rung": "few_shot"}, "rung"),
        ({"model": REF}, "model"),
        ({"files": {"adapter/adapter_model.safetensors": "e" * 64}}, "adapter"),
        ({"instruction": "Say."}, "instruction"),
        ({"shots": ShotSpec(choice="nearest", k=4)}, "examples"),
        ({"retrieval": RetrievalSpec(search="fused", k=3)}, "passages"),
        ({"steps": StepsSpec(kind="vote", samples=3, temperature=0.7)}, "calls for an answer"),
        ({"answer": AnswerSpec(form="words")}, "answer"),
        ({"answer": AnswerSpec(form="free", written="tagged")}, "answer"),
        ({"answer": AnswerSpec(form="free", ends="blank_line")}, "answer"),
        ({"answer": AnswerSpec(form="free", max_tokens=9)}, "longest answer"),
        ({"answer": AnswerSpec(form="free", most_calls=3)}, "most calls"),
        ({"answer": AnswerSpec(form="free", codes=(4, 5))}, "label codes"),
        ({"features": "both"}, "features"),
        ({"vectors": REF}, "sentence vectors"),
        ({"engine": "torch"}, "engine"),
        ({"style": "terse"}, "style"),
        ({"labels": ("b", "a")}, "labels"),
        ({"schema_": {"type": "object"}}, "schema"),
        ({"files": {"shots.jsonl": "f" * 64}}, "files"),
    ],
)
def test_what_differs_is_named(change, part):
    assert [d.part for d in differences(SPEC, SPEC.model_copy(update=change))] == [part]
    assert differences(SPEC, SPEC) == ()


def test_no_part_of_a_spec_that_decides_answers_is_passed_over():
    told = {"rung", "model", "instruction", "shots", "answer", "features", "vectors", "engine", "style"}
    told |= {"labels", "schema_", "files", "retrieval", "steps", "context_tokens", "weight_type"}
    assert Spec.model_fields.keys() - told == {"format", "task", "kind"}
    assert len(PARTS) == 19


@pytest.mark.parametrize(
    ("ups", "downs", "others", "shown"),
    [
        (20, 20, 5, (5, 5, 0)),
        (20, 2, 5, (8, 2, 0)),
        (1, 20, 5, (1, 9, 0)),
        (2, 3, 9, (2, 3, 5)),
        (0, 0, 0, (0, 0, 0)),
    ],
)
def test_the_rows_on_screen_are_of_both_sorts(ups, downs, others, shown):
    def rows(way, count):
        return [
            Change(
                way=way,
                row=str(at),
                where="",
                input="",
                context=None,
                expected="",
                first="",
                second="",
                first_score=0.0,
                second_score=0.0,
            )
            for at in range(count)
        ]

    found = first_changes([*rows("other", others), *rows("down", downs), *rows("up", ups)], 10)
    assert tuple(sum(c.way == way for c in found) for way in ("up", "down", "other")) == shown
