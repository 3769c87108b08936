"""Calibration in a climb: a map for every measured System from its dev answers, and its scores on test.

It costs no answer: dev and test answers are on disk, with every label's probability where that came along.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rung.evaluate import Store
from rung.records import Calibration, Example, Measurement, RungResult
from rung.runs import digest_of
from rung.scoring import stats
from rung.scoring.calibration import before_and_after, fitted
from rung.scoring.fields import spaced
from rung.scoring.reliability import Judged
from rung.system import System, keep_calibration
from rung.task.draws import drawn_with


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The rows of both splits and the answers to them."""

    dev: Sequence[Example]
    test: Sequence[Example]
    store: Store


def calibrate(
    results: Sequence[RungResult], systems: Mapping[str, System], answered: Answered
) -> list[RungResult]:
    """The results with the calibration of each measured System that gives probabilities, kept in its folder.

    Nothing is fitted on test rows. Raises RunError where it can't be written.
    """
    done = []
    for result in results:
        system = systems.get(result.rung)
        if result.dev is None or system is None or not system.has_probabilities:
            done.append(result)
            continue
        found = calibration_of(system, result, answered)
        keep_calibration(system, found)
        done.append(replace(result, calibration=found))
    return done


def calibration_of(system: System, result: RungResult, answered: Answered) -> Calibration:
    """What a System's dev answers tell of its probabilities, and its test answers if there are any."""
    assert result.dev is not None, "only measured Systems are calibrated"
    tables = answered.store.distributions(system.digest)
    labels = system.spec.labels
    dev = judged(labels, answered.dev, result.dev, tables)
    test = judged(labels, answered.test, result.test, tables) if result.test is not None else None
    if dev.table is None or (test is not None and test.table is None):
        dev, test = alone(dev), test and alone(test)
    by, note = fitted(dev)
    asked = {p.example_id for p in result.dev.predictions}
    return Calibration(
        map=by,
        rows=dev.rows,
        rows_digest=digest_of([[e.id, e.output] for e in answered.dev if e.id in asked]),
        every_label=dev.table is not None,
        note=note,
        dev=before_and_after(dev, None),
        test=None if test is None else before_and_after(test, by),
    )


def judged(
    labels: Sequence[str], rows: Sequence[Example], found: Measurement, tables: Mapping[str, np.ndarray]
) -> Judged:
    """A System's answers beside the rows' labels; a call that broke is left out.

    `tables` has probabilities [labels] by row id; all of them count only where no row lacks its own.
    """
    place = {spaced(label): number for number, label in enumerate(labels)}
    by_id = {e.id: e for e in rows}
    held = [(by_id[p.example_id], p.answer) for p in found.predictions if p.answer.probability is not None]
    gold = np.array([place.get(spaced(str(row.output)), -1) for row, _ in held], dtype=int)
    said = np.array([place[spaced(answer.text)] for _, answer in held], dtype=int)
    whole = [tables[row.id] for row, _ in held if row.id in tables]
    return Judged(
        labels=len(labels),
        confidence=np.array([answer.probability for _, answer in held], dtype=float),
        right=said == gold,
        table=np.array(whole) if len(whole) == len(held) else None,
        gold=gold if len(whole) == len(held) else None,
        groups=stats.cluster_codes([row.id for row, _ in held], drawn_with(rows)),
    )


def alone(one: Judged) -> Judged:
    """The answers with their own probabilities only."""
    return replace(one, table=None, gold=None)
