"""The commands for tags and keys, and the page that explains them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from rung.cli.main import run
from rung.records import Calibration, CalibrationMap
from rung.serve.keys import Keys
from rung.system import System, keep_calibration
from tests.fixtures_tagged import make_head, make_run

PAGE = Path(__file__).parents[2] / "docs" / "registry.md"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo")
    return tmp_path / "home"


@pytest.fixture
def rung(capsys):
    """Run a command; what it printed."""

    def ran(*arguments, status=0):
        assert run(arguments) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return ran


def test_the_commands_of_the_page_do_what_it_says(rung):
    commands = re.findall(r"^\$ rung (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 7
    said = {command: rung(*shlex.split(command)) for command in commands}
    assert said['ask helpdesk:1.0 "My parcel never came."'] == "delivery\n"
    assert "ana   admin" in said["keys"] and "ci    user" in said["keys"]


def test_where_a_system_had_several_calibrations_the_events_say_which(rung, tmp_path):
    system = System.load(tmp_path / "runs" / "demo" / "winner")
    assert rung("tag", "runs/demo/winner", "helpdesk").startswith(
        f"helpdesk:latest points at {system.digest}\n"
    )
    found = CalibrationMap(method="temperature", temperature=2.0)
    keep_calibration(system, Calibration(map=found, rows=9, rows_digest="d", every_label=True, note=""))
    said = rung("tag", "runs/demo/winner", "helpdesk").splitlines()[0]
    names = rf"points at ({system.digest}-\w{{16}}), and no longer at ({system.digest}-none)"
    now, before = re.fullmatch(f"helpdesk:latest {names}", said).groups()
    assert now in rung("tags", "helpdesk") and before in rung("tags", "helpdesk")
    assert rung("tag", f"helpdesk@{before}", "helpdesk").startswith(
        f"helpdesk:latest points at {before}, and no"
    )


def test_tagging_says_what_is_tied_to_the_tag_and_where_it_lies(rung, home, tmp_path):
    first = rung("tag", "runs/demo/winner", "helpdesk:1.0").splitlines()
    digest = first[0].removeprefix("helpdesk:1.0 points at ")
    assert first[1:] == [
        f"helpdesk:latest points at {digest}",
        "accuracy .863 (.832–.889) on 400 test rows; the verdict: ship",
        first[3],
    ]
    assert re.fullmatch(rf"\d\.\d kB in {home}/registry/systems/{digest}", first[3])
    make_head(tmp_path / "other", "another")
    second = rung("tag", "other", "helpdesk:1.1").splitlines()
    assert second[1].endswith(f", and no longer at {digest}")
    assert second[2] == "no score is tied to it: it lies in the folder of no finished run"


def test_tags_are_listed_with_their_scores_and_a_name_with_its_history(rung, tmp_path):
    assert rung("tags") == "no tags; `rung tag SYSTEM NAME:VERSION` makes one\n"
    rung("tag", "runs/demo/winner", "helpdesk:1.0")
    make_head(tmp_path / "other", "another")
    rung("tag", "other", "helpdesk:1.1", "--keep-latest")
    rung("tag", "other", "mail")
    listed = [line.split() for line in rung("tags").splitlines()]
    assert [line[0] for line in listed] == [
        "tag",
        "helpdesk:1.0",
        "helpdesk:1.1",
        "helpdesk:latest",
        "mail:latest",
    ]
    assert listed[1][2:6] == ["head", ".863", "(.832–.889)", "ship"]
    assert listed[2][2:5] == ["head", "–", "–"]
    assert rung("tags", "--remove", "helpdesk:1.0").startswith("helpdesk:1.0 is removed; it pointed at ")
    assert rung("tags", "--prune") == "removed no System: 0.0 kB\n"
    rung("tags", "--remove", "helpdesk")
    assert re.fullmatch(r"removed [0-9a-f]{16}: \d\.\d kB\n", rung("tags", "--prune"))
    table, past = rung("tags", "helpdesk").split("what happened, the newest first")
    assert "helpdesk:1.1" in table and "mail" not in table
    assert [" ".join(line.split()[2:5]) for line in past.splitlines()[2:]] == [
        "helpdesk:latest removed from",
        "helpdesk:1.0 removed from",
        "helpdesk:1.1 pointed at",
        "helpdesk:latest pointed at",
        "helpdesk:1.0 pointed at",
    ]
    assert past.count("(pruned)") == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["other", "--prune"], "--prune removes Systems of all names and lists nothing: give 'other' to"),
        (["--prune", "--json"], "--prune removes Systems of all names and lists nothing: give --json to"),
        (
            ["other", "--remove", "helpdesk:1.0"],
            "--remove names its tag itself and lists nothing: give 'other'",
        ),
        (["other", "--json", "--remove", "helpdesk:1.0"], "give 'other', --json to a command of its own"),
    ],
)
def test_nothing_is_removed_where_a_listing_is_asked_for_too(rung, home, given, words):
    rung("tag", "runs/demo/winner", "helpdesk:1.0", "--keep-latest")
    make_head(home.parent / "other", "another")
    rung("tag", "other", "other:1.0", "--keep-latest")
    rung("tags", "--remove", "other:1.0")
    before = sorted(home.rglob("*"))
    said = rung("tags", *given, status=2)
    assert words in said and len(said.splitlines()) == 1
    assert sorted(home.rglob("*")) == before
    assert json.loads(rung("tags", "--json"))["tags"][0]["version"] == "1.0"


def test_the_help_of_prune_says_that_it_is_of_all_names(rung):
    assert "Remove the stored Systems, of all names," in " ".join(rung("tags", "--help").split())


def test_tags_are_told_to_programs_as_json(rung, home):
    rung("tag", "runs/demo/winner", "helpdesk:1.0")
    whole = json.loads(rung("tags", "--json"))
    assert list(whole) == ["tags"] and len(whole["tags"]) == 2
    first = whole["tags"][0]
    assert first["origin"]["score"] == 0.8625 and first["origin"]["chosen"] is True
    assert first["folder"] == str(home / "registry" / "systems" / first["system"])
    assert len(json.loads(rung("tags", "helpdesk", "--json"))["history"]) == 2
    assert json.loads(rung("tags", "nobody", "--json")) == {"tags": [], "history": []}


def test_mistakes_with_tags_are_one_line(rung):
    rung("tag", "runs/demo/winner", "helpdesk:1.0")
    assert "did you mean helpdesk:1.0" in rung("ask", "helpdesk:1.1", "x", status=2)
    assert "is no tag: a tag is NAME or NAME:VERSION" in rung("tag", "helpdesk", "Help Desk", status=2)
    assert "there is no tag 'helpdesk:9'" in rung("tags", "--remove", "helpdesk:9", status=2)


def test_a_key_is_printed_once_and_alone(home, capsys):
    assert run(["keys", "add", "ci", "--expires", "30d"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert re.fullmatch(r"rung-[\w-]{43}", key) and key not in said.err
    found = Keys.load(home / "keys.json").check(key)
    assert found is not None and found.expires is not None
    assert (found.expires - found.created).days == 30
    assert run(["keys"]) == run(["keys", "--json"]) == 0
    assert key not in capsys.readouterr().out


def test_keys_are_listed_and_taken_back(rung, home):
    assert rung("keys") == "no keys; `rung keys add NAME` makes one\n"
    key = rung("keys", "add", "ci", "--admin").strip()
    (listed,) = json.loads(rung("keys", "--json"))
    assert (listed["name"], listed["role"], listed["expires"]) == ("ci", "admin", None)
    assert listed["expired"] is False
    assert rung("keys").splitlines()[1].split()[:2] == ["ci", "admin"]
    assert rung("keys", "remove", "ci") == "ci is removed\n"
    assert Keys.load(home / "keys.json").check(key) is None
    assert "no key is named 'ci'" in rung("keys", "remove", "ci", status=2)


@pytest.mark.parametrize("span", ["3y", "0d", "-1d", "30"])
def test_an_end_that_is_no_span_of_time_names_the_option(rung, span):
    said = rung("keys", "add", "ci", f"--expires={span}", status=2)
    assert f"--expires {span!r} isn't a span of time" in said and "30d" in said


def test_what_a_system_is_called_is_shown_as_it_is(rung, tmp_path):
    folder = tmp_path / "odd[" / "b]"
    make_head(folder)
    told = folder / "system.json"
    told.write_text(told.read_text().replace('"head"', '"[/]"', 1))
    rung("tag", "odd[/b]", "helpdesk")
    table, past = rung("tags", "helpdesk").split("what happened, the newest first")
    assert " [/] " in table and "odd[/b]" in past


@pytest.mark.parametrize("command", [["tag"], ["tags"], ["keys"], ["keys", "add"], ["keys", "remove"]])
def test_each_command_explains_itself_with_an_example(rung, command):
    assert f"Example: rung {command[0]} " in rung(*command, "--help")
