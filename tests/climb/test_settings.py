"""What tells one run from another: a teacher and a judge by what they are, and not by their names alone."""

import json
import shutil
from dataclasses import replace

import pytest

from rung.checks.rows import prepare
from rung.climb.climb import climb
from rung.climb.opening import open_folder
from rung.climb.options import Options, config_of, digests_beside
from rung.climb.rebudget import name_of
from rung.errors import RunError
from rung.models.resolve import resolve
from rung.registry import Tag, point
from rung.runs import RUN_FILE, write_json
from rung.spec import Spec
from rung.system import save
from tests.climb.test_climb import Always, with_ladder
from tests.fixtures_climb import Log, constant_head, label_rows, make_tiny_gguf, text_rows, write_rows
from tests.fixtures_hosted import unlabelled


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))


def written(folder, **keys):
    """A task with inputs for a teacher."""
    write_rows(folder / "free.jsonl", [{"input": row.input} for row in unlabelled()])
    task = {"name": "topics", "data": {"train": "rows.jsonl", "unlabelled": "free.jsonl"}, **keys}
    (folder / "task.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


def settings(source, *rungs):
    options = Options(rungs=rungs)
    prepared = prepare(source, options)
    return config_of(prepared, [], options, digests_beside(prepared, options, Log()))


def tag(folder, label):
    """Point `desk:latest` at a System that gives every row the label."""
    labels = ("billing", "delivery", "login")
    spec = Spec(rung="head", task="t", kind="label", labels=labels, engine="head", features="tfidf")
    system = save(folder, spec, constant_head(label, labels))
    point(system, Tag(name="desk"), source=label, origin="made here")


def differing(first, second):
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def test_a_teacher_whose_tag_points_elsewhere_is_that_of_another_run(tiny, tmp_path, monkeypatch):
    write_rows(tmp_path / "task" / "rows.jsonl", label_rows(270))
    task = written(tmp_path / "task", teacher="desk:latest", models=[str(tiny)])
    names = with_ladder(monkeypatch, Always("distill"))
    options = Options(out=tmp_path / "run", budget_s=600, rungs=names)
    tag(tmp_path / "first", "billing")
    before = settings(task)
    first, _ = climb(task, options, Log())
    assert climb(task, options, Log())[0] == first
    tag(tmp_path / "second", "login")
    after = settings(task)
    assert differing(before, after) == {"teacher"} and name_of(before) != name_of(after)
    with pytest.raises(RunError, match='belongs to another climb: teacher is "'):
        climb(task, options, Log())
    tag(tmp_path / "first", "billing")
    assert climb(task, options, Log())[0] == first


def test_a_teacher_or_judge_whose_file_is_another_is_that_of_another_run(tiny, tmp_path):
    write_rows(tmp_path / "rows.jsonl", text_rows(120))
    shutil.copy(tiny, model := tmp_path / "other.gguf")
    judge = {"metric": "judge", "judge": {"model": str(model)}}
    task = written(tmp_path, teacher=str(model), output={"kind": "text"}, **judge)
    before, without = settings(task, "prompt", "distill"), settings(task, "prompt")
    make_tiny_gguf(model, context=256)
    after = settings(task, "prompt", "distill")
    assert differing(before, after) == {"teacher", "judge"}
    assert {key for key in before["judge"] if before["judge"][key] != after["judge"][key]} == {"digest"}
    assert "teacher" not in without, "where nothing is taught no teacher counts"


def test_a_teacher_that_reflects_alone_is_that_of_another_run_once_its_file_is_another(tiny, tmp_path):
    write_rows(tmp_path / "rows.jsonl", label_rows(120))
    shutil.copy(tiny, model := tmp_path / "other.gguf")
    task = tmp_path / "task.yaml"
    keys = {"data": {"train": "rows.jsonl"}, "teacher": str(model)}
    task.write_text(json.dumps(keys), encoding="utf-8")
    before, without = settings(tmp_path, "optimise"), settings(tmp_path, "prompt", "distill")
    make_tiny_gguf(model, context=256)
    assert differing(before, settings(tmp_path, "optimise")) == {"teacher"} and "teacher" not in without
    task.write_text(json.dumps(keys | {"teacher": "openai:gpt-5-mini"}), encoding="utf-8")
    assert "teacher" not in settings(tmp_path, "optimise"), "a hosted one has no digest"


def test_a_teacher_that_would_have_nothing_to_answer_is_not_brought(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "rows.jsonl", label_rows(120))
    task = written(tmp_path, teacher="smollm2-135m")
    options = Options(rungs=("distill",))
    prepared = replace(prepare(task, options), unlabelled=())
    assert digests_beside(prepared, options, Log()) == {} and not (tmp_path / "cache").exists()


def test_a_run_from_before_a_local_teacher_reflected_is_not_passed_over_in_silence(tiny, tmp_path):
    write_rows(tmp_path / "rows.jsonl", label_rows(120))
    keys = {"name": "topics", "data": {"train": "rows.jsonl"}, "teacher": str(tiny)}
    (tmp_path / "task.yaml").write_text(json.dumps(keys), encoding="utf-8")
    prepared = prepare(tmp_path, Options(rungs=("optimise",)))
    now = settings(tmp_path, "optimise")
    before = {key: value for key, value in now.items() if key != "teacher"}
    old, new = (tmp_path / "runs" / f"topics-{name_of(config)}" for config in (before, now))
    assert "teacher" in now and old != new
    write_json(old / RUN_FILE, before | {"budget_s": 60})
    log = Log()
    assert open_folder(new, now, prepared, log) is None
    (line,) = log.lines
    said = "begun by an earlier version, whose optimise had no teacher of this machine"
    assert line.startswith(f"this is {new}; {old} was {said}")
    assert open_folder(new, now, prepared, log) is not None and len(log.lines) == 1
    with pytest.raises(RunError, match=rf"belongs to another climb: teacher .*It was {said}"):
        open_folder(old, now, prepared, log)
    other = tmp_path / "runs" / "topics-other"
    assert open_folder(other, now | {"dev_rows": 7}, prepared, log) is None
    rows = f"dev_rows is {now['dev_rows']} there and 7 here"
    assert log.lines[1:] == [f"this is {other}; {new} was climbed with other settings: {rows}"]


def begun(source, run=None, **keys):
    """What the climb of a task says of its folder, and whether there was such a run."""
    options, log = Options(rungs=("prompt",), out=run), Log()
    prepared = prepare(written(source, **keys), options)
    models = [resolve(name) for name in prepared.task.models]
    config = config_of(prepared, models, options)
    folder = run or source / "runs" / f"topics-{name_of(config)}"
    return folder, open_folder(folder, config, prepared, log), log.lines


def test_the_nearest_run_with_other_settings_is_told_of_where_nothing_of_it_is_known(tiny, tmp_path):
    write_rows(tmp_path / "rows.jsonl", label_rows(120))
    keys = {"models": [str(tiny)], "volume": "100000/month"}
    first, before, said = begun(tmp_path, **keys)
    assert before is None and said == []
    many = {"volume": "7/month", "machine_usd_per_hour": 2.5, "about": "x", "limits": {"p95_ms": 9}}
    second, _, said = begun(tmp_path, **keys | many)
    (line,) = said
    assert line.startswith(f"this is {second}; {first} was climbed with other settings: task.about is ")
    assert line.endswith("; and 1 more") and line.count(" there and ") == 3
    third, _, said = begun(tmp_path, **keys | {"volume": "50000/month"})
    volume = 'task.volume is "100000/month" there and "50000/month" here'
    assert said == [f"this is {third}; {first} was climbed with other settings: {volume}"]
    _, before, said = begun(tmp_path, **keys)
    assert before is not None and said == []
    write_rows(tmp_path / "rows.jsonl", label_rows(121))
    assert begun(tmp_path, **keys)[2] == [], "it is on other rows, which nobody needs to be told"


def test_a_run_on_other_weights_by_the_same_name_is_told_of(tiny, tmp_path):
    write_rows(tmp_path / "rows.jsonl", label_rows(120))
    shutil.copy(tiny, model := tmp_path / "mine.gguf")
    first, before, said = begun(tmp_path, models=[str(model)])
    assert before is None and said == []
    make_tiny_gguf(model, context=256)
    second, before, said = begun(tmp_path, models=[str(model)])
    assert before is None and first != second
    assert said == [f"this is {second}; {first} was climbed on other weights by the name {model}"]
    with pytest.raises(RunError, match=r"model is .*It was climbed on other weights by the name .*mine"):
        begun(tmp_path, first, models=[str(model)])
