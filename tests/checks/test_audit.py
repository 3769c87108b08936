import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from rung.checks.audit import AUDIT_ROWS, audit, cohen_kappa, read_audit, write_audit
from rung.checks.base import Subject
from rung.climb.checking import CheckOptions, check_rows
from rung.errors import DataError, RungError
from rung.records import Example, Splits
from rung.scoring.stats import wilson
from rung.task import DataFiles, Output, Task
from tests.fixtures_climb import Log, label_rows, write_rows

TASK = Task(data=DataFiles(train=Path("t.jsonl")), output=Output(kind="label", labels=("no", "yes")))
NUMBERS = Task(data=DataFiles(train=Path("t.jsonl")), output=Output(kind="number"))
TEST = tuple(
    Example(id=f"r{n}", input=f"is {n} odd?", output="yes" if n % 2 else "no", where=f"t.jsonl:{n}")
    for n in range(120)
)


def subject(pairs, task: Task = TASK) -> Subject:
    return Subject(
        task=task,
        splits=Splits(train=(), dev=(), test=TEST, test_given=True, digest=""),
        audited=tuple(pairs),
    )


def filled(path: Path, label) -> None:
    """Fill in the sheet as a second person would; None leaves a row open."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps({**line, "second": label(line)}) + "\n" for line in lines))


def test_fifty_rows_are_drawn_by_the_seed_with_an_empty_field_to_fill_in(tmp_path):
    assert write_audit(TEST, tmp_path / "a.jsonl", 0) == AUDIT_ROWS == 50
    write_audit(tuple(TEST), tmp_path / "b.jsonl", 0)
    write_audit(TEST, tmp_path / "c.jsonl", 1)
    text = (tmp_path / "a.jsonl").read_text()
    assert text == (tmp_path / "b.jsonl").read_text() != (tmp_path / "c.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len({line["id"] for line in lines}) == 50
    assert set(lines[0]) == {"id", "where", "input", "digest", "second"}
    assert all(line["second"] is None for line in lines)


def test_a_sheet_tells_nothing_of_the_outputs(tmp_path):
    write_audit(TEST, tmp_path / "a.jsonl", 0)
    text = (tmp_path / "a.jsonl").read_text()
    assert "yes" not in text and '"no"' not in text
    assert len({json.loads(line)["digest"] for line in text.splitlines()}) == 50


def test_a_sheet_that_is_there_already_is_not_overwritten(tmp_path):
    write_audit(TEST[:3], tmp_path / "a.jsonl", 0)
    with pytest.raises(RungError, match=r"--audit '.*a\.csv': .* name a file that ends in \.jsonl"):
        write_audit(TEST[:3], tmp_path / "a.csv", 0)
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(DataError, match=r"a\.jsonl' is there already; read it back with --audited"):
        write_audit(TEST[:3], tmp_path / "a.jsonl", 0)


def test_what_is_filled_in_is_read_back_and_open_rows_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    write_audit(TEST, path, 0)
    filled(path, lambda line: None if line["id"] == "r7" else " yes ")
    pairs = read_audit(path, TEST, TASK)
    assert {value for _, value in pairs} == {"yes"}
    assert "r7" not in {row.id for row, _ in pairs}
    assert all(row in TEST for row, _ in pairs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"second": "maybe"}, r"a\.jsonl:1: second 'maybe' is no label of the task; they are no, yes"),
        ({"second": {"a": 1}}, r"a\.jsonl:1: second \{'a': 1\} is no label; correct it"),
        ({"input": "changed", "second": "yes"}, r"a\.jsonl:1: no test row is like this \(id 'r"),
        ({"digest": "0" * 16, "second": "yes"}, r"a\.jsonl:1: no test row is like this \(id 'r"),
        ({"digest": None, "second": "yes"}, r"a\.jsonl:1: no test row is like this \(id 'r"),
        ({"id": "r9999", "second": "yes"}, r"a\.jsonl:1: no test row is like this \(id 'r9999'\)"),
        ({"second": " "}, r"a\.jsonl: no row has a 'second' output; fill in some"),
    ],
)
def test_a_sheet_that_does_not_fit_the_test_is_refused_with_its_line(change, said, tmp_path):
    path = tmp_path / "a.jsonl"
    write_audit(TEST, path, 0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=said):
        read_audit(path, TEST, TASK)


@pytest.mark.parametrize("changed", [False, True])
def test_a_row_whose_output_was_changed_since_is_refused_in_sheets_with_and_without_it(changed, tmp_path):
    path, old = tmp_path / "a.jsonl", tmp_path / "old.jsonl"
    write_audit(TEST, path, 0)
    filled(path, lambda line: "yes")
    outputs = {row.id: row.output for row in TEST}
    for line in map(json.loads, path.read_text().splitlines()):
        del line["digest"]
        with old.open("a") as file:
            file.write(json.dumps({**line, "output": outputs[line["id"]]}) + "\n")
    test = [replace(row, output="yes") for row in TEST] if changed else TEST
    for sheet in (path, old):
        if changed:
            with pytest.raises(DataError, match=rf"{sheet.name}:\d+: no test row is like this"):
                read_audit(sheet, test, TASK)
        else:
            assert len(read_audit(sheet, test, TASK)) == 50


def test_a_row_that_stands_there_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    write_audit(TEST, path, 0)
    filled(path, lambda line: "yes")
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:51: id 'r\d+' stands there twice"):
        read_audit(path, TEST, TASK)


def test_a_good_agreement_is_told_with_its_interval_and_the_rows_apart():
    pairs = [(row, "no" if row.id in ("r1", "r3") else row.output) for row in TEST[:50]]
    (found,) = audit(subject(pairs))
    assert found.severity == "info"
    assert "agrees on 48 of 50 rows of the test (96%, 87% to 99%); Cohen's kappa 0.92 (0.81 to 1.00)" in (
        found.message
    )
    assert found.rows == ("t.jsonl:1", "t.jsonl:3")
    assert found.details[0] == "t.jsonl:1 'is 1 odd?' is 'yes', second 'no'"


def test_a_kappa_under_six_tenths_warns_however_many_agree():
    rare = [replace(row, output="yes" if n < 3 else "no") for n, row in enumerate(TEST[:60])]
    pairs = [(row, "yes" if n in (2, 3, 4) else "no") for n, row in enumerate(rare)]
    (found,) = audit(subject(pairs))
    assert found.severity == "warn" and "agrees on 56 of 60 rows" in found.message
    assert "under 0.6, so write down what each label means" in found.message


def test_few_second_labels_are_said_to_be_few():
    (found,) = audit(subject([(row, row.output) for row in TEST[:29]]))
    assert "label 30 rows or more" in found.message
    (found,) = audit(subject([(row, row.output) for row in TEST[:30]]))
    assert "rows or more" not in found.message


def test_other_kinds_are_compared_for_being_exactly_the_same():
    numbers = [(replace(row, output=float(n)), float(n or 7)) for n, row in enumerate(TEST[:40])]
    (found,) = audit(subject(numbers, NUMBERS))
    assert "agrees on 39 of 40 rows" in found.message and "kappa" not in found.message
    assert found.severity == "info"


def test_without_second_labels_the_check_says_how_to_get_them():
    assert "--audit OUT.jsonl" in str(audit(replace(subject([]), audited=None)))


@pytest.mark.parametrize("seed", range(20))
def test_kappa_and_its_interval_are_those_of_statsmodels(seed):
    dice = np.random.default_rng(seed)
    first = dice.integers(0, 2 + seed % 4, 80)
    second = np.where(dice.random(80) < 0.4, dice.integers(0, 2 + seed % 4, 80), first)
    table = np.zeros((5, 5))
    np.add.at(table, (first, second), 1)
    used = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    oracle = cohens_kappa(table[np.ix_(used, used)])
    kappa, interval = cohen_kappa([f"l{n}" for n in first], [f"l{n}" for n in second])
    assert kappa == pytest.approx(oracle.kappa)
    assert interval.low == pytest.approx(oracle.kappa_low)
    assert interval.high == pytest.approx(min(1.0, oracle.kappa_upp))


def test_full_agreement_has_an_interval_of_some_width():
    kappa, interval = cohen_kappa(["a", "b"] * 20, ["a", "b"] * 20)
    assert (kappa, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(2 * wilson(40, 40).low - 1)


def test_one_label_alone_has_no_kappa():
    assert cohen_kappa(["a"] * 9, ["a"] * 9)[0] is None
    (found,) = audit(subject([(row, "no") for row in TEST[:60:2]]))
    assert "kappa can't be told, all have one label" in found.message and found.severity == "info"


def test_a_sheet_goes_out_and_comes_back_through_the_check_of_a_file(tmp_path):
    rows = label_rows(270)
    data, sheet = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "sheet.jsonl"
    log = Log()
    first = CheckOptions(out=tmp_path / "out", audit=sheet)
    report = check_rows(data, first, log).report
    assert "sheet.jsonl: 50 test rows; have a second person fill in `second`" in log.text
    assert "audit" in {run.name for run in report.checks if run.left_out}
    labels = {row["input"]: row["output"] for row in rows}
    filled(sheet, lambda line: labels[line["input"]])
    report = check_rows(data, CheckOptions(out=tmp_path / "out", audited=sheet), Log()).report
    (found,) = [finding for finding in report.findings if finding.check == "audit"]
    assert "agrees on 50 of 50 rows" in found.message and found.severity == "info"
