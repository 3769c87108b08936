"""The table of checks, and running them all."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from rung.checks import (
    audit,
    characters,
    counts,
    files,
    labels,
    lengths,
    outputs,
    overlap,
    poison,
    preference,
    private,
    provenance,
    queries,
    render,
    triggers,
    turns,
)
from rung.checks.base import ALL_NEEDS, Check, Needs, Subject
from rung.errors import TaskError
from rung.records import CheckRun, Finding

CHECKS: tuple[Check, ...] = (
    Check(number=1, name="broken_rows", what="every row can be read", run=files.broken_rows),
    Check(
        number=1,
        name="damaged_text",
        what="no characters lost or doubled by an encoding",
        run=characters.damaged_text,
    ),
    Check(number=1, name="images", what="no row needs its images", run=turns.images),
    Check(number=2, name="turns", what="turns in the usual order", run=turns.turns),
    Check(number=3, name="train_rows", what="enough rows to train on", run=counts.train_rows),
    Check(number=3, name="test_rows", what="enough rows to test on", run=counts.test_rows),
    Check(number=3, name="few_groups", what="enough groups to compare", run=counts.few_groups),
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
        sampled=True,
    ),
    Check(number=8, name="known_text", what="long test inputs are new", run=overlap.known_text),
    Check(number=9, name="shared_groups", what="no group is in train and test", run=overlap.shared_groups),
    Check(number=10, name="conflicts", what="one output for an input", run=outputs.conflicts),
    Check(number=11, name="majority", what="no output for nearly all rows", run=counts.majority),
    Check(number=11, name="one_class", what="more than one label", run=counts.one_class),
    Check(number=12, name="imbalance", what="some rows of every label", run=counts.imbalance),
    Check(
        number=12,
        name="labels_alike",
        what="labels differ in more than case or blanks",
        run=outputs.labels_alike,
    ),
    Check(number=12, name="unseen_labels", what="test labels are in train", run=outputs.unseen_labels),
    Check(
        number=13,
        name="label_errors",
        what="no label that the other rows speak against",
        run=labels.label_errors,
        needs="vectors",
        sampled=True,
    ),
    Check(number=14, name="audit", what="a second person agrees on test rows", run=audit.audit),
    Check(
        number=15,
        name="too_long",
        what="rows fit the model's context",
        run=lengths.too_long_rows,
        needs="chat",
    ),
    Check(
        number=16,
        name="cut_answers",
        what="answers fit behind their prompts",
        run=render.cut_answers,
        needs="chat",
        sampled=True,
    ),
    Check(
        number=17,
        name="supervised",
        what="each row teaches, from where its answer begins",
        run=render.supervised,
        needs="chat",
        sampled=True,
    ),
    Check(
        number=19,
        name="end_of_turn",
        what="answers are taught to end",
        run=render.end_of_turn,
        needs="chat",
        sampled=True,
    ),
    Check(
        number=20,
        name="double_bos",
        what="one beginning",
        run=render.double_bos,
        needs="chat",
        sampled=True,
    ),
    Check(
        number=21,
        name="template",
        what="the template holds instruction and question",
        run=render.template,
        needs="chat",
    ),
    Check(
        number=22,
        name="serving_render",
        what="served as learned, byte for byte",
        run=render.serving_render,
        needs="chat",
    ),
    Check(number=24, name="personal_data", what="no e-mail, phone, card, …", run=private.personal_data),
    Check(number=25, name="secrets", what="no keys or passwords", run=private.secrets),
    Check(number=26, name="special_tokens", what="no tokens of a chat template", run=poison.special_tokens),
    Check(number=26, name="injections", what="no orders to a model", run=poison.injections),
    Check(number=26, name="hidden_characters", what="all characters show", run=characters.hidden_characters),
    Check(
        number=27,
        name="rare_triggers",
        what="no rare words that alone decide an output",
        run=triggers.rare_triggers,
        sampled=True,
    ),
    Check(
        number=28, name="preferences", what="answers differ in more than length", run=preference.preferences
    ),
    Check(number=29, name="targets", what="outputs of the kind and schema", run=outputs.targets),
    Check(number=30, name="obtainable", what="values are in the input", run=outputs.obtainable),
    Check(number=31, name="synthetic", what="no test row was made by a model", run=provenance.synthetic),
    Check(number=32, name="tokens", what="how long rows are", run=render.tokens, needs="chat", sampled=True),
    Check(number=33, name="queries", what="expected queries run", run=queries.queries),
)
"""`number` is that of the list in docs/checks.md; some of its lines are several checks here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Every finding in the order of the table, and what became of each check."""

    findings: tuple[Finding, ...]
    runs: tuple[CheckRun, ...]


def check(
    subject: Subject,
    accepted: Collection[str] = (),
    needs: Collection[Needs] = ALL_NEEDS,
    on_check: Callable[[str], None] = lambda name: None,
) -> Checked:
    """Run the checks of the table that need no more than `needs`, `on_check` called with the name of each.

    What blocks is a warning where its check was `accepted`. Where a sample was looked at, its findings say
    so. Raises TaskError for a name that is no check.
    """
    known_names(accepted)
    found: list[Finding] = []
    runs: list[CheckRun] = []
    for one in CHECKS:
        if one.needs not in needs:
            continue
        on_check(one.name)
        looked = subject.sample if one.sampled else subject
        outcome = one.run(looked)
        left_out = outcome if isinstance(outcome, str) else None
        findings = [] if isinstance(outcome, str) else [_with_sample(f, looked) for f in outcome]
        found += [_accepted(f) if f.check in accepted and f.severity == "block" else f for f in findings]
        runs.append(
            CheckRun(
                number=one.number,
                name=one.name,
                what=one.what,
                findings=len(findings),
                left_out=left_out,
                looked_at=len(looked.rows) if looked.of else None,
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


def _with_sample(found: Finding, looked: Subject) -> Finding:
    if looked.of is None:
        return found
    note = f"looked at {len(looked.rows):,} of {looked.of:,} rows, drawn at random"
    return replace(found, message=f"{found.message} ({note})")


def _accepted(found: Finding) -> Finding:
    return replace(found, severity="warn", accepted=True)
