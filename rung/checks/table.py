"""The table of checks, and running them all."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from rung.checks import audit, counts, files, labels, lengths, outputs, overlap
from rung.checks.base import ALL_NEEDS, Check, Needs, Subject
from rung.errors import TaskError
from rung.records import CheckRun, Finding

CHECKS: tuple[Check, ...] = (
    Check(number=1, name="broken_rows", what="every row can be read", run=files.broken_rows),
    Check(number=3, name="train_rows", what="enough rows to train on", run=counts.train_rows),
    Check(number=3, name="test_rows", what="enough rows to test on", run=counts.test_rows),
    Check(number=4, name="repeats", what="no row stands there twice", run=overlap.repeats),
    Check(number=5, name="leaks", what="no test input is in train", run=overlap.leaks),
    Check(number=6, name="near_leaks", what="no test input nearly in train", run=overlap.near_leaks),
    Check(number=6, name="near_repeats", what="few rows nearly the same", run=overlap.near_repeats),
    Check(
        number=7,
        name="semantic_leaks",
        what="few test rows paraphrased in train",
        run=overlap.semantic_leaks,
        needs="vectors",
    ),
    Check(number=8, name="known_text", what="long test inputs are new", run=overlap.known_text),
    Check(number=9, name="shared_groups", what="no group is in train and test", run=overlap.shared_groups),
    Check(number=10, name="conflicts", what="one output for an input", run=outputs.conflicts),
    Check(number=11, name="majority", what="no output for nearly all rows", run=counts.majority),
    Check(number=11, name="one_class", what="more than one label", run=counts.one_class),
    Check(number=12, name="imbalance", what="some rows of every label", run=counts.imbalance),
    Check(number=12, name="unseen_labels", what="test labels are in train", run=outputs.unseen_labels),
    Check(
        number=13,
        name="label_errors",
        what="no label that the other rows speak against",
        run=labels.label_errors,
        needs="vectors",
    ),
    Check(number=14, name="audit", what="a second person agrees on test rows", run=audit.audit),
    Check(
        number=15,
        name="too_long",
        what="rows fit the model's context",
        run=lengths.too_long_rows,
        needs="chat",
    ),
    Check(number=29, name="targets", what="outputs of the kind and schema", run=outputs.targets),
    Check(number=30, name="obtainable", what="values are in the input", run=outputs.obtainable),
)
"""`number` is that of the list in docs/checks.md; some of its lines are several checks here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Every finding in the order of the table, and what became of each check."""

    findings: tuple[Finding, ...]
    runs: tuple[CheckRun, ...]


def check(subject: Subject, accepted: Collection[str] = (), needs: Collection[Needs] = ALL_NEEDS) -> Checked:
    """Run the checks of the table that need no more than `needs`.

    What blocks is a warning where its check was `accepted`. Raises TaskError for a name that is no check.
    """
    known_names(accepted)
    found: list[Finding] = []
    runs: list[CheckRun] = []
    for one in CHECKS:
        if one.needs not in needs:
            continue
        outcome = one.run(subject)
        left_out = outcome if isinstance(outcome, str) else None
        findings = [] if isinstance(outcome, str) else outcome
        found += [_accepted(f) if f.check in accepted and f.severity == "block" else f for f in findings]
        runs.append(
            CheckRun(
                number=one.number, name=one.name, what=one.what, findings=len(findings), left_out=left_out
            )
        )
    return Checked(findings=tuple(found), runs=tuple(runs))


def known_names(names: Collection[str]) -> None:
    """Raises TaskError for a name that is no check's."""
    known = [one.name for one in CHECKS]
    for name in names:
        if name not in known:
            raise TaskError(f"--accept {name!r}: no check has that name; they are {', '.join(known)}")


def blocks(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What has to be mended, or accepted by name."""
    return tuple(found for found in findings if found.severity == "block")


def _accepted(found: Finding) -> Finding:
    return replace(found, severity="warn", accepted=True)
