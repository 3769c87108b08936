"""The end of a climb: whether it is reached, and the test's decision where it stands on dev's."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from rung.climb.curve import drawn_all
from rung.climb.decide import MIN_ROWS
from rung.climb.hosted import CAP_OPTION, cap_usd, capped
from rung.climb.options import Options
from rung.climb.rivals import hosted_models
from rung.climb.stored import CLIMB_FILE, RUNGS_FOLDER, WINNER_FOLDER, load_climb, system_of
from rung.data.checked import checked_digest
from rung.engines.key_hosts import HOST_VARIABLE, UNNAMED
from rung.errors import RunError, SystemFolderError
from rung.hosted import ANOTHER
from rung.records import Climb, Decision, RungResult
from rung.rungs.base import Reporter
from rung.rungs.sft import FOUR_BIT_PACKAGE
from rung.rungs.teacher import is_system
from rung.runs import RUN_FILE, digest_of, read_json
from rung.scoring.notation import score_text
from rung.system import copy
from rung.task import Task

UNTESTED = "no test score: "
"""What a rung's note begins with where the test was opened for it and its calls broke there."""


def is_complete(run: Path, options: Options, task: Task) -> bool:
    """Whether the climb is finished, and holds the test scores and the curves that are asked for.

    One in which a rung ended at the cap of what may be paid isn't where more may be paid now, nor one whose
    judge people have said something new of, nor one of which a rung is to be tried again, or that was climbed
    beside other hosted models, or begun to be.
    """
    if not (run / CLIMB_FILE).exists():
        return False
    found = load_climb(run)
    tested = not options.test_all or all(r.dev is None or r.test is not None for r in found.results)
    short = capped(found) and cap_usd(task, options) > found.paid_cap_usd
    known = "" if found.judged is None else found.judged.checked
    same = task.judge is None or checked_digest(task.judge.checked) == known
    done = tested and not short and same and not _to_try(found, task)
    settled = _of_these_settings(run, found) and not _lacks_hosted(run, found)
    return done and settled and (not options.curve or drawn_all(found))


def _of_these_settings(run: Path, found: Climb) -> bool:
    """Whether a finished climb is of the settings that its run has now: others may be beside its rivals."""
    file, of = run / RUN_FILE, dict(found.digests).get("run")
    return of is None or not file.is_file() or digest_of(read_json(file)) == of


def _lacks_hosted(run: Path, found: Climb) -> bool:
    """Whether a hosted model's System is gone, as where a start at another price of it came to no end.

    It is made again of the answers that were paid for. Where nothing is left of any rung it stays so.
    """
    return (run / RUNGS_FOLDER).is_dir() and any(
        r.price is not None and not (run / str(r.folder)).is_dir() for r in found.results
    )


def winner_again(run: Path, found: Climb, reporter: Reporter) -> None:
    """Put the winner of a finished climb in its place again, where it was moved away or removed."""
    place = run / WINNER_FOLDER
    chosen = next((r for r in found.results if r.rung == found.decision.chosen), None)
    if found.winner is None or place.exists() or chosen is None or chosen.folder is None:
        return
    try:
        copy(system_of(run, chosen), place)
    except (RunError, SystemFolderError) as error:
        reporter.say(f"{place} is gone and can't be had again: {error}")
    else:
        reporter.say(f"{place} was gone: it is {chosen.rung} again, from {run / chosen.folder}")


def tried_again(run: Path, task: Task) -> str:
    """What a finished climb is gone on with for: the rungs that what isn't theirs kept from being scored."""
    names = _to_try(load_climb(run), task) if (run / CLIMB_FILE).exists() else []
    return f": {', '.join(names)} {'is' if len(names) == 1 else 'are'} tried again" if names else ""


def _to_try(found: Climb, task: Task) -> list[str]:
    """The rungs that a server failed, that lacked a key, a package or weights, or that have no test score.

    A key, the host that it is for, or a package has to be there now. Other failures would be the same again;
    for one at the cap, and for one without time, the options say how to go on.
    """
    models = hosted_models(task)
    hosts = [urlsplit(model.url).hostname or model.url for model in models]
    there = [f"{model.key_variable} isn't set" for model in models if not model.key_missing]
    if os.environ.get(HOST_VARIABLE, "").strip():
        there.append(UNNAMED)
    if find_spec(FOUR_BIT_PACKAGE) is not None:
        there.append(f"needs {FOUR_BIT_PACKAGE}")
    return [
        r.rung
        for r in found.results
        if any(text in (r.skipped or "") for text in there)
        or (_served_badly(r.failed or "", hosts) and not _taught_by_gone(r, task))
        or r.weights_missing
        or ((why := _untested(r)) is not None and CAP_OPTION not in why)
    ]


def _served_badly(failed: str, hosts: Sequence[str]) -> bool:
    return CAP_OPTION not in failed and any(host in failed for host in hosts)


def _taught_by_gone(result: RungResult, task: Task) -> bool:
    """Whether a rung failed as its teacher is a System whose model is another by now: so it stays one."""
    taught = result.rung in ("distill_head", "distill") and task.teacher is not None
    return taught and is_system(str(task.teacher)) and ANOTHER in (result.failed or "")


def is_untested(result: RungResult) -> bool:
    """Whether the test was opened for a rung, and its calls broke there."""
    return _untested(result) is not None


def _untested(result: RungResult) -> str | None:
    """Why a rung that the test was opened for has no score there; None for all others."""
    return next((n.removeprefix(UNTESTED) for n in result.notes if n.startswith(UNTESTED)), None)


def with_dev(on_test: Decision, on_dev: Decision, results: Sequence[RungResult]) -> Decision:
    """The test's decision; where one System inside the limits was scored there, it stands on dev's.

    Where the rung that dev chose has no test score there is no verdict; where the best on dev has none, or
    any that may win and dev gives no verdict, it stays undecided: the rest isn't all there was to decide on.
    A rung that dev ruled out, as too many of its calls break, doesn't ship by being the only one tested.
    """
    if (out := _ruled_out(on_test, on_dev, results)) is not None:
        return out
    missing = {r.rung: why for r in results if (why := _untested(r)) is not None}
    told = _alone(on_test, on_dev, results)
    if on_dev.chosen in missing:
        tested = [(r.rung, r.test) for r in results if r.test is not None]
        scores = ", ".join(f"{name} {score_text(found.score, found.metric)}" for name, found in tested)
        sentence = (
            f"No verdict: {on_dev.chosen}, chosen on dev, has no test score ({missing[on_dev.chosen]}); "
            f"scores on the test: {scores}."
        )
        return replace(
            on_test,
            kind="no_verdict",
            chosen=None,
            best=None,
            comparisons=(),
            sentence=sentence,
            rows_needed=None,
            between=False,
        )
    may_win = [r.rung for r in results if r.rung in missing and not r.over_limits and not r.stopped]
    needed = [name for name in may_win if on_dev.chosen is None or name == on_dev.best]
    if needed and told.kind != "no_verdict":
        who = f"{needed[0]}{', the best on dev,' if needed[0] == on_dev.best else ''}"
        sentence = (
            f"Undecided: {who} has no test score ({missing.pop(needed[0])}). Without it: "
            f"{told.sentence[0].lower()}{told.sentence[1:]}"
        )
        best = on_dev.best or told.best
        told = replace(told, kind="undecided", best=best, sentence=sentence, rows_needed=None, between=False)
    more = "".join(f" {name} has no test score ({why})." for name, why in missing.items())
    return replace(told, sentence=f"{told.sentence}{more}")


def _ruled_out(on_test: Decision, on_dev: Decision, results: Sequence[RungResult]) -> Decision | None:
    """No verdict, where dev gives none though enough was answered, and the test was opened for one rung."""
    opened = [r for r in results if r.test is not None or is_untested(r)]
    answered = any(
        r.dev is not None and r.dev.n >= MIN_ROWS and not r.over_limits and not r.stopped for r in results
    )
    if on_dev.kind != "no_verdict" or not answered or len(opened) != 1 or on_test.chosen is None:
        return None
    alone = opened[0].test
    assert alone is not None, "chosen for that"
    told = f"On the test {opened[0].rung} has {score_text(alone.score, alone.metric)}."
    sentence = f"{on_dev.sentence} {told}"
    return replace(on_test, kind="no_verdict", chosen=None, best=None, comparisons=(), sentence=sentence)


def _alone(on_test: Decision, on_dev: Decision, results: Sequence[RungResult]) -> Decision:
    """The decision of the rungs that have a test score: dev's, where one of them inside the limits has."""
    opened = [r for r in results if r.test is not None or _untested(r) is not None]
    alone = [r for r in opened if r.test is not None and not r.over_limits]
    if len(alone) != 1 or alone[0].test is None or on_test.chosen is None or on_dev.chosen != on_test.chosen:
        return on_test
    found = alone[0].test
    only = ", which were opened for it alone" if len(opened) == 1 else ""
    sentence = (
        f"Ship {on_test.chosen}: {score_text(found.score, found.metric)} on {found.n:,} test rows{only}. "
        f"On dev: {on_dev.sentence[0].lower()}{on_dev.sentence[1:]}"
    )
    return replace(
        on_test,
        kind=on_dev.kind,
        sentence=sentence,
        comparisons=on_dev.comparisons,
        rows_needed=on_dev.rows_needed,
    )
