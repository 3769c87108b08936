"""Models that somebody else hosts: `openai:NAME`, `anthropic:NAME`, or `openai:NAME@URL`, and their keys.

A key is read from the environment for each request and is no part of any record here.
"""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from rung.errors import ModelError

PROVIDERS = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    # Anthropic's own OpenAI-compatible endpoint: one protocol for all.
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
}
"""Where each provider's OpenAI-compatible endpoint is, and the variable that holds its key."""
OTHER_KEY = "RUNG_API_KEY"
"""For every other URL: a provider's key is never sent to another host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hosted:
    """A model behind an OpenAI-compatible URL, as a task names it in `given`.

    `system` is the System that it answers for, where a task names that one.
    """

    given: str
    model: str
    url: str
    key_variable: str
    system: str | None = None

    @property
    def named(self) -> str:
        """What a task has it by: its own name, or that of the System."""
        return self.system or self.given

    @property
    def host(self) -> str:
        """Host, and port where one is named."""
        return urlsplit(self.url).netloc

    @property
    def key_missing(self) -> bool:
        """Whether it can't be asked for want of a key. Other servers may need none."""
        return self.key_variable != OTHER_KEY and not os.environ.get(self.key_variable, "").strip()


def hosted(name: str) -> Hosted | None:
    """The hosted model that `name` means; None where it names something else. ModelError for half a name."""
    provider, colon, rest = name.partition(":")
    if not colon or provider not in PROVIDERS:
        return None
    first = "@" if rest.startswith("@") else ""  # of the model's own name, as in @cf/meta/llama
    model, at, url = rest.removeprefix(first).partition("@")
    model = first + model
    if not model.strip("@") or "://" in model or (at and provider != "openai"):
        # No URL is shown, here and below: a password may be in it.
        shown = f"{provider}:" if "://" in rest else name
        raise ModelError(
            f"{shown!r} names no hosted model; write openai:NAME, anthropic:NAME, or openai:NAME@https://host/v1"
        )
    if not at:
        home, variable = PROVIDERS[provider]
        return Hosted(given=name, model=model, url=home, key_variable=variable)
    try:
        parts = urlsplit(url)
        _ = parts.port  # a bad one is told only when it's asked for
    except ValueError:
        raise ModelError(
            f"the URL of the hosted model {model!r} can't be read: check its host and port, as in "
            "openai:NAME@http://host:8000/v1"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(
            f"what follows the hosted model {model!r} is no http or https URL; write openai:NAME@https://host/v1"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The name is written to files: what may be a secret has no place in it.
        raise ModelError(
            f"the URL of the hosted model {model!r} holds more than a host and a path; put a key into "
            f"{OTHER_KEY}"
        )
    return Hosted(given=name, model=model, url=url.rstrip("/"), key_variable=OTHER_KEY)
