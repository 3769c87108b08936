"""The rows of a task, and what the checks found in them."""

from dataclasses import dataclass

from rung.records.kinds import Json, Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One labelled row. `id` is a digest of input, context and their occurrence; `where` is file:line.

    `rejected` is a worse answer than the output, `images` are paths and URLs as written, `faults` say what is
    odd about a row that can be read. A `synthetic` row was made by a model.
    """

    id: str
    input: str
    output: Json
    context: str | None = None
    group: str | None = None
    where: str = ""
    rejected: str | None = None
    images: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A stretch of a document that is looked up as a whole; `id` is the document's with a number, `a.md#3`.

    `title` is what the document, or the part of it that the stretch is from, is called.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a data check found: which check, how grave, which rows, and what to do.

    `rows` are the places of the first of `count` rows, `details` a line on each thing worth a look.
    `accepted`: it would block, but the user goes on all the same.
    """

    check: str
    severity: Severity
    message: str
    rows: tuple[str, ...] = ()
    count: int = 0
    details: tuple[str, ...] = ()
    accepted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRun:
    """What became of a data check: how many findings it gave, or why it was left out.

    `looked_at` is how many rows it looked at, drawn at random, where that weren't all.
    """

    number: int
    name: str
    what: str
    findings: int
    left_out: str | None = None
    looked_at: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The three disjoint parts of the rows. `test_given`: the test rows came as a file of their own.

    `removed`: rows taken out of train and dev because a given test holds their input, exactly or nearly.
    `undesirable` and `dev_undesirable`: answers judged to be bad, to questions that no other part has.
    """

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    test_given: bool
    digest: str
    removed: tuple[Example, ...] = ()
    undesirable: tuple[Example, ...] = ()
    dev_undesirable: tuple[Example, ...] = ()
