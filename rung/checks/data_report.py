"""What `rung check` writes down: frozen records, as those of `rung.records`."""

from dataclasses import dataclass

from rung.records import CheckRun, Finding, OutputKind


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """A row in tokens, as text: what the model is given, and what is supervised after it."""

    where: str
    form: str
    prompt: tuple[str, ...]
    answer: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """What the checks say of a task's rows. `parts` are the names of the splits with their rows.

    `digest` is that of the rows and their parts, `inferred` what the rows decided.
    """

    task: str
    kind: OutputKind
    parts: tuple[tuple[str, int], ...]
    digest: str
    inferred: tuple[str, ...]
    findings: tuple[Finding, ...]
    checks: tuple[CheckRun, ...]
    accepted: tuple[str, ...]
    seconds: float
    versions: tuple[tuple[str, str], ...]
