"""Tagging a System: what its climb says of it is tied to the tag."""

from pathlib import Path

from rung.errors import RunError
from rung.registry import Origin, Pointed, load_system, point, read_tag
from rung.runs import RUN_FILE, digest_of, read_json
from rung.ship.climbed import climbed, run_of
from rung.system import System


def tag_system(source: str, tag: str, *, keep_latest: bool = False) -> list[Pointed]:
    """Have `NAME:VERSION` point at a System, a folder or another tag; the new lines of the name's history.

    `NAME:latest` points there too then, unless it is to be kept. What was known of another tag's System is
    taken over. Raises TaskError for a tag that isn't well formed, SystemFolderError for what is no System or
    was changed, RunError where the registry can't be read or written.
    """
    wanted = read_tag(tag)
    system, known = load_system(source)
    return point(
        system,
        wanted,
        source=str(system.folder.resolve()) if known is None else source,
        origin=origin_of(system.folder, system) if known is None else known.origin,
        keep_latest=keep_latest,
    )


def origin_of(folder: Path, system: System) -> Origin | str:
    """What the climb in whose run folder a System lies says of it, or why it says nothing."""
    run = run_of(folder)
    if run is None:
        return "it lies in the folder of no finished run"
    try:
        found = climbed(run, system.digest)
        config = digest_of(read_json(run / RUN_FILE).get("task")) if (run / RUN_FILE).is_file() else None
    except RunError as error:
        return f"its climb can't be read: {error}"
    score = None if found is None else found.result.test or found.result.dev
    if found is None or score is None:
        return f"the climb in {str(run)!r} holds no score of it"
    return Origin(
        run=str(run),
        data=dict(found.climb.digests).get("data"),
        config=config,
        metric=score.metric,
        split=score.split,
        score=score.score,
        interval=score.interval,
        n=score.n,
        verdict=found.climb.decision.kind,
        chosen=found.climb.decision.chosen == found.result.rung,
    )
