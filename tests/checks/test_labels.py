import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from rung.checks.base import Subject
from rung.checks.labels import FOLDS, confident_joint, dealt, doubtful, label_errors
from rung.records import Example, Splits
from rung.task import DataFiles, Output, Task

WORDS = {
    "billing": "invoice refund charge price receipt tax bank card cost paid".split(),
    "delivery": "parcel courier late address box lost post street door truck".split(),
    "login": "password account code email locked sign reset user name key".split(),
}
FILLERS = "please my the again today help with was is about you we can not".split()


def rows(count: int, name: str = "rows", seed: int = 0) -> list[Example]:
    """Rows whose label is the topic of most of their words."""
    dice = random.Random(f"{name}{seed}")
    made = []
    for n in range(1, count + 1):
        label = dice.choice(list(WORDS))
        words = [*dice.sample(WORDS[label], 3), *dice.sample(FILLERS, 4), dice.choice(WORDS["billing"])]
        dice.shuffle(words)
        made.append(Example(id=f"{name}{n}", input=" ".join(words), output=label, where=f"{name}.jsonl:{n}"))
    return made


def flipped(made: list[Example], share: float, seed: int = 1) -> tuple[list[Example], set[str]]:
    """The rows with the labels of some exchanged for another one, and where those stand."""
    dice = random.Random(seed)
    chosen = set(dice.sample(range(len(made)), round(share * len(made))))
    changed = [
        replace(row, output=dice.choice([label for label in WORDS if label != row.output]))
        if place in chosen
        else row
        for place, row in enumerate(made)
    ]
    return changed, {made[place].where for place in chosen}


def subject(train: list[Example], test: list[Example] | None = None, **changes) -> Subject:
    task = Task(
        data=DataFiles(train=Path("rows.jsonl")), output=Output(kind="label", labels=tuple(sorted(WORDS)))
    )
    parts = Splits(
        train=tuple(train), dev=tuple(rows(20, "dev")), test=tuple(test or ()), test_given=True, digest=""
    )
    return Subject(task=task, splits=parts, **{"embed": by_words, **changes})


def by_words(examples) -> np.ndarray:
    """Unit vectors of how often each known word stands in a row."""
    known = sorted({word for words in WORDS.values() for word in words})
    counts = np.array([[row.input.split().count(word) for word in known] for row in examples], dtype=float)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_flipped_labels_are_found_and_little_else():
    changed, planted = flipped(rows(500), 0.05)
    (found,) = label_errors(subject(changed))
    details = [line.split(" ", 1)[0] for line in found.details]
    assert (found.check, found.severity) == ("label_errors", "warn")
    assert found.count >= 0.8 * len(planted)
    assert set(details) == set(found.rows) and len(details) == 20
    assert sum(where in planted for where in details) >= 19


def test_a_finding_says_where_what_is_given_and_what_is_likelier():
    made = rows(300)
    wrong = replace(made[6], input="parcel courier late box lost", output="login")
    (found,) = label_errors(subject([*made[:6], wrong, *made[7:]]))
    assert found.severity == "info", "one of 320 rows is no more than 3 %"
    assert found.rows[0] == "rows.jsonl:7"
    assert found.details[0].startswith(
        "rows.jsonl:7 'parcel courier late box lost' is 'login', likelier 'delivery' ("
    )


def test_test_rows_are_named_too():
    changed, planted = flipped(rows(100, "test"), 0.05)
    (found,) = label_errors(subject(rows(300), changed))
    named = {where for where in found.rows if where.startswith("test.jsonl")}
    assert len(named & planted) >= 4 and f"{len(named)} of them in the test" in found.message


def test_right_labels_are_left_alone():
    found = label_errors(subject(rows(400)))
    assert found == []


def test_labels_that_the_words_do_not_tell_are_not_doubted():
    dice = random.Random(3)
    made = [replace(row, output=dice.choice(list(WORDS))) for row in rows(300)]
    reason = label_errors(subject(made))
    assert isinstance(reason, str) and "knows too little to doubt" in reason


def test_too_few_rows_or_no_vectors_are_left_out_with_the_reason():
    assert "at least 50 of two labels" in str(label_errors(subject(rows(20))))
    assert "rung models --fetch" in str(label_errors(subject(rows(200), embed=None)))


def test_other_kinds_of_outputs_have_no_labels_to_doubt():
    made = subject(rows(100))
    task = made.task.model_copy(update={"output": Output(kind="text")})
    assert label_errors(replace(made, task=task)) == []


def test_each_fold_has_every_label_and_equal_questions_stay_together():
    made = rows(200)
    made += [replace(row, id=f"again{n}", input=row.input.upper()) for n, row in enumerate(made[:50])]
    rare = [replace(made[0], id=f"rare{n}", input=f"rare {n}", output="rare") for n in range(FOLDS - 1)]
    kept, folds = dealt([*made, *rare], seed=0)
    assert {row.output for row in kept} == set(WORDS), "a label that a fold lacks is left out"
    of = {row.id: fold for row, fold in zip(kept, folds, strict=True)}
    assert all(of[f"again{n}"] == of[made[n].id] for n in range(50))
    sizes = [[sum(f == fold and r.output == label for r, f in zip(kept, folds, strict=True))
              for fold in range(FOLDS)] for label in WORDS]  # fmt: skip
    assert all(min(counts) >= 1 for counts in sizes)


def test_the_confident_joint_is_that_worked_out_by_hand():
    given = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.2, 0.3, 0.85])
    probabilities = np.column_stack([first, 1 - first])
    # Mean self-confidence: .65 of label 0, (.9 + .8 + .7 + .15) / 4 of label 1. Three rows of each reach
    # their own, one of each the other's: nothing is left to be scaled.
    assert confident_joint(given, probabilities).tolist() == [[3, 1], [1, 3]]
    assert doubtful(given, probabilities).tolist() == [7, 3]


def test_rows_that_reach_no_threshold_are_spread_as_the_others_are():
    given = np.array([0, 0, 0, 0, 1, 1])
    first = np.array([0.9, 0.9, 0.3, 0.5, 0.1, 0.1])
    # Means: .65 of label 0, .9 of label 1. Two of label 0 count for it, none for label 1: scaled to all four.
    assert confident_joint(given, np.column_stack([first, 1 - first])).tolist() == [[4, 0], [0, 2]]


def test_the_widest_margins_are_pruned_and_the_least_sure_come_first():
    given = np.array([0] * 6 + [1] * 6)
    first = np.array([0.9, 0.9, 0.9, 0.9, 0.05, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    probabilities = np.column_stack([first, 1 - first])
    assert doubtful(given, probabilities).tolist() == [4]
    # The threshold of label 1 is .9: the row at .2 isn't sure enough, the one at .05 is.
    assert confident_joint(given, probabilities)[0, 1] == 1
