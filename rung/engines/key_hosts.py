"""To which hosts `RUNG_API_KEY` is sent: those that it is meant for, and none that only a System names."""

import ipaddress
import os
from collections.abc import Collection

import httpx

from rung.engines.endpoint_wire import chat_url
from rung.errors import EngineError
from rung.models.hosted import OTHER_KEY, Hosted

UNNAMED = "is sent to no other host"
HOST_VARIABLE = "RUNG_API_HOST"
"""The hosts that the key is for, with commas between; one without http:// or https:// is asked by https."""


def origin_of(url: str) -> str:
    """Scheme, host and port of an URL, all of which a key is meant for. Raises EngineError for no URL."""
    return _origin(chat_url(url))


def is_meant_for(url: httpx.URL, named: Collection[str] = ()) -> bool:
    """Whether the key is sent there: where HOST_VARIABLE says so, as far as that is set.

    Otherwise to the origins in `named`, which this command or its task names, and to this machine.
    Raises EngineError for any other, which may be a stranger's, and where HOST_VARIABLE can't be read.
    """
    here, listed = _origin(url), _listed()
    if listed:
        return here in listed
    if here in named or _is_own(url.host):
        return True
    raise EngineError(
        f"{url.host} isn't named in this command or its task, and {OTHER_KEY} {UNNAMED}: set "
        f"{HOST_VARIABLE}={here} if the key is for it, or to the key's own host to ask this one without it"
    )


def need_known_host(model: Hosted, named: Collection[str] = ()) -> None:
    """Raises EngineError where nobody said whether the key is for a model's host, `named` ones aside."""
    if model.key_variable == OTHER_KEY and os.environ.get(OTHER_KEY, "").strip():
        is_meant_for(chat_url(model.url), named)


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _listed() -> frozenset[str]:
    hosts = [part.strip() for part in os.environ.get(HOST_VARIABLE, "").split(",")]
    try:
        return frozenset(origin_of(host if "://" in host else f"https://{host}") for host in hosts if host)
    except EngineError:
        raise EngineError(
            f"{HOST_VARIABLE} can't be read: write the hosts that {OTHER_KEY} is for, such as "
            "https://host or http://host:8000, with commas between"
        ) from None


def _is_own(host: str) -> bool:
    """Whether it is this machine, whatever a network says."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
