"""Labels that are one to whoever reads them, however they are spelled."""

import pytest

from rung.checks.examine import examined
from rung.checks.rows import prepare
from rung.climb.options import Options
from tests.checks.test_checks import LABELS, check, only, splits
from tests.fixtures_climb import label_rows, write_rows


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("Spam", "spam", "'Spam' (210 rows) and 'spam' (210 rows)"),
        ("card arrival", "card_arrival", "'card arrival' (210 rows) and 'card_arrival' (210 rows)"),
        ("credit  card", "Credit card", "'Credit card' (210 rows) and 'credit  card' (210 rows)"),
        ("spam", "spam.", "'spam' (210 rows) and 'spam.' (210 rows)"),
        ("„spam“", "spam", "'spam' (210 rows) and '„spam“' (210 rows)"),
        ("1", "1.0", "'1' (210 rows) and '1.0' (210 rows)"),
        ("Réel", "Re\u0301el", "'Re\\u0301el' (210 rows) and 'R\\xe9el' (210 rows)"),
        ("２", "2", "'2' (210 rows) and '２' (210 rows)"),
    ],
)
def test_labels_that_read_alike_block_with_both_and_how_often_each_is_there(one, other, told):
    found = only(check(splits(outputs=(one, other)), LABELS), "labels_alike", "block")
    assert told in found.message and "--accept labels_alike" in found.message
    assert (found.count, found.rows[0]) == (210, f"train.jsonl:{1 if sorted((one, other))[1] == one else 2}")
    accepted = check(splits(outputs=(one, other)), LABELS, ("labels_alike",))
    assert only(accepted, "labels_alike", "warn").accepted


@pytest.mark.parametrize(
    "outputs",
    [
        ("C", "C++", "c#"),
        ("A", "A*"),
        ("int", "int[]"),
        ("+1", "1", "-1"),
        (":)", ":("),
        ("<=", ">=", "="),
        (".", ","),
        ("1.0", "1.5", "10"),
        ("Maße", "Masse"),
    ],
)
def test_labels_that_differ_in_more_are_not_alike(outputs):
    assert check(splits(outputs=outputs), LABELS) == ()


def test_the_pair_that_hits_the_most_rows_is_told_first_and_of_many_how_many_more():
    letters = [chr(ord("a") + at) for at in range(10)]
    outputs = (*letters, *(letter.upper() for letter in letters), "j", "J", "a", "a", "a")
    made = splits(train=500, test=500, outputs=outputs)
    (found,) = [one for one in check(made, LABELS) if one.check == "labels_alike"]
    told = "signs: 'J' (81 rows) and 'j' (81 rows); 'a' (161 rows) and 'A' (41 rows); 'B' (41 rows) and 'b'"
    assert told in found.message and "; and 2 more: no answer" in found.message
    assert found.count == 81 + 9 * 41


def test_a_test_in_another_spelling_than_its_training_rows_blocks(tmp_path):
    rows = label_rows(180)
    loud = [row | {"output": row["output"].upper()} for row in rows[120:]]
    test, train = write_rows(tmp_path / "test.jsonl", loud), write_rows(tmp_path / "train.jsonl", rows[:120])
    found = examined(prepare(train, Options(test=test)), (), ("rows",)).findings
    (alike,) = [one for one in found if one.check == "labels_alike"]
    assert (alike.severity, alike.count) == ("block", 60)
    assert "'billing' (" in alike.message and "'BILLING' (" in alike.message
