import json
import shutil

import pytest

from rung.errors import SystemFolderError, TaskError
from rung.registry import Origin, history, system_folder, tags
from rung.runs import digest_of
from rung.ship.climbed import climbed, run_of
from rung.ship.tagging import tag_system
from rung.spec import ModelRef, Spec
from rung.system import save
from tests.fixtures_tagged import SETTINGS, make_head, make_run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "runs" / "demo")
    return tmp_path / "runs" / "demo"


@pytest.mark.parametrize("folder", ["winner", "rungs/head/system"])
def test_what_the_climb_says_of_a_system_is_tied_to_its_tag(run, folder):
    pointed = tag_system(str(run / folder), "helpdesk:1.0")[0]
    origin = pointed.origin
    assert isinstance(origin, Origin)
    assert (origin.run, origin.data, origin.config) == (str(run), "5f2c90aa11", digest_of(SETTINGS))
    assert (origin.metric, origin.split, origin.n) == ("accuracy", "test", 400)
    assert origin.score == pytest.approx(0.8625) and origin.interval.low < origin.score < origin.interval.high
    assert (origin.verdict, origin.chosen) == ("tie", True)
    assert (pointed.rung, pointed.task, pointed.source) == ("head", "helpdesk", str(run / folder))
    assert tags("helpdesk")[0] == pointed


def test_the_score_is_that_of_dev_where_the_test_was_not_opened_for_the_system(run):
    whole = json.loads((run / "climb.json").read_text())
    whole["results"][0]["test"] = None
    whole["decision"]["chosen"] = "sft"
    (run / "climb.json").write_text(json.dumps(whole))
    origin = tag_system(str(run / "winner"), "helpdesk:1.0")[0].origin
    assert isinstance(origin, Origin) and (origin.split, origin.chosen) == ("dev", False)


def test_no_score_of_another_system_is_tied_to_a_tag(run):
    made = make_head(run / "other", "another")
    said = tag_system(str(made.folder), "helpdesk:1.0")[0].origin
    assert isinstance(said, str) and "holds no score of it" in said


def test_a_system_in_no_run_or_in_a_damaged_one_is_tagged_with_the_reason(run, tmp_path):
    made = make_head(tmp_path / "alone")
    assert tag_system(str(made.folder), "a:1")[0].origin == "it lies in the folder of no finished run"
    (run / "climb.json").write_text("{}")
    said = tag_system(str(run / "winner"), "a:2")[0].origin
    assert isinstance(said, str) and said.startswith("its climb can't be read")


def test_rolling_back_keeps_what_is_known_though_the_run_is_gone(run, tmp_path):
    first = tag_system(str(run / "winner"), "helpdesk:1.0")[0]
    shutil.rmtree(run)
    tag_system(str(make_head(tmp_path / "worse", "another").folder), "helpdesk:1.1")
    (back,) = tag_system("helpdesk:1.0", "helpdesk:latest")
    assert (back.system, back.origin, back.source) == (first.system, first.origin, "helpdesk:1.0")
    (again,) = tag_system(f"helpdesk@{first.system}", "helpdesk")
    assert again.origin == first.origin
    assert [str(p.tag) for p in history("helpdesk")][-2:] == ["helpdesk:latest"] * 2


def test_of_an_earlier_system_the_newest_that_was_known_is_taken_over(run, tmp_path):
    digest = tag_system(str(make_head(tmp_path / "alone").folder), "helpdesk:1.0")[0].system
    tag_system(str(run / "winner"), "helpdesk:1.1")
    (again,) = tag_system(f"helpdesk@{digest}", "helpdesk")
    assert isinstance(again.origin, Origin)


def test_one_name_can_take_over_the_system_of_another(run):
    tag_system(str(run / "winner"), "helpdesk:1.0")
    made = tag_system("helpdesk:1.0", "support:7", keep_latest=True)
    assert [str(p.tag) for p in made] == ["support:7"]
    assert isinstance(made[0].origin, Origin)


def test_the_models_of_a_system_are_tied_to_its_tag_with_digest_and_licence(tmp_path):
    def ref(name, licence):
        return ModelRef(name=name, source=f"/old/{name}", digest=name * 8, licence=licence)

    spec = Spec(
        rung="few_shot", task="t", kind="text", engine="fake", model=ref("m", "mit"), vectors=ref("v", "x")
    )
    pointed = tag_system(str(save(tmp_path / "made", spec, {}).folder), "a:1")[0]
    assert [(m.name, m.digest, m.licence) for m in pointed.models] == [
        ("m", "m" * 8, "mit"),
        ("v", "v" * 8, "x"),
    ]
    moved = spec.model_copy(update={"model": ref("m", "mit").model_copy(update={"source": "/new/m"})})
    tag_system(str(save(tmp_path / "moved", moved, {}).folder), "a:1")
    stored = json.loads((system_folder(pointed.system) / "system.json").read_text())
    assert stored["model"]["source"] == "/new/m", "the place that was known last is where the weights are"


def test_what_is_no_system_or_no_tag_changes_nothing(run):
    with pytest.raises(TaskError, match="is no tag"):
        tag_system(str(run / "winner"), "Helpdesk:1")
    with pytest.raises(SystemFolderError, match="no System at"):
        tag_system(str(run), "helpdesk:1")
    assert tags() == []


def test_a_run_that_is_being_climbed_again_still_tells_of_its_systems(run):
    before = tag_system("runs/demo/winner", "helpdesk:1.0")[0]
    earlier = run / "earlier" / "10m00s"
    earlier.mkdir(parents=True)
    (run / "climb.json").rename(earlier / "climb.json")
    assert tag_system("runs/demo/winner", "helpdesk:1.1")[0].origin == before.origin
    found = run_of(run / "winner")
    assert found == run
    known = climbed(run, before.system)
    assert known is not None and known.folder == earlier and known.result.rung == "head"
