"""A prompt that shows each question its nearest training rows, asked some of these: it looks at others."""

from collections.abc import Sequence

from rung.records import Example
from rung.rungs.base import Context
from rung.rungs.few_shot import written_shots
from rung.runs import Shared
from rung.system import SHOTS_FILE, VECTORS_FILE, System, read_index, save
from rung.wording import question


def leaving_out(context: Context, system: System, rows: Sequence[Example]) -> System | None:
    """The System without these training rows, and others of their groups, among its worked examples.

    Asked a row that it stores it would be shown the answer. One that looks none up is given back as it is;
    None where fewer are left than stand in a prompt.
    """
    from safetensors.numpy import save as as_bytes

    if system.spec.shots.choice != "nearest":
        return system
    groups = {row.group for row in rows if row.group is not None}
    out = {question(row) for row in rows} | {question(row) for row in context.train if row.group in groups}
    stored, vectors = read_index(system.folder)
    assert vectors is not None, "the nearest are found by them"
    left = [place for place, shot in enumerate(stored) if shot.input not in out]
    if len(left) < system.spec.shots.k:
        return None
    files = {
        **{name: Shared(system.folder / name) for name in system.spec.files},
        SHOTS_FILE: written_shots(stored[place] for place in left),
        VECTORS_FILE: as_bytes({"vectors": vectors[left]}),
    }
    return save(context.work / "left-out", system.spec, files)
