"""API keys: who may ask a server. Only their digests are stored.

A key is 256 random bits, so a fast hash keeps it: there is no dictionary to try, and 2^256 guesses are out of
reach at any speed. Slow, salted hashes are for passwords that people think up; here they would only make
every request dear.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from rung.errors import RunError, TaskError
from rung.home import home_dir
from rung.runs import locked, write_text
from rung.task.outputs import shown

KEYS_FILE = "keys.json"
PREFIX = "rung-"
SECRET_BYTES = 32
LONGEST_S = 100 * 365 * 86400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}", re.ASCII)
_OWNER_ONLY = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A stored key: whose it is and what it allows. `digest` is the SHA-256 of the key, in hex."""

    name: str
    role: Literal["user", "admin"]
    created: AwareDatetime
    expires: AwareDatetime | None
    digest: str = field(repr=False)

    def expired(self, now: datetime) -> bool:
        """Whether the key is no good any more."""
        return self.expires is not None and self.expires <= now


_KEYS = TypeAdapter(tuple[Key, ...])


class Keys:
    """The keys of a file, read again when the file changes. Several threads may check at once."""

    def __init__(self, path: Path, stamp: tuple[int, ...], known: Mapping[str, Key]) -> None:
        self.path = path
        # One attribute, set at once: no thread sees new keys under an old stamp.
        self._read = (stamp, known)

    @classmethod
    def load(cls, path: Path) -> "Keys":
        """Read a file of keys; where there is none there are no keys. Raises RunError where it is damaged."""
        return cls(path, *_read(path))

    def check(self, key: str) -> Key | None:
        """The stored key that this one is; None where it isn't known, was removed or has expired.

        Raises RunError where the file was damaged meanwhile: what can't be read lets nobody in.
        """
        stamp, known = self._read
        if _stamp(self.path) != stamp:
            self._read = _read(self.path)
            known = self._read[1]
        # The look-up compares digests, never keys: the most that its time could tell is a stored digest, and
        # from that nobody finds the key.
        found = known.get(_digest(key))
        return None if found is None or found.expired(datetime.now(UTC)) else found

    def all(self) -> list[Key]:
        """Every key, expired ones too, by name."""
        return sorted(self._read[1].values(), key=lambda key: key.name)


def keys_file() -> Path:
    """Where this user's keys are stored."""
    return home_dir() / KEYS_FILE


def add_key(path: Path, name: str, *, admin: bool = False, expires_s: float | None = None) -> str:
    """Make a key and store its digest; returns the key, which can't be shown again.

    `expires_s` are the seconds until it is no good any more. Raises TaskError for a name that is taken or
    isn't well formed, RunError where the file can't be written or read.
    """
    _refuse_secret(name)
    if not _NAME.fullmatch(name):
        raise TaskError(
            f"{shown(name, 50)} can't be the name of a key: up to 40 letters, digits and . _ @ -, such as ci"
        )
    if expires_s is not None and not 0 < expires_s <= LONGEST_S:
        raise TaskError(f"a key can't expire after {expires_s:g} s: choose up to 100 years, or leave it out")
    key, now = PREFIX + secrets.token_urlsafe(SECRET_BYTES), datetime.now(UTC)
    with _changing(path) as known:
        if name in known:
            raise TaskError(f"there is a key named {name!r}; choose another name, or remove that one first")
        known[name] = Key(
            name=name,
            role="admin" if admin else "user",
            created=now,
            expires=None if expires_s is None else now + timedelta(seconds=expires_s),
            digest=_digest(key),
        )
    return key


def remove_key(path: Path, name: str) -> Key:
    """Take a key back. Raises TaskError where no key has the name."""
    _refuse_secret(name)
    with _changing(path) as known:
        if name not in known:
            names = ", ".join(sorted(known)) or "none yet"
            raise TaskError(f"no key is named {shown(name, 50)}; there are: {names}")
        return known.pop(name)


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Key]]:
    """The keys by name, which are written when the block ends without an error."""
    with locked(path.with_name(f".{path.name}.lock")):
        known = {key.name: key for key in Keys.load(path).all()}
        yield known
        ordered = tuple(known[name] for name in sorted(known))
        write_text(path, _KEYS.dump_json(ordered, indent=2).decode() + "\n", _OWNER_ONLY)


def _read(path: Path) -> tuple[tuple[int, ...], dict[str, Key]]:
    # Before the file is read: what is written after that gives another stamp, and is read the next time.
    stamp = _stamp(path)
    try:
        keys = _KEYS.validate_json(path.read_bytes()) if stamp else ()
    except FileNotFoundError:
        return (), {}
    except OSError as error:
        raise RunError(f"can't read {str(path)!r}: {error.strerror}; mend the permissions") from None
    except ValidationError as error:
        raise RunError(
            f"{str(path)!r} is damaged ({error.errors()[0]['msg']}): mend it, or remove it and make new keys"
        ) from None
    return stamp, {key.digest: key for key in keys}


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with the file, which is always replaced as a whole; empty where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"can't read {str(path)!r}: {error.strerror}; mend the permissions") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _digest(key: str) -> str:
    # Half a surrogate pair, which a broken header may hold, is no key either and no reason to stop.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse_secret(name: str) -> None:
    """TaskError for a key in the place of its name; the message doesn't repeat it."""
    if name.startswith(PREFIX) and len(name) > len(PREFIX) + SECRET_BYTES // 2:
        raise TaskError("what was given is a key itself: give the name that `rung keys` shows for it")
