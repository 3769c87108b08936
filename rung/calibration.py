"""A System's calibration as the file beside its Spec, bound to the System by digest.

It isn't one of the System's files: what a System answers, and so its digest, doesn't hang on it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from rung.errors import SystemFolderError
from rung.records import Answer, Calibration, CalibrationMap
from rung.runs import digest_of, write_json
from rung.scoring.calibration import calibrated, calibrated_confidence

CALIBRATION_FILE = "calibration.json"


class _Stored(BaseModel):
    """The file. `digest` is that of the two fields above it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    system: str
    calibration: Calibration
    digest: str


def calibration_digest(system: str, calibration: Calibration) -> str:
    """What names a calibration of the System with this digest, and shows that it wasn't changed."""
    return digest_of({"system": system, "calibration": asdict(calibration)})


def write_calibration(folder: Path, system: str, calibration: Calibration) -> None:
    """Put a calibration into the folder of the System with this digest. RunError where it can't be."""
    fields = {"format": 1, "system": system, "calibration": asdict(calibration)}
    write_json(folder / CALIBRATION_FILE, {**fields, "digest": calibration_digest(system, calibration)})


def read_calibration(folder: Path, system: str) -> Calibration | None:
    """The calibration of the System with this digest, None where it has none.

    Raises SystemFolderError for a file that is damaged, changed, or another System's.
    """
    path = folder / CALIBRATION_FILE
    try:
        found = _Stored.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "its start"
        raise _refused(path, f"isn't a calibration: {fault['msg']} at {place}") from None
    except OSError as error:
        raise _refused(path, f"can't be read: {error.strerror}") from None
    if found.system != system:
        raise _refused(path, f"belongs to the System {found.system[:16]!r}, and this one is {system!r}")
    if found.digest != calibration_digest(system, found.calibration):
        raise _refused(path, "was changed since it was written")
    if not _usable(found.calibration.map):
        raise _refused(path, f"holds a map that can't be used: {found.calibration.map!r}")
    return found.calibration


def calibrated_answers(answers: Sequence[Answer], by: CalibrationMap, labels: Sequence[str]) -> list[Answer]:
    """The answers with calibrated probabilities; those without any, such as failures, as they are.

    Where an answer's `distribution` isn't known its own probability is calibrated, and `options` names no
    other label: theirs would need it.
    """
    if by.method == "none":
        return list(answers)
    given = [a for a in answers if a.distribution]
    tables = iter(calibrated(by, np.array([a.distribution for a in given])) if given else ())
    found = []
    for answer in answers:
        if answer.distribution:
            found.append(_with_all(answer, next(tables), labels))
        elif answer.probability is not None:
            (chance,) = calibrated_confidence(by, np.array([answer.probability]), len(labels)).tolist()
            found.append(_with_one(answer, chance))
        else:
            found.append(answer)
    return found


def _with_all(answer: Answer, row: np.ndarray, labels: Sequence[str]) -> Answer:
    shares = dict(zip(labels, row.tolist(), strict=True))
    return replace(
        answer,
        probability=shares[answer.text],
        raw_probability=answer.probability,
        options=tuple((name, shares[name]) for name, _ in answer.options),
        distribution=tuple(shares.values()),
    )


def _with_one(answer: Answer, chance: float) -> Answer:
    return replace(
        answer,
        probability=chance,
        raw_probability=answer.probability,
        options=((answer.text, chance),),
    )


def _usable(by: CalibrationMap) -> bool:
    """Whether the numbers of a map mean something: a digest only says that they are as written."""
    confidences, shares = [a for a, _ in by.knots], [b for _, b in by.knots]
    numbers = (by.temperature, by.slope, by.intercept, *confidences, *shares)
    rising = confidences == sorted(confidences) and shares == sorted(shares)
    inside = all(0.0 <= number <= 1.0 for number in (*confidences, *shares))
    enough = bool(by.knots) or by.method != "isotonic"
    return (
        all(map(math.isfinite, numbers))
        and by.temperature > 0
        and by.slope >= 0
        and rising
        and inside
        and enough
    )


def _refused(path: Path, why: str) -> SystemFolderError:
    return SystemFolderError(
        f"{str(path)!r} {why}; remove it, and the System answers with probabilities as they come, or climb "
        "again"
    )
