"""Digests of hub files, kept from the first fetch on: what comes later by that name has to be the same.

Trust on first use: whoever could change the first fetch unseen could change it all, but nobody can later.
"""

import json
import os
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rung.errors import DigestError, ModelError, WeightsError
from rung.models._cache import cache_dir
from rung.runs import locked

TRUST_FILE: Final = "hub_digests.json"


def trusted(source: str) -> tuple[str, str] | None:
    """(digest, day of the first fetch) of a hub file or repository; None where it was never fetched.

    Raises ModelError where the record is damaged.
    """
    kept = _read().get(source)
    return None if kept is None else (str(kept["sha256"]), str(kept["first"]))


def trust(source: str, digest: str) -> None:
    """Keep the digest of a first fetch, or compare a later one with it.

    Raises DigestError where it is another one now, WeightsError where the record can't be written, ModelError
    where it can't be read.
    """
    path = cache_dir() / TRUST_FILE
    try:
        with locked(path.with_name(f".{path.name}.lock"), nullcontext):
            kept = _read()
            if source not in kept:
                kept[source] = {"sha256": digest, "first": f"{datetime.now(UTC):%Y-%m-%d}"}
                _write(path, kept)
                return
    except OSError as error:
        raise WeightsError(
            f"can't write {str(path)!r}: {error.strerror or error}; free some space or set RUNG_CACHE to "
            "another folder"
        ) from error
    known = kept[source]
    if known["sha256"] != digest:
        raise DigestError(
            f"{source!r} has sha256 {digest!r}; on {known['first']}, when it was first fetched, it had "
            f"{known['sha256']!r}. The hub's file was changed, or the copy here is damaged. To use the new "
            f"one all the same, take its entry out of {str(path)!r}"
        )


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
