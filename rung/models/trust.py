"""Digests of models of the hub, kept from the first fetch on: what each name stands for on this machine.

Of models that are offered by name, what is fetched later has to be the same. Trust on first use: whoever
could change the first fetch unseen could change it all, but nobody can later.
"""

import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rung.errors import DigestError, ModelError, WeightsError
from rung.models._cache import cache_dir
from rung.runs import locked

TRUST_FILE: Final = "hub_digests.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trusted:
    """What a hub file or repository was when it was fetched, on the day `first`; `licence`, by its page."""

    digest: str
    first: str
    licence: str | None


def trusted(source: str) -> Trusted | None:
    """What is kept of a hub file or repository; None where it was never fetched.

    Raises ModelError where the record is damaged.
    """
    kept = _read().get(source)
    if kept is None:
        return None
    return Trusted(digest=str(kept["sha256"]), first=str(kept["first"]), licence=kept.get("licence"))


def trust(source: str, digest: str) -> None:
    """Keep the digest of a first fetch, or compare a later one with it.

    Raises DigestError where it is another one now, WeightsError where the record can't be written, ModelError
    where it can't be read.
    """
    known = _record(source, {"sha256": digest}, anew=False)
    if known["sha256"] != digest:
        raise DigestError(
            f"{source!r} has sha256 {digest!r}; on {known['first']}, when it was first fetched, it had "
            f"{known['sha256']!r}. The hub's file was changed, or the copy here is damaged. To use the new "
            f"one all the same, take its entry out of {str(cache_dir() / TRUST_FILE)!r}"
        )


def stand_for(source: str, digest: str, licence: str) -> None:
    """Have a hub id stand for the model with that digest from now on, whatever it stood for before.

    Raises as `trust` does, but for DigestError.
    """
    _record(source, {"sha256": digest, "licence": licence}, anew=True)


def _record(source: str, told: dict[str, str], *, anew: bool) -> dict[str, str]:
    """What is kept of a source: what is `told` of it now, where nothing was or it's to be kept `anew`."""
    path = cache_dir() / TRUST_FILE
    try:
        with locked(path.with_name(f".{path.name}.lock"), nullcontext):
            kept = _read()
            if anew or source not in kept:
                kept[source] = {**told, "first": f"{datetime.now(UTC):%Y-%m-%d}"}
                _write(path, kept)
            return kept[source]
    except OSError as error:
        raise WeightsError(
            f"can't write {str(path)!r}: {error.strerror or error}; free some space or set RUNG_CACHE to "
            "another folder"
        ) from error


def _read() -> dict[str, dict[str, str]]:
    path = cache_dir() / TRUST_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(
            f"can't read {str(path)!r}: {error}; remove it to trust what is fetched next"
        ) from None
    sound = isinstance(found, dict) and all(
        isinstance(kept, dict) and {"sha256", "first"} <= kept.keys() for kept in found.values()
    )
    if not sound:
        raise ModelError(f"{str(path)!r} is damaged; remove it to trust what is fetched next")
    return found


def _write(path: Path, kept: dict[str, dict[str, str]]) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
