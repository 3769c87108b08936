"""Systems whose run was climbed again, and runs that lost their rows or can't be written to."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rung.climb import sealed
from rung.climb.again import rows_again
from rung.climb.climb import Options, climb
from rung.compare.asked import Wanted
from rung.compare.compare import CompareOptions, compare
from rung.compare.sides import side
from rung.errors import RunError, TaskError
from rung.rungs.base import Built
from rung.ship.tagging import tag_system
from rung.spec import Spec
from rung.system import copy, save
from tests.fixtures_climb import Log, constant_head, label_rows, make_tiny_gguf, write_rows

BUDGET_S = 600.0


@dataclass
class ByTime:
    """A rung that gives every row one label, and another one where it has more time."""

    name: str
    short: str
    long: str

    def skip(self, context):
        return None

    def build(self, context):
        label, labels = self.long if context.seconds_left > BUDGET_S else self.short, context.labels
        spec = Spec(rung=self.name, task="t", kind="label", labels=labels, engine="head", features="tfidf")
        return Built(system=save(context.work / "s", spec, constant_head(label, labels)), what="one")


def placed(folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, Options]:
    """Rows in a folder, for a ladder of two rungs of which the first makes another System with more time."""
    patch.setenv("RUNG_HOME", str(folder / "home"))
    rungs = (ByTime("one", "billing", "login"), ByTime("two", "login", "login"))
    patch.setattr("rung.climb.options.LADDER", rungs)
    tiny, run = make_tiny_gguf(folder / "tiny.gguf"), folder / "runs" / "t"
    options = Options(models=(str(tiny),), rungs=("one", "two"), budget_s=BUDGET_S, out=run)
    return write_rows(folder / "topics.jsonl", label_rows(270)), options


@pytest.fixture
def climbing(tmp_path, monkeypatch) -> tuple[Path, Options]:
    return placed(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Path, Path]:
    """A folder with a run that was climbed again and a tag of its first climb's System; and a copy of it."""
    folder = tmp_path_factory.mktemp("again") / "here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        data, options = placed(folder, patch)
        _, run = climb(data, options, Log())
        tag_system(str(run / "rungs" / "one" / "system"), "topics:1")
        climb(data, replace(options, budget_s=10 * BUDGET_S), Log())
    return folder, shutil.copytree(folder, folder.with_name("kept"), symlinks=True)


@pytest.fixture
def again(kept, monkeypatch) -> Path:
    """That run, as it was when it was climbed."""
    folder, copied = kept
    shutil.rmtree(folder)
    shutil.copytree(copied, folder, symlinks=True)
    _, options = placed(folder, monkeypatch)
    assert options.out is not None
    return options.out


def opened(run: Path) -> tuple[str, int]:
    """The digest of the run's test, whose looks are put down to other Systems, and how many there were."""
    log = run / sealed.TEST_FILE
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    write_rows(log, [{**line, "system": "another"} for line in lines])
    return lines[0]["test"], sealed.openings(run, lines[0]["test"])


def test_a_tag_keeps_the_rows_and_the_sealed_test_of_a_run_that_was_climbed_again(again, tmp_path):
    earlier = again / "earlier" / "10m00s"
    known = side("topics:1")
    assert known.origin is not None and known.origin.folder == earlier and known.run == again
    assert known.origin.result.rung == "one"
    sides = ("topics:1", f"{again}:two")
    found = compare(*sides, CompareOptions(), Log())
    splits = rows_again(again).splits
    assert found.rows == len(splits.dev) and found.openings is None
    test = [{"input": e.input, "output": e.output} for e in splits.test]
    wanted = Wanted(rows=write_rows(tmp_path / "test.jsonl", test))
    other = side(f"{again}:two").system
    assert other is not None
    loose = copy(other, tmp_path / "loose").folder
    with pytest.raises(TaskError, match=rf"{len(test)} of these rows are of the sealed test"):
        compare("topics:1", str(loose), CompareOptions(wanted=wanted), Log())


@pytest.mark.parametrize("name", ["topics:1", "{run}/earlier/10m00s:one"])
def test_a_look_of_an_earlier_climbs_system_is_counted_in_the_run(again, name):
    test, before = opened(again)
    asked = CompareOptions(wanted=Wanted(test=True))
    found = compare(name.format(run=again), f"{again}:two", asked, Log())
    assert found.openings == before + 1 == sealed.openings(again, test)
    earlier = again / "earlier" / "10m00s"
    assert not (earlier / sealed.TEST_FILE).exists() and not (earlier / "answers").exists()


def test_a_system_that_no_climb_of_its_run_has_any_more_keeps_the_seal(again, tmp_path):
    (again / "earlier" / "10m00s" / "climb.json").unlink()
    one = side("topics:1")
    assert one.origin is None and one.run == again
    other = side(f"{again}:two").system
    assert other is not None
    loose = copy(other, tmp_path / "loose").folder
    splits = rows_again(again).splits
    part = [{"input": e.input, "output": e.output} for e in splits.test[:30]]
    fresh = label_rows(600)[400:]
    for rows, held in ((part, 30), ([*part[:7], *fresh], 7)):
        wanted = Wanted(rows=write_rows(tmp_path / "part.jsonl", rows))
        with pytest.raises(TaskError, match=f"^{held} of these rows are of the sealed test of"):
            compare("topics:1", str(loose), CompareOptions(wanted=wanted), Log())
    options = CompareOptions(wanted=Wanted(rows=write_rows(tmp_path / "fresh.jsonl", fresh)))
    found = compare("topics:1", str(loose), options, Log())
    assert found.openings is None
    assert found.notes[0].endswith(f"can't be told: it is in no climb of {str(again)!r} any more")
    with pytest.raises(TaskError, match="is in no climb of .* any more, so there are no rows for both"):
        compare("topics:1", f"{again}:two", CompareOptions(), Log())


def test_rows_that_lie_elsewhere_stay_sealed_and_are_noted_by_the_same_climb(climbing, tmp_path):
    data, options = climbing
    _, run = climb(data, options, Log())
    splits, sides = rows_again(run).splits, (f"{run}:one", f"{run}:two")
    moved = tmp_path / "data" / data.name
    moved.parent.mkdir()
    data.rename(moved)
    said = r"were read from .*topics\.jsonl', which isn't there: .* the task's name still 'topics'"
    with pytest.raises(RunError, match=said):
        compare(*sides, CompareOptions(), Log())
    with pytest.raises(TaskError, match=f"^{len(splits.test)} of these rows are of the sealed test"):
        compare(*sides, CompareOptions(wanted=Wanted(rows=moved)), Log())
    test, before = opened(run)
    found = compare(*sides, CompareOptions(wanted=Wanted(rows=moved, test=True)), Log())
    assert found.openings == before + 1 == sealed.openings(run, test)
    log = Log()
    climb(moved, options, log)
    assert "is complete: nothing was run again" in log.text
    assert rows_again(run).splits.digest == splits.digest
    assert compare(*sides, CompareOptions(), Log()).rows == len(splits.dev)


def modes(run: Path, folders: int, files: int) -> None:
    for path in (run, *run.rglob("*")):
        path.chmod(folders if path.is_dir() else files)


def test_a_finished_run_that_cannot_be_written_to_is_read(climbing, tmp_path):
    (tmp_path / "closed").mkdir(0o555)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("root may write everywhere")
    data, options = climbing
    first, run = climb(data, options, Log())
    modes(run, 0o555, 0o444)
    try:
        log = Log()
        again, _ = climb(data, options, log)
        assert again == first and "is complete: nothing was run again" in log.text
        with pytest.raises(RunError, match="can't write"):
            climb(data, replace(options, budget_s=10 * BUDGET_S), Log())
        with pytest.raises(RunError, match="copy the run to a place of your own") as caught:
            compare(f"{run}:one", f"{run}:two", CompareOptions(out=tmp_path / "out"), Log())
        assert "--out" not in str(caught.value)
        mine = shutil.copytree(run, tmp_path / "mine")
        modes(mine, 0o755, 0o644)
        assert compare(f"{mine}:one", f"{mine}:two", CompareOptions(), Log()).first.given == f"{mine}:one"
    finally:
        modes(run, 0o755, 0o644)
