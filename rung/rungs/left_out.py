"""A prompt that shows each question its nearest training rows, asked some of these: it looks at others."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.few_shot import written_shots
from rung.runs import Shared
from rung.system import SHOTS_FILE, VECTORS_FILE, System, read_index, save
from rung.task.draws import named_draws
from rung.wording import Shot, question


def half_at_most(context: Context, rows: Sequence[Example], dice: random.Random) -> list[Example]:
    """Training rows at random, in whole draws: the others, half of all or more, are drawn with none of them.

    The rows of a draw stand together, in the order of `rows`.
    """
    drawn, by_draw = named_draws(context.train), defaultdict[str, list[Example]](list)
    for row in rows:
        by_draw[drawn[row.id]].append(row)
    sizes = Counter(drawn.values())
    found, left = list[Example](), len(context.train) // 2
    for draw in dice.sample(list(by_draw), len(by_draw)):
        if sizes[draw] <= left:
            left -= sizes[draw]
            found += by_draw[draw]
    return found


def enough_left(context: Context, system: System, rows: Sequence[Example]) -> bool:
    """Whether as many worked examples as stand in a prompt are left without these training rows."""
    return len(_places_left(context, read_index(system.folder)[0], rows)) >= system.spec.shots.k


def leaving_out(context: Context, system: System, rows: Sequence[Example]) -> System:
    """The System without these training rows, and all that are drawn with them, among its worked examples.

    Asked a row that it stores, it would be shown the answer. One that looks none up is given back as it is.
    """
    from safetensors.numpy import save as as_bytes

    if system.spec.shots.choice != "nearest":
        return system
    stored, vectors = read_index(system.folder)
    assert vectors is not None, "the nearest are found by them"
    left = _places_left(context, stored, rows)
    files = {
        **{name: Shared(system.folder / name) for name in system.spec.files},
        SHOTS_FILE: written_shots(stored[place] for place in left),
        VECTORS_FILE: as_bytes({"vectors": vectors[left]}),
    }
    return save(context.work / "left-out", system.spec, files)


def _places_left(context: Context, stored: Sequence[Shot], rows: Sequence[Example]) -> list[int]:
    drawn = named_draws(context.train)
    asked = {drawn[row.id] for row in rows}
    out = {question(row) for row in context.train if drawn[row.id] in asked}
    return [place for place, shot in enumerate(stored) if shot.input not in out]
