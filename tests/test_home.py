"""Folders that variables name, under a home that nobody has: one error, and nothing made of that name."""

import os

import pytest

from rung.cli.main import run
from rung.errors import RunError
from rung.home import home_dir
from rung.models._cache import cache_dir
from rung.runs import write_text

NOBODYS = "~nobody-here/x"


@pytest.mark.parametrize(
    ("variable", "command"), [("RUNG_HOME", ["tags"]), ("RUNG_CACHE", ["models", "--fetch", "smollm2-135m"])]
)
def test_a_variable_that_names_a_home_which_nobody_has_is_a_mistake_in_one_line(
    variable, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, NOBODYS)
    assert run(command) == 2
    said = capsys.readouterr().err
    assert f"error: {variable} is '{NOBODYS}', and nobody here has that home; set {variable} to" in said
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variable", "base_variable", "folder"),
    [("RUNG_HOME", "XDG_DATA_HOME", home_dir), ("RUNG_CACHE", "XDG_CACHE_HOME", cache_dir)],
)
def test_a_user_without_a_home_is_told_which_variable_names_a_folder(
    variable, base_variable, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    for name in ("HOME", variable, base_variable):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match=f"this user has no home; set {variable} to the whole path"):
        folder()
    monkeypatch.setenv(base_variable, str(tmp_path))
    assert folder() == tmp_path / "rung"


def test_what_cannot_be_written_is_said_though_the_home_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", NOBODYS)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"can't write .*file/a\.txt.*another place with --out"):
        write_text(tmp_path / "file" / "a.txt", "x")
