import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rung.errors import RunError
from rung.runs import (
    append_jsonl,
    atomic_folder,
    digest_of,
    held,
    open_run,
    read_json,
    read_jsonl,
    read_records,
    write_json,
    write_text,
)

ROOT = Path(__file__).parents[1]
CONFIG = {"budget_s": 60.0, "task": {"seed": 0, "name": "a"}, "data": "d" * 64}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def python(code, *arguments, **options):
    """Run code in a process of its own; what it printed last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def with_little_room():
    """No file may grow over 10,000 bytes: what writing on a full disk is like."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"z": 1, "a": "é"})
    assert read_json(tmp_path / "a" / "b.json") == {"z": 1, "a": "é"}
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8").index('"a"') == 4
    assert names(tmp_path / "a") == ["b.json"]


def test_a_text_that_does_not_fit_leaves_the_old_file_whole_and_is_a_run_error(tmp_path):
    path = tmp_path / "report.html"
    write_text(path, "old")
    code = (
        "import sys; from pathlib import Path; from rung.errors import RunError; from rung.runs import *\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 50_000)\n"
        "except RunError as error: print(error)"
    )
    said = python(code, path, preexec_fn=with_little_room)
    assert str(path) in said and "free some space" in said and "--out" in said
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.html"]


@pytest.mark.parametrize("write", [lambda p: write_text(p, "x"), lambda p: append_jsonl(p, [{"a": 1}])])
def test_a_path_below_a_file_is_a_run_error(tmp_path, write):
    (tmp_path / "file").write_text("")
    said = r"can't write .*file/a\.json.*another place with --out, or with the option that named this one"
    with pytest.raises(RunError, match=said):
        write(tmp_path / "file" / "a.json")


def test_a_folder_that_nobody_may_write_to_is_a_run_error(tmp_path):
    folder = Path("/proc/rung") if os.geteuid() == 0 else tmp_path / "locked" / "run"
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.geteuid() == 0 and not Path("/proc").is_dir():
        pytest.skip("root may write everywhere but to /proc, and this system has none")
    with pytest.raises(RunError, match="mend the permissions"):
        open_run(folder, CONFIG)


def test_records_are_read_back_in_order(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    append_jsonl(path, [{"n": "three\u2028lines\r\n"}])
    assert [record["n"] for record in read_jsonl(path)] == [1, 2, "three\u2028lines\r\n"]


def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"n": 1}])
    with path.open("ab") as file:
        file.write('{"n": 2, "text": "é'.encode()[:-1])
    assert read_jsonl(path) == [{"n": 1}]
    append_jsonl(path, [{"n": 3}])
    assert read_jsonl(path) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'{"n": 1}\n\n{oops\n{"n": 2}\n', 3), (b"[]\n", 1), (b'{"n": 0}\n{"n": "\xff"}\n', 2)],
)
def test_a_damaged_line_in_the_middle_is_named_not_passed_over(tmp_path, content, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    said = rf"can't read .*log\.jsonl.*: line {line}: .*; remove it and run the same command again"
    with pytest.raises(RunError, match=said):
        read_jsonl(path)
    with pytest.raises(RunError, match=rf": line {line}: .*; mend that line or take it out and run"):
        read_jsonl(path, lasting=True)


@dataclass(frozen=True, kw_only=True)
class Counted:
    n: int
    why: str = ""


def test_records_of_a_kind_are_read_and_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_records(path, Counted) == []
    append_jsonl(path, [{"n": 1, "more": True}, {"n": 2, "why": "two"}])
    assert read_records(path, Counted) == [Counted(n=1), Counted(n=2, why="two")]
    append_jsonl(path, [{"why": "none"}])
    with pytest.raises(RunError, match=r"log\.jsonl.*: line 3: n: Field required; remove it and run"):
        read_records(path, Counted)
    with pytest.raises(RunError, match=r": line 3: n: Field required; mend that line or take it out"):
        read_records(path, Counted, lasting=True)


def test_a_file_that_lasts_and_cannot_be_read_is_not_to_be_removed(tmp_path):
    with pytest.raises(RunError, match="Is a directory.*; make it readable and run the same command again"):
        read_jsonl(tmp_path, lasting=True)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"'])
def test_a_damaged_json_file_is_a_run_error(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(RunError, match="remove it and run the same command again"):
        read_json(path)


def test_an_append_that_does_not_fit_keeps_what_was_there(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"n": 1}])
    code = (
        "import sys; from pathlib import Path; from rung.errors import RunError; from rung.runs import *\n"
        "try: append_jsonl(Path(sys.argv[1]), [{'n': 2, 'text': 'x' * 50_000}])\n"
        "except RunError as error: print('full')"
    )
    assert python(code, path, preexec_fn=with_little_room) == "full"
    assert read_jsonl(path) == [{"n": 1}]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "best"
    for text in ("one", "two"):
        with atomic_folder(folder) as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / "a.txt").write_text(text)
    assert (folder / "inner" / "a.txt").read_text() == "two"
    assert names(tmp_path) == ["best"]


def test_a_folder_whose_making_breaks_stays_as_it_was(tmp_path):
    folder = tmp_path / "best"
    with atomic_folder(folder) as draft:
        (draft / "a.txt").write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as draft:
        (draft / "a.txt").write_text("two")
        raise ZeroDivisionError
    assert (folder / "a.txt").read_text() == "one"
    assert names(tmp_path) == ["best"]


def test_a_failed_copy_into_a_folder_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match="can't write .*best"), atomic_folder(tmp_path / "best"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_drafts_of_a_killed_process_are_cleared_away(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from rung.runs import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as draft:\n"
        "    (draft / 'a').write_text('half'); print('x', flush=True); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "best"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1 and not folder.exists()
    with atomic_folder(folder) as draft:
        (draft / "a").write_text("whole")
    assert names(tmp_path) == ["best"]


def test_a_digest_depends_on_the_value_and_not_on_the_order_of_its_keys():
    assert digest_of({"a": 1, "b": [1, "é"]}) == digest_of({"b": [1, "é"], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_run_is_made_once_and_taken_up_again(tmp_path):
    assert open_run(tmp_path / "run", CONFIG) is None
    assert open_run(tmp_path / "run", CONFIG) == CONFIG


def test_a_run_whose_first_write_was_cut_off_is_begun_again(tmp_path):
    (tmp_path / ".run.json.draft-x").write_text("{")
    (tmp_path / ".lock").write_text("")
    assert open_run(tmp_path, CONFIG) is None


def test_another_config_is_refused_naming_what_differs(tmp_path):
    open_run(tmp_path / "run", CONFIG)
    before = (tmp_path / "run" / "run.json").read_bytes()
    other = {**CONFIG, "task": {"seed": 7, "name": "a"}, "data": "e" * 64}
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "run", other)
    said = str(caught.value)
    assert "task.seed is 0 there and 7 here" in said and "data is" in said
    assert "budget_s" not in said and "name" not in said and len(said) < 400
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="isn't empty and isn't a run; choose another folder with --out"):
        open_run(tmp_path, CONFIG)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(RunError, match="is a file and a run is a folder"):
        open_run(tmp_path / "run", CONFIG)
    assert (tmp_path / "run").read_text() == "precious"


def test_a_run_is_held_by_one_process_at_a_time_and_freed_by_its_death(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from rung.runs import held\n"
        "with held(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None and child.stdout.readline() == b"in\n"
    with pytest.raises(RunError, match="another climb is at work in"), held(tmp_path):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with held(tmp_path):
                break
        except RunError:
            time.sleep(0.05)
    else:
        pytest.fail("the lock outlived its process")
    assert names(tmp_path) == [".lock"]
