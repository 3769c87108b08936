"""The command `keys`: make, list and take back the keys of a server."""

import json as json_format
import sys
from datetime import UTC, datetime

from cyclopts import App

from rung.cli.durations import seconds
from rung.cli.switch import Switch

keys = App(name="keys")


@keys.default
def list_keys(*, json: Switch = False) -> None:
    """Make, list and take back the keys with which programs may ask a server.

    Example: rung keys add ci --expires 30d

    Without a command, the keys are listed: names and dates, for the keys themselves aren't stored.

    Parameters
    ----------
    json
        Print them as JSON.
    """
    from rich.console import Console
    from rich.table import Table

    from rung.serve.keys import Keys, keys_file

    found, now = Keys.load(keys_file()).all(), datetime.now(UTC)
    if json:
        listed = [
            {
                "name": key.name,
                "role": key.role,
                "created": key.created.isoformat(),
                "expires": key.expires and key.expires.isoformat(),
                "expired": key.expired(now),
            }
            for key in found
        ]
        print(json_format.dumps(listed, indent=2))
        return
    if not found:
        print("no keys; `rung keys add NAME` makes one")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "role", "created", "expires"):
        table.add_column(heading, header_style="dim")
    for key in found:
        ends = "never" if key.expires is None else f"{key.expires.astimezone():%Y-%m-%d %H:%M}"
        ended = " (expired)" if key.expired(now) else ""
        table.add_row(key.name, key.role, f"{key.created.astimezone():%Y-%m-%d %H:%M}", ends + ended)
    Console().print(table)


@keys.command(name="add")
def add(name: str, /, *, admin: Switch = False, expires: str | None = None) -> None:
    """Make a key and print it, this once.

    Example: rung keys add ci --expires 30d

    Parameters
    ----------
    name
        Whose key it is, or what it is for: letters, digits and . _ @ -
    admin
        The key may change what is served, not only ask.
    expires
        How long it is good for, such as 12h or 30d; without it, until it is removed.
    """
    from rung.serve.keys import Keys, add_key, keys_file

    lasts = None if expires is None else seconds(expires, "--expires", days=True)
    key = add_key(keys_file(), name, admin=admin, expires_s=lasts)
    # Alone on standard output, so that a script can take it from there.
    print(key)
    print("keep it now: only its digest is stored, it can't be shown again", file=sys.stderr)
    if len(Keys.load(keys_file()).all()) == 1:
        print("a server that runs without keys asks for them from its next start on", file=sys.stderr)


@keys.command(name="remove")
def remove(name: str, /) -> None:
    """Take a key back; a running server refuses it from then on.

    Example: rung keys remove ci

    Parameters
    ----------
    name
        The name that the key was made under.
    """
    from rung.serve.keys import keys_file, remove_key

    print(f"{remove_key(keys_file(), name).name} is removed")
