import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import rung
from rung.errors import RunError, SystemFolderError, TaskError
from rung.records import Calibration, CalibrationMap
from rung.registry import (
    Tag,
    find,
    history,
    load_system,
    names_model,
    point,
    prune,
    read_tag,
    remove,
    resolve_system,
    system_folder,
    tags,
)
from rung.runs import locked
from rung.ship.tagging import tag_system
from rung.system import System, copy, keep_calibration
from tests.fixtures_tagged import make_head

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def first(tmp_path):
    return make_head(tmp_path / "first", "one")


@pytest.fixture
def second(tmp_path):
    return make_head(tmp_path / "second", "two")


def tagged(system, tag, **more):
    return point(system, read_tag(tag), source=str(system.folder), origin="no run", **more)


def now(name=None):
    return {str(pointed.tag): pointed.system for pointed in tags(name)}


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("helpdesk", "helpdesk", "latest"),
        ("helpdesk:1.2", "helpdesk", "1.2"),
        ("help_desk-2.x:V1-rc.1", "help_desk-2.x", "V1-rc.1"),
        ("a" * 64 + ":" + "1" * 64, "a" * 64, "1" * 64),
    ],
)
def test_a_tag_is_a_name_and_a_version_which_is_latest_where_none_is_given(text, name, version):
    assert read_tag(text) == Tag(name=name, version=version)
    assert str(Tag(name=name, version=version)) == f"{name}:{version}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":1",
        "A",
        "a:1:2",
        "a/b",
        "../a",
        "a:../b",
        "a:.1",
        "-a",
        "a-",
        "a b",
        "é",
        "a\n",
        "a:1\n",
    ]
    + ["a" * 65, "a:" + "1" * 65, "a:٣"],
)
def test_what_is_no_tag_is_answered_with_the_form_of_one(text):
    with pytest.raises(TaskError, match=r"is no tag: a tag is NAME or NAME:VERSION.*as in helpdesk:1\.2"):
        read_tag(text)


def test_tagging_a_version_moves_latest_too_unless_it_is_kept(first, second):
    tagged(first, "a:1")
    assert now() == {"a:1": first.digest, "a:latest": first.digest}
    tagged(second, "a:2", keep_latest=True)
    assert now() == {"a:1": first.digest, "a:2": second.digest, "a:latest": first.digest}
    tagged(second, "a")
    assert now()["a:latest"] == second.digest and now()["a:1"] == first.digest


def test_a_tag_outlives_the_folder_that_was_tagged_and_changes_to_it(first, tmp_path):
    tagged(first, "a:1")
    (first.folder / "system.json").write_text("{}")
    for file in first.folder.iterdir():
        file.write_bytes(b"changed in place")
    found = resolve_system("a:1")
    assert System.load(found).digest == first.digest
    assert found.is_relative_to(tmp_path / "home")
    with rung.load("a") as answer:
        assert answer("where is my parcel") == "delivery"


def test_a_system_is_stored_once_however_many_tags_it_has(first, tmp_path):
    tagged(first, "a:1")
    place = system_folder(first.digest)
    before = place.stat().st_ino
    tagged(make_head(tmp_path / "same", "one"), "b:1")
    assert place.stat().st_ino == before
    assert [path.name for path in place.parent.iterdir()] == [first.digest]


def test_a_stored_system_that_was_damaged_is_stored_again(first):
    tagged(first, "a:1")
    damaged = next(path for path in sorted(system_folder(first.digest).iterdir()) if "head" in path.name)
    damaged.write_bytes(b"")
    with pytest.raises(SystemFolderError, match="is missing or was changed"):
        System.load(resolve_system("a:1"))
    tagged(first, "a:1")
    assert System.load(resolve_system("a:1")).digest == first.digest


def test_a_changed_system_is_not_stored(first):
    next(path for path in sorted(first.folder.iterdir()) if "head" in path.name).write_bytes(b"other")
    with pytest.raises(SystemFolderError, match="was changed since the System was made"):
        tagged(first, "a:1")
    assert tags() == []


def calibrated(folder, temperature):
    """The System of the first folder again, with a calibration; None: without one."""
    made = make_head(folder, "one")
    if temperature is not None:
        found = CalibrationMap(method="temperature", temperature=temperature)
        keep_calibration(made, Calibration(map=found, rows=99, rows_digest="d", every_label=True, note=""))
    return made


def temperature(text):
    found = load_system(text)[0].calibration
    with rung.load(text) as answer:
        assert answer.system.calibration == found
    return None if found is None else found.map.temperature


def test_a_tag_keeps_its_calibration_though_the_same_system_is_tagged_with_another_or_none(tmp_path):
    wanted = {"a:1": 0.5, "b:1": 4.0, "c:1": None, "d:1": 0.25}
    for tag, value in wanted.items():
        tagged(calibrated(tmp_path / tag[0], value), tag)
    assert {tag: temperature(tag) for tag in wanted} == wanted
    assert len({p.system for p in tags()}) == 1


def test_rolling_back_brings_the_calibration_back(tmp_path):
    for number, value in enumerate((0.5, 4.0, None), start=1):
        tagged(calibrated(tmp_path / str(number), value), f"a:{number}")
    assert temperature("a") is None
    tag_system("a:1", "a:latest")
    assert temperature("a") == 0.5
    second, third = (p for p in tags("a") if p.version in ("2", "3"))
    remove(second.tag)
    tag_system(f"a@{second.which}", "a:latest")
    assert temperature("a") == 4.0
    assert third.which == f"{third.system}-none" and temperature(f"a@{third.which}") is None
    assert temperature(f"a@{third.system}") == 4.0  # the last that was tagged


def without_names(home, system):
    """The registry of a calibrated System as it was before calibrations were named."""
    copy(system, system_folder(system.digest))
    for file in (home / "registry" / "tags").iterdir():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**line, "calibration": None}) + "\n" for line in lines))
        file.write_text(file.read_text().replace(', "calibration": null', ""))


def test_a_tag_of_before_has_the_calibration_in_its_systems_folder_and_keeps_it(tmp_path, home):
    system = calibrated(tmp_path / "old", 0.5)
    tagged(system, "a:1")
    without_names(home, system)
    assert [p.calibration for p in history("a")] == ["beside", "beside"] and temperature("a:1") == 0.5
    tagged(calibrated(tmp_path / "other", 4.0), "b:1")
    tagged(calibrated(tmp_path / "none", None), "c:1")
    assert (temperature("a:1"), temperature("b:1"), temperature("c:1")) == (0.5, 4.0, None)
    next(system_folder(system.digest).glob("*.safetensors")).write_bytes(b"")
    tagged(calibrated(tmp_path / "none", None), "c:2")
    assert (temperature("a:1"), temperature("c:2")) == (0.5, None)
    tag_system("a:1", "a:2")
    assert temperature("a:2") == 0.5 and find("a:2").calibration not in (None, "beside")


def test_a_calibration_that_no_tag_names_is_pruned_and_one_that_is_gone_is_said(tmp_path, home):
    for tag, value in (("a:1", 0.5), ("b:1", 4.0)):
        tagged(calibrated(tmp_path / tag[0], value), tag)
    gone = remove(read_tag("b:1"))
    remove(read_tag("b"))
    removed, size = prune()
    assert removed == [] and size > 0
    assert [path.name for path in (home / "registry" / "calibrations").iterdir()] == [find("a").calibration]
    assert temperature("a:1") == 0.5
    with pytest.raises(
        SystemFolderError, match=f"the calibration {gone.calibration} of 'b:latest' is in the"
    ):
        load_system(f"b@{gone.which}")


def test_every_event_is_kept_in_order(first, second):
    tagged(first, "a:1")
    tagged(second, "a:1")
    remove(read_tag("a:1"))
    past = [(str(p.tag), p.action, p.system) for p in history("a")]
    assert past == [
        ("a:1", "tag", first.digest),
        ("a:latest", "tag", first.digest),
        ("a:1", "tag", second.digest),
        ("a:latest", "tag", second.digest),
        ("a:1", "remove", second.digest),
    ]
    assert now() == {"a:latest": second.digest}
    assert find(f"a@{first.digest}").system == first.digest
    assert resolve_system(f"a@{first.digest}") == system_folder(first.digest)


def test_a_removed_tag_can_be_made_again(first):
    tagged(first, "a:1")
    remove(read_tag("a:1"))
    with pytest.raises(TaskError, match="there is no tag 'a:1'; did you mean a:latest"):
        remove(read_tag("a:1"))
    tagged(first, "a:1")
    assert now() == {"a:1": first.digest, "a:latest": first.digest}


def test_pruning_removes_what_no_tag_points_at_and_says_so_when_it_is_asked_for(first, second, home):
    tagged(first, "a:1")
    tagged(second, "a:2")
    assert prune() == ([], 0)
    (home / "registry" / "systems" / ".x.draft-1").mkdir()
    remove(read_tag("a:1"))
    size = sum(path.stat().st_size for path in system_folder(first.digest).iterdir())
    assert prune() == ([first.digest], size)
    assert [path.name for path in (home / "registry" / "systems").iterdir()] == [second.digest]
    assert System.load(resolve_system("a:2")).digest == second.digest
    with pytest.raises(
        SystemFolderError, match=f"the System {first.digest} of .* is in the registry no longer"
    ):
        resolve_system(f"a@{first.digest}")


def test_nothing_is_pruned_while_a_history_cannot_be_read(first, home):
    tagged(first, "a:1")
    (home / "registry" / "tags" / "b.jsonl").write_text("{}\n")
    remove(read_tag("a:1"))
    remove(read_tag("a"))
    with pytest.raises(RunError, match=r"b\.jsonl' is damaged in line 1"):
        prune()
    assert system_folder(first.digest).is_dir()


def test_an_empty_registry_has_no_tags_and_nothing_to_prune():
    assert (tags(), history("a"), prune()) == ([], [], ([], 0))


def test_a_line_that_a_crash_tore_is_left_out_and_cut_off_by_the_next_tag(first, second, home):
    tagged(first, "a:1")
    file = home / "registry" / "tags" / "a.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-30])
    assert len(history("a")) == 3
    tagged(second, "a:2")
    assert [p.version for p in history("a")] == ["1", "latest", "1", "2", "latest"]


def test_a_damaged_history_is_named_with_its_line_and_not_added_to(first, home):
    tagged(first, "a:1")
    file = home / "registry" / "tags" / "a.jsonl"
    damaged = file.read_bytes() + b"{oops}\n"
    file.write_bytes(damaged)
    with pytest.raises(RunError, match=r"a\.jsonl' is damaged in line 3 .*take that line out"):
        tagged(first, "a:2")
    assert file.read_bytes() == damaged


def test_a_folder_is_meant_before_a_tag_of_the_same_name(first, second, tmp_path):
    tagged(first, "second")
    assert resolve_system("second") == Path("second")
    assert resolve_system("second:latest") == system_folder(first.digest)
    (tmp_path / "third").mkdir()
    tagged(first, "third")
    assert resolve_system("third") == system_folder(first.digest)


def test_what_is_neither_is_answered_with_the_nearest_tags(first, home):
    with pytest.raises(SystemFolderError, match="there are no tags yet, `rung tag SYSTEM NAME` makes one"):
        resolve_system("helpdesk")
    tagged(first, "helpdesk:1.0")
    with pytest.raises(
        SystemFolderError, match=r"no System at 'helpdsk': .* did you mean helpdesk:latest or h"
    ):
        resolve_system("helpdsk")
    with pytest.raises(SystemFolderError, match="`rung tags` shows those that there are"):
        resolve_system("runs/demo")
    with pytest.raises(SystemFolderError, match="File name too long"):
        resolve_system("a pasted text " * 40)
    (home / "registry" / "tags" / "b.jsonl").write_text("{}\n")
    with pytest.raises(SystemFolderError, match="no System at 'helpdsk'"):
        resolve_system("helpdsk")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("smollm2-135m", True),
        ("qwen3-0.6b", True),
        ("Qwen/Qwen3-0.6B", True),
        ("unsloth/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q4_K_M.gguf", True),
        ("hf:org/name", True),
        ("weights.gguf", True),
        ("with-one-gguf", True),
        ("with-one-gguf/", True),
        ("a-system", False),
        ("a-run", False),
        ("runs/demo2", False),
        ("smolm2-135m", False),
        ("nowhere", False),
        ("x" * 5000, False),
    ],
)
def test_what_names_a_base_model(text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("with-one-gguf", "a-system", "a-run", "runs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "with-one-gguf" / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "a-system" / "system.json").write_text("{}")
    (tmp_path / "a-run" / "run.json").write_text("{}")
    assert names_model(text) is named


def test_a_models_name_in_a_systems_place_is_told_to_be_one(home):
    with pytest.raises(SystemFolderError, match="names a model: `rung climb` makes Systems with one"):
        resolve_system("smollm2-135m")
    with pytest.raises(SystemFolderError, match="models by a like name: smollm2-135m"):
        resolve_system("smolm2-135m")


def test_a_registry_that_cannot_be_written_is_an_error_that_names_its_setting(first, home):
    home.write_text("a file")
    with pytest.raises(RunError, match=r"can't write .*choose another place with RUNG_HOME"):
        tagged(first, "a:1")


def test_without_a_setting_it_lies_in_the_users_data_folder(first, tmp_path, monkeypatch):
    monkeypatch.delenv("RUNG_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert system_folder("d") == tmp_path / "data" / "rung" / "registry" / "systems" / "d"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert system_folder("d") == tmp_path / ".local/share/rung/registry/systems/d"


def test_a_tag_waits_for_whoever_changes_the_registry(first, home):
    with locked(home / "registry" / ".lock"):
        waiting = threading.Thread(target=tagged, args=(first, "a:1"))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and tags() == []
    waiting.join(20)
    assert now() == {"a:1": first.digest, "a:latest": first.digest}


def test_processes_that_tag_and_prune_at_once_lose_nothing(first):
    code = (
        "import sys; from pathlib import Path; from rung.registry import *; from rung.system import System\n"
        "system = System.load(Path(sys.argv[1]))\n"
        "for n in range(25):\n"
        "    tag = read_tag(f'a:{sys.argv[2]}{n}')\n"
        "    point(system, tag, source='s', origin='none', keep_latest=True)\n"
        "    System.load(resolve_system(str(tag))); remove(tag); prune()\n"
        "point(system, tag, source='s', origin='none', keep_latest=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code, first.folder, letter], env=environment)
        for letter in ("x", "y")
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(history("a")) == 102
    assert now() == {"a:x24": first.digest, "a:y24": first.digest}
    assert System.load(resolve_system("a:x24")).digest == first.digest
