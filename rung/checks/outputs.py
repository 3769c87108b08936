"""Whether the outputs can be right: of the kind and schema, one per input, known labels, in the input."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rung.calling import schema_of
from rung.checks.base import Outcome, Subject, by_share, finding, rows_text, such_as
from rung.engines.schema import byte_grammar, check_schema, taken, tight
from rung.errors import TaskError
from rung.records import Example, Finding, Json, Severity
from rung.task.calls import FUNCTIONS, call_fault, functions_in, settled_calls
from rung.task.outputs import as_calls, as_kind, canonical, shown, why_not
from rung.task.schemas import is_inferred
from rung.task.validator import validator_of
from rung.wording import answer_text

if TYPE_CHECKING:
    from llguidance import LLMatcher

CONFLICTS_WARN, CONFLICTS_BLOCK = 0.01, 0.05
EXTRACTIVE_SHARE = 0.8
"""With so many of the values found in the input a task is taken for an extraction."""
OBTAINABLE_SHARE = 0.95
MOST_KNOWN = 50_000
"""Validated outputs that are remembered at once."""
MOST_SPELLED = 5_000
"""Rows whose outputs are spelled under the grammar that holds the answers."""
MOST_GRAMMARS = 64
"""Grammars that are kept at once, of rows with functions of their own."""
SHOWN_LABELS = 8

_QUOTES = " \"'`“”‘’„«»"
_ENDS = ".,;: "
_WITH_FRACTION = re.compile(r"([-+]?[0-9]+)\.0+")


def conflicts(subject: Subject) -> Outcome:
    """Ceiling of exact answers: 1 - E[1 - share of the most frequent output of the row's question]."""
    rows = subject.rows
    asked: dict[int, list[Example]] = defaultdict(list)
    for place in subject.asked_again.tolist():
        asked[int(subject.first_asked[place])].append(rows[place])
    clashing, reachable = [], len(rows) - len(subject.asked_again)
    for same in asked.values():
        counts = Counter(canonical(example.output) for example in same)
        reachable += max(counts.values())
        if len(counts) > 1:
            clashing.append(same)
    if not clashing:
        return []
    touched = [example for same in clashing for example in same]
    share = len(touched) / len(rows)
    one, other = _two_answers(clashing[0])
    message = (
        f"same input, different outputs: {rows_text(len(touched))} ({share:.1%}), such as "
        f"{one.where} {shown(one.output, 40)} and {other.where} {shown(other.output, 40)}: no system can "
        f"answer more than {reachable / len(rows):.2%} of all rows exactly; settle on one output per input"
    )
    grave = by_share(share, warn=CONFLICTS_WARN, block=CONFLICTS_BLOCK)
    several_fine = subject.task.output.kind == "text" or grave is None
    return [finding("conflicts", "info" if several_fine or grave is None else grave, message, touched)]


def _two_answers(same: Sequence[Example]) -> tuple[Example, Example]:
    first = canonical(same[0].output)
    return same[0], next(example for example in same if canonical(example.output) != first)


def labels_alike(subject: Subject) -> Outcome:
    """Labels that a reader takes for one: a row says by chance alone which of them is right."""
    if subject.task.output.kind != "label":
        return []
    counts = Counter(str(example.output) for example in subject.rows)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        alike[_read_alike(label)].append(label)
    several = [labels for labels in alike.values() if len(labels) > 1]
    if not several:
        return []
    several.sort(key=lambda labels: -sum(counts[label] for label in labels[1:]))
    others = {label for labels in several for label in labels[1:]}
    rows = [example for example in subject.rows if str(example.output) in others]
    told = "; ".join(
        " and ".join(f"{_told_apart(label, labels)} ({rows_text(counts[label])})" for label in labels)
        for labels in several[:SHOWN_LABELS]
    )
    more = f"; and {len(several) - SHOWN_LABELS:,} more" if len(several) > SHOWN_LABELS else ""
    message = (
        f"labels that are alike but for case, blanks or signs: {told}{more}: no answer can tell which is "
        f"meant, {such_as(rows)}; write each in one way, or go on with --accept labels_alike where they name "
        "different classes"
    )
    return [finding("labels_alike", "block", message, rows)]


def _read_alike(label: str) -> str:
    """A label without what people write differently: case, blanks and underscores, quotes, a sign at its end.

    A whole number has no fraction either: columns of numbers with a gap are written with one.
    """
    folded = " ".join(unicodedata.normalize("NFKC", label).lower().replace("_", " ").split())
    text = folded.strip(_QUOTES).rstrip(_ENDS).strip(_QUOTES) or label
    return found[1] if (found := _WITH_FRACTION.fullmatch(text)) else text


def _told_apart(label: str, labels: Sequence[str]) -> str:
    """The label for a message, with escapes where another of these looks the same."""
    looks = [unicodedata.normalize("NFC", one) for one in labels]
    alike = looks.count(unicodedata.normalize("NFC", label)) > 1
    return ascii(label)[:80] if alike else shown(label, 40)


def unseen_labels(subject: Subject) -> Outcome:
    """Test rows whose label no training row has: nothing could learn it."""
    if subject.task.output.kind != "label":
        return []
    seen = {canonical(example.output) for example in subject.splits.train}
    rows = [example for example in subject.splits.test if canonical(example.output) not in seen]
    if not rows:
        return []
    labels = sorted({canonical(example.output) for example in rows})
    message = (
        f"test labels that no training row has: {', '.join(labels)[:200]} in {rows_text(len(rows))}, "
        f"{such_as(rows)}; add training rows of them or correct the test"
    )
    return [finding("unseen_labels", "warn", message, rows)]


def targets(subject: Subject) -> Outcome:
    """Outputs that aren't of the task's kind or not under its schema. TaskError where a schema has no end."""
    output = subject.task.output
    assert output.kind is not None, "infer completes the task before it is checked"
    unread = [example for example in subject.rows if as_kind(example.output, output.kind) is None]
    if unread:
        first = unread[0].output
        message = (
            f"outputs that are no {output.kind}: {rows_text(len(unread))}, {such_as(unread)} "
            f"{shown(first)}{why_not(first, output.kind)}; correct them, or set output.kind"
        )
        return [finding("targets", "block", message, unread)]
    if output.kind == "tool_call":
        uncallable = _uncallable(subject.rows)
        return uncallable or _unwritable(subject, ())
    if output.kind != "json" or output.json_schema is None:
        return []
    faults = _schema_faults(subject.rows, output.json_schema)
    held = [] if check_schema(output.json_schema) else _unwritable(subject, [row for row, _ in faults])
    if not faults:
        return held
    inferred = is_inferred(output.json_schema)
    first, fault = faults[0]
    way_out = "give a schema in task.yaml" if inferred else "the schema"
    message = (
        f"outputs outside the {'inferred ' if inferred else ''}schema: {rows_text(len(faults))}, such as "
        f"{first.where}: {fault}; correct them or {way_out}"
    )
    return [finding("targets", "warn" if inferred else "block", message, [row for row, _ in faults]), *held]


def _unwritable(subject: Subject, faulty: Iterable[Example]) -> list[Finding]:
    """Outputs, but for the faulty ones, that the grammar which answers are held to doesn't let through.

    It is narrower than the schema: it knows formats, and closes objects that name their keys.
    """
    rows = subject.rows[:: -(-len(subject.rows) // MOST_SPELLED) or 1]
    known = {row.id for row in faulty}
    found = [
        (row, why)
        for row, why in _spelled([r for r in rows if r.id not in known], subject)
        if why is not None
    ]
    if not found:
        return []
    first, why = found[0]
    way_out = (
        "correct the calls or the row's `tools`"
        if subject.task.output.kind == "tool_call"
        else "correct them, or give a schema that names every key and whose formats are theirs (a date-time "
        "has a zone, a uri a scheme)"
    )
    sample = "" if len(rows) == len(subject.rows) else f" of {len(rows):,} that were looked at"
    message = (
        f"outputs that are under the schema but that no answer held to it can be: {rows_text(len(found))}"
        f"{sample}, such as {first.where}: {why}; {way_out}"
    )
    return [finding("targets", "warn", message, [row for row, _ in found])]


def _spelled(rows: Sequence[Example], subject: Subject) -> Iterator[tuple[Example, str | None]]:
    """Each row with the place where the grammar of its answer stops its output, None where it doesn't."""
    output = subject.task.output
    grammars: dict[str, LLMatcher] = {}
    known: dict[tuple[str, str], str | None] = {}
    for row in rows:
        if output.kind == "tool_call":
            context = row.context or ""
            offered = context.rpartition(FUNCTIONS)[2] if FUNCTIONS in context else ""
            value: Json = settled_calls(as_calls(row.output) or (), functions_in(context))
            text = answer_text(value, "tool_call")
        else:
            offered = ""
            text = answer_text(as_kind(row.output, "json"), "json", schema=output.json_schema)
        if offered not in grammars:
            if len(grammars) >= MOST_GRAMMARS:
                grammars.clear()
            schema = schema_of(row.context) if output.kind == "tool_call" else output.json_schema
            grammars[offered] = byte_grammar(tight(schema))
        if (offered, text) not in known:
            known[offered, text] = _stopped(grammars[offered], text)
        yield row, known[offered, text]


def _stopped(grammar: "LLMatcher", text: str) -> str | None:
    """Where a grammar stops a text, in words; None where it takes all of it, or is broken itself."""
    begun = None if grammar.is_error() else taken(grammar, text)
    if begun is None:
        return None
    rest = f"go on with {shown(text[len(begun) :][:20])}" if begun != text else "end"
    return f"after {shown(begun[-40:], 60)} it can't {rest}"


def _uncallable(rows: Sequence[Example]) -> list[Finding]:
    """Calls of functions that their row doesn't offer, and arguments that these don't take."""
    found = [(row, call_fault(as_calls(row.output) or (), functions_in(row.context))) for row in rows]
    findings: list[Finding] = []
    grave: tuple[tuple[bool, Severity], ...] = ((True, "block"), (False, "warn"))
    for strange, severity in grave:
        faults = [(row, fault[1]) for row, fault in found if fault is not None and fault[0] == strange]
        if faults:
            first, said = faults[0]
            what = "calls of functions that their row doesn't offer" if strange else "calls that don't fit"
            message = (
                f"{what}: {rows_text(len(faults))}, such as {first.where}: {said}; correct the calls or the "
                "row's `tools`"
            )
            findings.append(finding("targets", severity, message, [row for row, _ in faults]))
    return findings


def _schema_faults(rows: Sequence[Example], schema: dict[str, Any]) -> list[tuple[Example, str]]:
    """The rows outside the schema with the first reason; equal outputs are validated once."""
    from referencing.exceptions import Unresolvable

    validator = validator_of(schema)
    known: dict[str, str | None] = {}
    faults: list[tuple[Example, str]] = []
    try:
        for example in rows:
            value = as_kind(example.output, "json")
            spelled = canonical(value)
            if len(known) > MOST_KNOWN:
                known.clear()
            if spelled not in known:
                try:
                    error = next(validator.iter_errors(value), None)
                except TaskError as slow:
                    raise TaskError(f"output.schema: {slow} ({example.where})") from None
                known[spelled] = f"at {error.json_path}: {error.message[:160]}" if error else None
            fault = known[spelled]
            if fault is not None:
                faults.append((example, fault))
    except Unresolvable as error:
        raise TaskError(f"output.schema: $ref {error.ref!r} leads nowhere; correct it") from error
    except RecursionError as error:
        raise TaskError(
            "output.schema: a $ref leads back to itself; a part must get smaller each time"
        ) from error
    return faults


def obtainable(subject: Subject) -> Outcome:
    """In extractions: values of a JSON output that stand nowhere in the input or its context.

    What isn't there can't be read off it: a model that is taught to answer so learns to invent. Function
    calls are left out: what they ask for is often not what was said.
    """
    if subject.task.output.kind != "json":
        return []
    found, absent = 0, []
    for example in subject.rows:
        if _calls(as_kind(example.output, "json")):
            continue
        text = _plain(f"{example.input}\n{example.context or ''}")
        missing = [value for value in _texts(as_kind(example.output, "json")) if _plain(value) not in text]
        found += sum(1 for _ in _texts(as_kind(example.output, "json"))) - len(missing)
        if missing:
            absent.append((example, missing))
    values = found + sum(len(missing) for _, missing in absent)
    if not values or not EXTRACTIVE_SHARE <= found / values < OBTAINABLE_SHARE:
        return []
    first, missing = absent[0]
    message = (
        f"values that stand in no input: {1 - found / values:.1%} of {values:,}, in "
        f"{rows_text(len(absent))}, such as {first.where}: {shown(missing[0], 60)}; give the context that "
        "holds them, or take them out"
    )
    return [finding("obtainable", "warn", message, [row for row, _ in absent])]


def _calls(value: Json) -> bool:
    """Whether a JSON value holds a function call."""
    if isinstance(value, list):
        return any(map(_calls, value))
    if not isinstance(value, dict):
        return False
    called = isinstance(value.get("name"), str) and ("arguments" in value or "parameters" in value)
    return called or any(map(_calls, value.values()))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _texts(value: Json) -> Iterator[str]:
    """Every text that isn't empty in a JSON value."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
