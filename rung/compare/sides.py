"""What is compared: a run's winner or one of its rungs, a System's folder, a tag, or a base model."""

from dataclasses import dataclass
from pathlib import Path

from rung.climb.stored import CLIMB_FILE, climbs_in, load_climb, run_above, system_of
from rung.errors import RunError, SystemFolderError, TaskError
from rung.registry import load_system, locate, names_model
from rung.runs import RUN_FILE
from rung.ship.climbed import Climbed, climbed, run_of
from rung.system import System


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two, as it was `given`: a System and the finished climb that made it, or a base `model`.

    `run` holds that climb, or did: it has the System's answers, and its test is sealed for the System.
    """

    given: str
    system: System | None
    origin: Climbed | None = None
    run: Path | None = None
    model: str | None = None

    @property
    def unknown(self) -> str:
        """Why it isn't known what the System learned from."""
        if self.run is None:
            return "comes from no run that is here"
        return f"is in no climb of {str(self.run)!r} any more"


def side(text: str) -> Side:
    """Find what a text names: RUN, RUN:RUNG, a System's folder, a tag, a base model; the first that it is.

    Raises RungError where it names none of them, or a run without such a rung.
    """
    run, _, rung = text.rpartition(":")
    if _is_run(text):
        return _of_run(text, Path(text), None)
    if run and _is_run(run):
        return _of_run(text, Path(run), rung)
    try:
        locate(text)
    except SystemFolderError as error:
        if names_model(text):
            return Side(given=text, system=None, model=text)
        raise SystemFolderError(f"{error}; nor is it a run, RUN:RUNG or a model") from None
    system, pointed = load_system(text)
    at = run_of(system.folder)
    if at is None and pointed is not None and not isinstance(pointed.origin, str):
        # A tagged System was copied into the registry; the run may still be where it was.
        at = Path(pointed.origin.run) if climbs_in(Path(pointed.origin.run)) else None
    if at is None:
        return Side(given=text, system=system)
    return Side(given=text, system=system, origin=climbed(at, system.digest), run=run_above(at))


def _of_run(text: str, run: Path, rung: str | None) -> Side:
    """A rung of a run, by default the winner. RunError where there's no such thing."""
    climb = load_climb(run)
    built = {r.rung: r for r in climb.results if r.folder is not None}
    ways = f"name one of its rungs: {', '.join(f'{run}:{name}' for name in built)}"
    if rung is None and climb.decision.chosen is None:
        raise RunError(f"the climb in {str(run)!r} has no winner; {ways}")
    name = rung if rung is not None else str(climb.decision.chosen)
    if name not in built:
        raise RunError(f"the climb in {str(run)!r} built no rung {name!r}; {ways}")
    result = built[name]
    system = system_of(run, result)
    origin = Climbed(folder=run, climb=climb, result=result)
    return Side(given=text, system=system, origin=origin, run=run_above(run))


def _is_run(text: str) -> bool:
    """Whether a run lies there. RunError where its climb isn't finished."""
    folder = Path(text)
    try:
        if (folder / CLIMB_FILE).is_file():
            return True
        begun = (folder / RUN_FILE).is_file()
    except OSError:  # a text that is too long for a path
        return False
    if begun:
        raise RunError(
            f"the climb in {text!r} isn't finished; run the same `rung climb` again, it goes on from there"
        )
    return False


def need_two(first: Side, second: Side) -> None:
    """Raises TaskError where the two are one, or answer different things."""
    if first.system is None or second.system is None:
        if first.model is not None and first.model == second.model:
            raise TaskError(f"both are the model {first.model!r}; name two that differ")
        return
    a, b = first.system.spec, second.system.spec
    if first.system.digest == second.system.digest:
        raise TaskError(
            f"{first.given!r} and {second.given!r} are one System, {first.system.digest}; name two others"
        )
    if a.kind != b.kind:
        raise TaskError(
            f"{first.given!r} answers with {a.kind} and {second.given!r} with {b.kind}: no rows have both as "
            "their answers, so that they can't be compared"
        )
    if a.kind == "label" and set(a.labels) != set(b.labels):
        only = sorted(set(a.labels) ^ set(b.labels))
        raise TaskError(
            f"{first.given!r} and {second.given!r} choose among different labels: only one of them knows "
            f"{', '.join(map(repr, only[:5]))}{' …' if len(only) > 5 else ''}; climb both on the same labels"
        )
