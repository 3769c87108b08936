"""A System as others can run it, proved to answer as it did: `export`."""

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from rung import __version__
from rung.errors import RunError, TaskError
from rung.registry import Origin, Pointed, load_system
from rung.rungs.base import Reporter
from rung.runs import atomic_folder, write_json
from rung.ship.card import notice, readme
from rung.ship.climbed import Climbed, climbed, run_of
from rung.ship.parity import ROWS, Asked, Gate, prove
from rung.ship.rows import asked_rows
from rung.ship.subject import Subject, load_subject
from rung.ship.targets import ADAPTER, BASE, RECIPES, Target
from rung.ship.usage import vllm_command
from rung.system import Pool, System

T = TypeVar("T")

PARITY_FILE: Final = "parity.json"
README_FILE: Final = "README.md"
NOTICE_FILE: Final = "NOTICE"
COMMAND_FILE: Final = "serve.sh"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the command line may set. `rows` is a file of labelled rows, of which the first `most` are asked.

    `format` says how these are written. Without a `type` it is the target's usual one. `force` exports what
    the gate doesn't pass, too.
    """

    target: str
    type: str | None = None
    rows: Path | None = None
    format: str = "auto"
    most: int = ROWS
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: its folder, the type of its weights, their size, all files by name, and the gate."""

    folder: Path
    target: Target
    type: str
    size_bytes: int
    files: tuple[str, ...]
    gate: Gate


def export(system: Path | str, out: Path, options: ExportOptions, reporter: Reporter) -> Exported:
    """Write a System as `options.target` into the new folder `out`, loaded again and compared first.

    `system` is a folder, as text also a tag. Raises TaskError for what can't be exported so,
    SystemFolderError and ModelError for what can't be read, DataError for rows that can't be asked, and
    RunError where `out` isn't empty or the gate isn't passed. Nothing is written then.
    """
    loaded, pointed = (System.load(system), None) if isinstance(system, Path) else load_system(system)
    target, kind = chosen(loaded, options)
    _require_new(out)
    origin = _origin(loaded, pointed)
    asked = asked_rows(loaded, origin, options.rows, options.most, options.format, reporter)
    with Pool(say=reporter.say) as pool, atomic_folder(out) as draft:
        subject = load_subject(loaded, pool)
        reporter.say(f"exporting {subject.name} as {target}, {kind}")
        made = _working(reporter, "writing weights", lambda: RECIPES[target].build(subject, draft, kind))
        what = f"the same {len(asked.examples)} rows, before and after"
        gate = _working(reporter, what, lambda: prove(subject, made, asked, pool))
        if not gate.passed and not options.force:
            raise RunError(
                "the export doesn't answer as its System, so nothing was written: "
                f"{'; '.join((*gate.faults, *gate.notes))}. {_way_out(target, asked)}"
            )
        pool.close()  # the export's own files are open in its engines, under the draft's name
        size = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
        (draft / README_FILE).write_text(
            readme(subject, target, kind, gate, origin, size), encoding="utf-8", newline="\n"
        )
        (draft / NOTICE_FILE).write_text(notice(subject), encoding="utf-8", newline="\n")
        if target == "vllm":
            (draft / COMMAND_FILE).write_text(vllm_command(subject, kind), encoding="utf-8", newline="\n")
        write_json(draft / PARITY_FILE, _record(subject, target, kind, gate))
        files = tuple(sorted(str(p.relative_to(draft)) for p in draft.rglob("*") if p.is_file()))
    return Exported(folder=out, target=target, type=kind, size_bytes=size, files=files, gate=gate)


def _origin(system: System, pointed: Pointed | None) -> Climbed | None:
    """The climb that a System comes from: that of its run folder, or the one that its tag names."""
    run = run_of(system.folder)
    if pointed is not None and isinstance(pointed.origin, Origin):
        run = Path(pointed.origin.run)
    return None if run is None else climbed(run, system.digest)


def chosen(system: System, options: ExportOptions) -> tuple[Target, str]:
    """The target and the type that are meant. TaskError, in one line, for what this System can't be."""
    targets: dict[str, Target] = {name: name for name in RECIPES}
    target = targets.get(options.target)
    if target is None:
        raise TaskError(f"--to {options.target!r}: {_nearest(options.target, tuple(RECIPES))}")
    if reason := _refusal(system, target):
        raise TaskError(f"{str(system.folder)!r} can't be exported as {target}: {reason}")
    types = RECIPES[target].types
    if not system.is_tuned:
        types = (BASE,) if target == "ollama" else types
    if system.adapter is None:
        types = tuple(name for name in types if name != ADAPTER)
    kind = types[0] if options.type is None else options.type.lower()
    if kind not in types:
        raise TaskError(f"--type {options.type!r}: {_nearest(kind, types)}")
    if kind == ADAPTER and target in ("gguf", "vllm") and system.adapter_form == "dora":
        raise TaskError(
            f"--type {kind!r}: {'llama.cpp' if target == 'gguf' else 'vLLM'} has no DoRA adapters; another "
            f"type has it merged into the weights, such as {types[0]}"
        )
    if options.most < 1:
        raise TaskError(f"--most {options.most}: give the number of rows to ask, such as {ROWS}")
    return target, kind


def _refusal(system: System, target: Target) -> str | None:
    """Why a System can't be exported as the target, and what can be done; None where it can."""
    spec = system.spec
    if spec.engine == "head":
        return (
            "a linear head on sentence vectors is no language model, and none of these programs runs it; "
            "`rung serve` and rung.load answer by its folder as it is"
        )
    if spec.engine not in ("llama", "torch") or spec.model is None:
        return f"its engine {spec.engine!r} has no weights here"
    if spec.steps is not None:
        return (
            "it makes an answer of several calls, which no template can do; `rung serve` and rung.load "
            "answer by its folder as it is"
        )
    if spec.looks_up:
        what = "examples" if spec.retrieval is None else "passages"
        return (
            f"its {what} are looked up anew for each text, which no template can do; `rung serve` and "
            "rung.load answer by its folder as it is"
        )
    if system.weights is not None and target == "peft":
        return "all of its weights were tuned, so there is no adapter; --to merged has the weights"
    if system.adapter_form == "prefix" and target != "peft":
        return "what it learned stands before its prompts, not in its weights; --to peft has it"
    if not system.is_tuned and not RECIPES[target].prompted:
        able = " or ".join(f"--to {name}" for name, recipe in RECIPES.items() if recipe.prompted)
        return f"{spec.rung} learned no weights of its own, only a prompt; {able} puts it before every text"
    return None


def _require_new(out: Path) -> None:
    """Raise RunError where no folder can take the place of `out`, before any work is done for it."""
    if out.is_dir():
        if any(out.iterdir()):
            raise RunError(f"{str(out)!r} isn't empty; choose a new folder with --out")
    elif out.exists():
        raise RunError(f"{str(out)!r} is a file and an export is a folder; choose another with --out")
    inside = f"name one in it, such as --out {str(out / 'export')!r}"
    if out.is_symlink():
        raise RunError(
            f"{str(out)!r} is a link and an export is a folder of its own; choose another with --out"
        )
    if out.name == ".." or out.is_dir() and out.samefile(Path()):
        raise RunError(f"an export is a new folder and {str(out)!r} doesn't name one; {inside}")
    if out.is_mount():
        raise RunError(f"{str(out)!r} is a mount point, which no new folder can replace; {inside}")


def _working(reporter: Reporter, what: str, work: Callable[[], T]) -> T:
    bar = reporter.begin(what, None)
    try:
        return work()
    finally:
        reporter.end(bar)


def _way_out(target: Target, asked: Asked) -> str:
    more = f"Ask more rows (--rows FILE, --most N; now {len(asked.examples)})"
    finer = {
        "gguf": "a finer --type such as q8_0 or f16",
        "ollama": "a finer --type such as q8_0 or f16, or another target",
    }.get(target, "another target")
    return f"{more}, choose {finer}, or export all the same with --force: the README then says so"


def _record(subject: Subject, target: Target, kind: str, gate: Gate) -> dict:
    return {
        "system": subject.system.digest,
        "base": subject.model.digest,
        "target": target,
        "type": kind,
        "rung": __version__,
        **asdict(gate),
    }


def _nearest(given: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}There is {', '.join(known)}"
