"""The System that judges: a local model that chooses among words, or a hosted one that is held to them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rung.errors import EngineError, TaskError
from rung.hosted import complete, hosted_engine_spec, hosted_ref
from rung.judging.verdicts import Verdicts
from rung.models.hosted import Hosted, hosted
from rung.models.resolve import resolve
from rung.records import Example
from rung.runs import digest_of, read_json, write_json
from rung.scoring.verdicts import KEY
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, ref_to, save

JUDGE_FOLDER = "judge"
JUDGEMENTS_FILE = "judgements.jsonl"
REPORTED_FILE = "reported-{}.json"
"""One for each judge: a comparison may have another one than the run that it keeps its verdicts in."""
MOST_TOKENS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a judge is told, the words that it may answer with, and a row that is easy to judge."""

    instruction: str
    words: tuple[str, ...]
    easy: Example


def verdicts_of(task: str, given: str, form: Form, folder: Path, pool: Pool) -> Verdicts:
    """The judge `given` of the task called `task`, with what it said before in `folder`.

    A hosted one is asked once what it calls itself. Raises RungError where it can't be brought or asked.
    """
    if pool.keep is not None:
        # Its engine stays open beside theirs whom it judges: it's asked after every few rows of each.
        pool.keep += 1
    parts = Spec(
        rung="judge",
        task=task,
        kind="label",
        labels=form.words,
        engine="llama",
        instruction=form.instruction,
        answer=AnswerSpec(form="words"),
    )
    if (model := hosted(given)) is not None:
        parts = _hosted(parts, model, form, folder, pool)
    else:
        local = resolve(given)
        if local.kind != "generate":
            raise TaskError(f"judge.model: {given!r} makes sentence vectors and can't judge; name another")
        if local.digest in pool.models:
            raise TaskError(
                f"judge.model: {given!r} holds the very weights of a model that answers; name another"
            )
        pool.models[local.digest] = local
        engine = "llama" if local.gguf is not None else "torch"
        parts = parts.model_copy(update={"engine": engine, "model": ref_to(local, given)})
    system = save(folder / "system", parts, {})
    return Verdicts(given=given, system=system, path=folder / JUDGEMENTS_FILE, words=form.words)


def _hosted(parts: Spec, model: Hosted, form: Form, folder: Path, pool: Pool) -> Spec:
    """The judge through an endpoint, named after what the server says that it is, settled once."""
    schema = {
        "type": "object",
        "properties": {KEY: {"type": "string", "enum": list(form.words)}},
        "required": [KEY],
        "additionalProperties": False,
    }
    wanted = {
        "kind": "json",
        "labels": (),
        "schema_": schema,
        "engine": "endpoint",
        "answer": AnswerSpec(form="schema", max_tokens=MOST_TOKENS),
    }
    made = parts.model_copy(update=wanted)
    kept = folder / REPORTED_FILE.format(digest_of(model.given)[:12])
    if not kept.exists():
        with pool.till.judging() if pool.till is not None else nullcontext():
            (found,) = complete(made, pool.engine(hosted_engine_spec(model)), [form.easy], [[]])
        if found.failure is not None:
            raise EngineError(f"the judge {model.given} can't be asked: {found.failure}")
        said = {"given": model.given, "reported": found.reported, "written": found.completion_tokens}
        write_json(kept, said)
    return made.model_copy(update={"model": hosted_ref(model, str(read_json(kept)["reported"]))})


def tokens_written(folder: Path, given: str) -> int:
    """Tokens that a hosted judge billed for its first answer, thoughts included; 0 where none were kept."""
    return int(read_json(folder / REPORTED_FILE.format(digest_of(given)[:12])).get("written", 0))


def told_of(about: str) -> str:
    """The job, as the instruction of a judge has it."""
    return f" The job: {about.strip()}" if about.strip() else ""


def framed(name: str, parts: Sequence[tuple[str, str]], asked: str) -> str:
    """Texts between lines that a mark tells from theirs, and what is asked of them.

    The mark is the beginning of `name`, which hangs on all texts: none of them can hold a line that passes
    for one of these.
    """
    mark = name[:8]
    told = "".join(f"=== {what} {mark}\n{text}\n" for what, text in parts)
    return f"{told}=== end {mark}\n{asked}"
