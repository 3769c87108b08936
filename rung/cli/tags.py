"""The commands `tag` and `tags`: point a tag at a System, and see where tags point and pointed."""

import json as json_format
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rung.cli.switch import Switch

if TYPE_CHECKING:
    from rich.table import Table

    from rung.registry import Origin, Pointed


def tag(system: str, name: str, /, *, keep_latest: Switch = False) -> None:
    """Give a System a name and a version, under which `rung ask`, `rung serve` and `rung.load` find it.

    Example: rung tag runs/demo/winner helpdesk:1.2

    A tag that is there already is moved; `rung tags NAME` shows where it pointed. To roll back, point it at
    another tag: rung tag helpdesk:1.1 helpdesk:latest

    Parameters
    ----------
    system
        A System's folder, such as the `winner` of a run, a tag, or NAME@DIGEST from a name's history.
    name
        NAME:VERSION; NAME alone is NAME:latest.
    keep_latest
        Leave NAME:latest where it points; without this it points at the System too.
    """
    from rung.registry import history, system_folder
    from rung.report.notation import count_text, metric_text
    from rung.ship.tagging import tag_system

    made = tag_system(system, name, keep_latest=keep_latest)
    past = history(made[0].name)
    named = _named(past)
    for pointed in made:
        before = [p for p in past if p.version == pointed.version][-2:-1]
        moved = f", and no longer at {named(before[0])}" if _left(before, pointed) else ""
        print(f"{pointed.tag} points at {named(pointed)}{moved}")
    first = made[0]
    if isinstance(first.origin, str):
        print(f"no score is tied to it: {first.origin}")
    else:
        rows = count_text(first.origin.n, f"{first.origin.split} row")
        metric = metric_text(first.origin.metric)
        print(f"{metric} {_score(first.origin)} on {rows}; the verdict: {_verdict(first.origin)}")
    print(f"{size_text(first.size)} in {system_folder(first.system)}")


def tags(
    name: str | None = None, /, *, remove: str | None = None, prune: Switch = False, json: Switch = False
) -> None:
    """Show where the tags point, with the scores that the Systems had.

    Example: rung tags helpdesk

    Parameters
    ----------
    name
        Only this name's tags, and below them all that happened to them.
    remove
        Remove this tag, NAME:VERSION. Its System and its history stay.
    prune
        Remove the stored Systems, of all names, at which no tag points any more, to free their space: nothing
        can be rolled back to them then.
    json
        Print the tags, and a name's history, as JSON.
    """
    from rung.registry import history, read_tag, tags
    from rung.registry import prune as prune_systems
    from rung.registry import remove as remove_tag

    if remove is not None or prune:
        _alone(name, json=json, prune=prune)
    if remove is not None:
        gone = remove_tag(read_tag(remove))
        print(f"{gone.tag} is removed; it pointed at {gone.system}")
    if prune:
        digests, size = prune_systems()
        print(f"removed {', '.join(digests) or 'no System'}: {size_text(size)}")
    if remove is not None or prune:
        return
    only = None if name is None else read_tag(name).name
    found, past = tags(only), [] if only is None else history(only)
    if json:
        print(json_format.dumps(_whole(found, past, only), ensure_ascii=False, indent=2))
    else:
        _show(found, past)


def _alone(name: str | None, *, json: bool, prune: bool) -> None:
    """Raises TaskError for a choice that does nothing beside --prune or --remove, which list no tags."""
    from rung.errors import TaskError

    others = [*([repr(name)] if name is not None else []), *(["--json"] if json else [])]
    if others:
        what = "--prune removes Systems of all names" if prune else "--remove names its tag itself"
        raise TaskError(f"{what} and lists nothing: give {', '.join(others)} to a command of its own")


def size_text(size: int) -> str:
    """Bytes as people say them: `5.1 kB`, `29.3 MB`."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _show(found: Sequence["Pointed"], past: Sequence["Pointed"]) -> None:
    from rich.console import Console

    console = Console()
    if found:
        console.print(_table(found))
    else:
        print("no tags" if past else "no tags; `rung tag SYSTEM NAME:VERSION` makes one")
    if past:
        print("\nwhat happened, the newest first")
        console.print(_events(past))


def _table(found: Sequence["Pointed"]) -> "Table":
    table = _columns("tag", "system", "rung", "score", "verdict", "licence", "size")
    for p in found:
        origin = None if isinstance(p.origin, str) else p.origin
        _add(
            table,
            str(p.tag),
            p.system,
            p.rung,
            "–" if origin is None else _score(origin),
            "–" if origin is None else _verdict(origin),
            _licence(p),
            size_text(p.size),
        )
    return table


def _events(past: Sequence["Pointed"]) -> "Table":
    from rung.registry import system_folder

    table = _columns("when", "tag", "", "system", "from")
    named = _named(past)
    for p in reversed(past):
        gone = "" if system_folder(p.system).is_dir() else " (pruned)"
        what = "pointed at" if p.action == "tag" else "removed from"
        source = p.source if p.action == "tag" else ""
        _add(table, f"{p.at.astimezone():%Y-%m-%d %H:%M}", str(p.tag), what, f"{named(p)}{gone}", source)
    return table


def _add(table: "Table", *cells: str) -> None:
    """A line, whose words are a stranger's in part: shown as they are, and never read as markup."""
    from rich.text import Text

    from rung.report.notation import clean

    table.add_row(*(Text(clean(cell)) for cell in cells))


def _columns(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        # What may be typed again isn't broken over lines.
        whole = heading in ("tag", "system", "when", "size")
        table.add_column(heading, header_style="dim", overflow="fold", no_wrap=whole)
    return table


def _score(origin: "Origin") -> str:
    from rung.scoring.notation import interval_text, score_text

    return f"{score_text(origin.score, origin.metric)} ({interval_text(origin.interval, origin.metric)})"


def _verdict(origin: "Origin") -> str:
    if not origin.chosen:
        return "not chosen"
    return "ship" if origin.verdict in ("clear_winner", "tie") else "ship for now"


def _licence(pointed: "Pointed") -> str:
    return ", ".join(dict.fromkeys(model.licence for model in pointed.models)) or "–"


def _left(before: Sequence["Pointed"], now: "Pointed") -> bool:
    return any(p.action == "tag" and p.which != now.which for p in before)


def _named(past: Sequence["Pointed"]) -> Callable[["Pointed"], str]:
    """How an event's System is named: with its calibration where it had several."""
    seen = Counter(system for system, _ in {(p.system, p.which) for p in past})
    return lambda p: p.which if seen[p.system] > 1 else p.system


def _whole(found: Sequence["Pointed"], past: Sequence["Pointed"], name: str | None) -> dict[str, Any]:
    """The tags, each with the folder of its System, and a name's history."""
    from pydantic import TypeAdapter

    from rung.registry import Pointed, system_folder

    plain = TypeAdapter(list[Pointed])
    listed = plain.dump_python(list(found), mode="json")
    whole = {
        "tags": [
            {**each, "folder": str(system_folder(p.system))} for each, p in zip(listed, found, strict=True)
        ]
    }
    return whole if name is None else {**whole, "history": plain.dump_python(list(past), mode="json")}
