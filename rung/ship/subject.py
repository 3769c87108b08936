"""What is exported: a System with its base model, its fixed prompt and what it learned."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rung.errors import TaskError
from rung.models.catalog import Entry, entry_with
from rung.models.chat import Chat
from rung.models.offered import Offered, offered_named
from rung.models.resolve import Model
from rung.models.retyped import retyped
from rung.models.weights import dequantised
from rung.ship.frame import Frame, frame
from rung.spec import Spec
from rung.system import SHOTS_FILE, Pool, System, read_index
from rung.wording import Shot

_HUB_ID = re.compile(r"(?:hf:)?(?P<repository>[\w.-]+/[\w.-]+)(?::[\w./-]+\.gguf)?")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A System that a language model answers for. `shots` are the examples that every prompt holds."""

    system: System
    model: Model
    chat: Chat
    shots: tuple[Shot, ...]

    @property
    def spec(self) -> Spec:
        """The System's Spec."""
        return self.system.spec

    @property
    def adapter(self) -> Path | None:
        """The PEFT folder of a tuned System."""
        return self.system.adapter

    @cached_property
    def frame(self) -> Frame:
        """What stands around a text in every prompt."""
        return frame(self.chat, self.spec, self.shots)

    @property
    def base_gguf(self) -> Path | None:
        """The base as llama.cpp runs it for this System, a file; None for a folder of safetensors."""
        return None if self.model.gguf is None else retyped(self.model, self.spec.weight_type).gguf

    @property
    def weights(self) -> Path:
        """The weights that an adapter belongs to: the System's own, or the base's, made the first time."""
        return self.system.weights or dequantised(self.model)

    @property
    def config(self) -> dict:
        """The transformers config of these weights."""
        return json.loads((self.weights / "config.json").read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """The task's name, fit for a file."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.spec.task).strip("-.") or "system"

    @property
    def entry(self) -> Entry | None:
        """The base model's place in the catalog, if it has one."""
        return entry_with(self.model.digest)

    @property
    def source(self) -> str:
        """What `resolve` takes for the base model."""
        return self.spec.model.source if self.spec.model is not None else self.model.name

    @property
    def offered(self) -> Offered | None:
        """The base model's place among those of the hub that are offered by name, if it was asked for so."""
        return offered_named(self.source)

    @property
    def licence_note(self) -> str | None:
        """What the base's licence asks, where that is known."""
        known = self.entry or self.offered
        return None if known is None else known.licence_note

    @property
    def base_path(self) -> str | None:
        """Where the base lies on this machine, if it was asked for by a path and not by a name."""
        return self.source if Path(self.source).is_absolute() else None

    @property
    def hub_id(self) -> str | None:
        """The hub id of the weights that the base was made of; None for files that came from elsewhere."""
        if self.entry is not None:
            return self.entry.origin
        if self.offered is not None:
            return self.offered.origin
        match = _HUB_ID.fullmatch(self.source)
        return match["repository"] if match is not None and not Path(match[0]).exists() else None

    @property
    def loadable_id(self) -> str | None:
        """The hub id by which transformers loads the base; None where there is none, or a GGUF's alone."""
        return self.hub_id if self.entry is not None or self.model.folder is not None else None


def load_subject(system: System, pool: Pool) -> Subject:
    """A System with all that an export needs. TaskError where no language model answers for it."""
    spec = system.spec
    if spec.model is None or spec.engine not in ("llama", "torch"):
        raise TaskError(f"{str(system.folder)!r} has no language model to export")
    if spec.kind == "tool_call":
        raise TaskError(
            f"{str(system.folder)!r} calls functions: each answer is held to those of its own question, "
            "which no export carries yet; serve it with `rung serve`"
        )
    model = system.model(pool)
    shots = tuple(read_index(system.folder)[0]) if SHOTS_FILE in spec.files else ()
    return Subject(system=system, model=model, chat=pool.chat(model), shots=shots)
