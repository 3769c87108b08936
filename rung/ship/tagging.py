"""Tagging a System: what its climb says of it is tied to the tag."""

from pathlib import Path

from rung.climb.stored import CLIMB_FILE, load_climb
from rung.errors import RunError
from rung.records import Climb
from rung.registry import Origin, Pointed, locate, point, read_tag
from rung.runs import RUN_FILE, digest_of, read_json
from rung.system import System

LEVELS = 3
"""A rung's System lies so deep in its run: rungs/NAME/system."""


def tag_system(source: str, tag: str, *, keep_latest: bool = False) -> list[Pointed]:
    """Have `NAME:VERSION` point at a System, a folder or another tag; the new lines of the name's history.

    `NAME:latest` points there too then, unless it is to be kept. What was known of another tag's System is
    taken over. Raises TaskError for a tag that isn't well formed, SystemFolderError for what is no System or
    was changed, RunError where the registry can't be read or written.
    """
    wanted = read_tag(tag)
    folder, known = locate(source)
    system = System.load(folder)
    return point(
        system,
        wanted,
        source=str(folder.resolve()) if known is None else source,
        origin=origin_of(folder, system) if known is None else known.origin,
        keep_latest=keep_latest,
    )


def origin_of(folder: Path, system: System) -> Origin | str:
    """What the climb in whose run folder a System lies says of it, or why it says nothing."""
    run = next((p for p in folder.resolve().parents[:LEVELS] if (p / CLIMB_FILE).is_file()), None)
    if run is None:
        return "it lies in the folder of no finished run"
    try:
        climb = load_climb(run)
        config = digest_of(read_json(run / RUN_FILE).get("task")) if (run / RUN_FILE).is_file() else None
    except RunError as error:
        return f"its climb can't be read: {error}"
    found = _scored(climb, str(run), system.digest, config)
    return found or f"the climb in {str(run)!r} holds no score of it"


def _scored(climb: Climb, run: str, system: str, config: str | None) -> Origin | None:
    for result in climb.results:
        score = result.test or result.dev
        if result.system == system and score is not None:
            return Origin(
                run=run,
                data=dict(climb.digests).get("data"),
                config=config,
                metric=score.metric,
                split=score.split,
                score=score.score,
                interval=score.interval,
                n=score.n,
                verdict=climb.decision.kind,
                chosen=climb.decision.chosen == result.rung,
            )
    return None
