"""What a rung that goes on from another one makes of it, and the start: which of them is better on dev."""

from dataclasses import replace

import pytest

from rung.records import Answer, Example
from rung.rungs.following import _better
from rung.rungs.instructions import answer_spec, spec_for
from rung.rungs.rival import rival
from rung.scoring.measure import measurement
from rung.system import save
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows

ROWS = tuple(Example(id=f"d{at:03}", input=f"row {at}", output="billing") for at in range(400))


@pytest.fixture
def context(tmp_path):
    tiny = make_tiny_gguf(tmp_path / "tiny.gguf")
    with opened(tiny, write_rows(tmp_path / "rows.jsonl", label_rows(120)), tmp_path) as found:
        yield replace(found, dev=ROWS)


def known(context, name: str, right: set[int]):
    """A System whose answers to all dev rows are on disk."""
    spec = spec_for(context, name, instruction=name, answer=answer_spec(context, constrained=True))
    system = save(context.work / name, spec, {})
    said = [Answer(text="", value="billing" if at in right else "login") for at in range(len(ROWS))]
    context.bench.store.append(system.digest, list(zip(ROWS, said, strict=True)), 1.0)
    return system, said


@pytest.mark.parametrize(("last", "better"), [(80, True), (0, False)])
def test_all_dev_rows_count_though_the_start_as_its_own_rival_is_stopped_before(context, last, better):
    half = set(range(0, 400, 2))
    start, said = known(context, "sft", half)
    new, _ = known(context, "preference", {at for at in half if at < 320} | set(range(400 - last, 400)))
    found = measurement(system="sft", split="dev", metric="accuracy", examples=ROWS, answers=said)
    beside = replace(context, rival=rival("sft", found, ROWS, needed=0.02, level=0.05 / 3))
    assert len(beside.measure(start, ROWS, "start").predictions) <= 320
    assert _better(beside, new, start) == better
    assert not _better(beside, start, start)
