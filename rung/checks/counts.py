"""How many rows there are, of what, and how many of them repeat."""

import math
from collections import Counter

from rung.checks.base import Outcome, Subject, finding, rows_text
from rung.scoring.stats import FEWEST_GROUPS
from rung.task.draws import count_draws
from rung.task.outputs import canonical

MIN_TRAIN, ENOUGH_TRAIN, AMPLE_TRAIN = 10, 50, 200
MIN_TEST, ENOUGH_TEST = 50, 200
MAJORITY_SHARE = 0.9
RARE_SHARE = 0.1
"""Of an even share: a label with fewer training rows than that is rare (cleanlab's threshold)."""
FEWEST_TRAIN, FEWEST_TEST = 8, 5
"""Rows of a label below which little is learned of it, or measured."""
SHOWN_LABELS = 8


def train_rows(subject: Subject) -> Outcome:
    """Under 10 rows teach nothing, under 50 can be shown to a model but don't tune it."""
    count = len(subject.splits.train)
    if count < MIN_TRAIN:
        return [
            finding("train_rows", "block", f"{rows_text(count)} to train on; at least {MIN_TRAIN} are needed")
        ]
    if count < ENOUGH_TRAIN:
        message = (
            f"{rows_text(count)} to train on: enough to prompt with, too few to tune; label {ENOUGH_TRAIN}"
        )
        return [finding("train_rows", "warn", message)]
    if count < AMPLE_TRAIN:
        message = f"{rows_text(count)} to train on: a tune can start; {AMPLE_TRAIN} or more make it steadier"
        return [finding("train_rows", "info", message)]
    return []


def test_rows(subject: Subject) -> Outcome:
    """The smallest gain that a paired two-sided test at 5% sees with 80% power: (1.96 + 0.84)·√(D / n)."""
    count = len(subject.splits.test)
    if count < MIN_TEST:
        message = f"{rows_text(count)} to test on: scores are shown, no verdict; label at least {MIN_TEST}"
        return [finding("test_rows", "warn", message)]
    if count < ENOUGH_TEST:
        points = 100 * 2.8 * math.sqrt(0.2 / count)
        message = (
            f"{count} rows to test on: a gain under about {points:.0f} points can't be told from chance "
            f"(if two systems differ on 20% of the rows); {ENOUGH_TEST} or more rows see smaller ones"
        )
        return [finding("test_rows", "info", message)]
    return []


def few_groups(subject: Subject) -> Outcome:
    """Rows of a group, or that ask the same, are one draw: of g no permutation test has a p under 1 / 2^g."""
    found = []
    for name, rows in (("dev", subject.splits.dev), ("test", subject.splits.test)):
        count = count_draws(rows)
        if count >= min(FEWEST_GROUPS, len(rows)):
            continue
        least = f"{0.5**count:.3f}".removeprefix("0") if count > 1 else "1"
        groups = "1 group or question" if count == 1 else f"{count} groups or questions"
        message = (
            f"{rows_text(len(rows))} of {name} in {groups}, which are compared as wholes: no p is under "
            f"{least}, however large a gain, and among three rungs only .025 wins; give rows of "
            f"{FEWEST_GROUPS} groups or questions at least, or leave out groups with nothing in common"
        )
        found.append(finding("few_groups", "warn", message))
    return found


def one_class(subject: Subject) -> Outcome:
    """Nothing can be learned from rows of one label."""
    train = subject.splits.train
    labels = {canonical(example.output) for example in train}
    if subject.task.output.kind != "label" or len(labels) != 1:
        return []
    message = f"all {len(train)} training rows have the label {labels.pop()}; add rows of the others"
    return [finding("one_class", "block", message)]


def majority(subject: Subject) -> Outcome:
    """One output for nearly all rows: saying it always would score as well."""
    counts = Counter(canonical(example.output) for example in subject.splits.train)
    if len(counts) < 2:
        return []
    output, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    share = count / counts.total()
    if share <= MAJORITY_SHARE:
        return []
    way_out = "judge by metric macro_f1, or add rows of the others"
    message = (
        f"{share:.1%} of the training rows have the output {output[:80]}: always saying that scores as much; "
        f"{way_out if subject.task.output.kind == 'label' else 'add rows with other outputs'}"
    )
    return [finding("majority", "warn", message)]


def imbalance(subject: Subject) -> Outcome:
    """Labels with few rows beside the others, or too few to learn from or to measure."""
    if subject.task.output.kind != "label":
        return []
    train = Counter(str(example.output) for example in subject.splits.train)
    test = Counter(str(example.output) for example in subject.splits.test)
    if len(train) < 2 or train.total() < ENOUGH_TRAIN:
        return []
    even = len(subject.splits.train) / len(train)
    rare = [label for label, count in train.items() if count < max(RARE_SHARE * even, FEWEST_TRAIN)]
    unmeasured = [label for label in train if test[label] < FEWEST_TEST]
    found = []
    if rare:
        wanted = math.ceil(max(FEWEST_TRAIN, RARE_SHARE * even))
        least = (
            f"at least {FEWEST_TRAIN}, better " if min(train.values()) < FEWEST_TRAIN < wanted else "up to "
        )
        message = (
            f"labels with few training rows: {_counted(rare, train)}; add rows of them ({least}{wanted}), or "
            "merge them"
        )
        found.append(finding("imbalance", "warn", message))
    if unmeasured and len(subject.splits.test) >= MIN_TEST:
        message = (
            f"labels with fewer than {FEWEST_TEST} test rows, whose answers are hardly measured: "
            f"{_counted(unmeasured, test)}; add test rows of them"
        )
        found.append(finding("imbalance", "warn", message))
    return found


def _counted(labels: list[str], counts: Counter[str]) -> str:
    """`a (3), b (5)`, the rarest first."""
    rarest = sorted(labels, key=lambda label: (counts[label], label))
    shown = ", ".join(f"{label[:40]} ({counts[label]})" for label in rarest[:SHOWN_LABELS])
    return shown + (f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else "")
