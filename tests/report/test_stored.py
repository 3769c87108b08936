import os

import pytest

from rung.errors import RunError
from rung.report.stored import find_run


def make_run(folder, at=None):
    folder.mkdir(parents=True)
    (folder / "climb.json").write_text("{}")
    if at is not None:
        os.utime(folder / "climb.json", (at, at))
    return folder


def test_the_newest_finished_run_is_taken(tmp_path):
    newest = make_run(tmp_path / "a", at=2000)
    make_run(tmp_path / "b", at=1000)
    (tmp_path / "c").mkdir()
    assert find_run(None, tmp_path) == newest


def test_no_run_at_all_says_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match="no finished climb in .*; make one with `rung climb TASK`"):
        find_run(None, tmp_path / "runs")


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match="isn't finished; run the same `rung climb` again"):
        find_run(tmp_path, tmp_path)


@pytest.mark.parametrize(("name", "said"), [("absent", "does not exist"), ("", "holds no climb")])
def test_a_folder_that_is_no_run_is_named(tmp_path, name, said):
    with pytest.raises(RunError, match=said):
        find_run(tmp_path / name, tmp_path)


def test_a_run_that_is_named_is_taken(tmp_path):
    run = make_run(tmp_path / "x")
    assert find_run(run, tmp_path / "elsewhere") == run
