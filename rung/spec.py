"""The Spec of a System: everything that decides an answer, but for the bytes of its files."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rung.records import Json, OutputKind


class Frozen(BaseModel):
    """A part of system.json: no unknown keys, never changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(Frozen):
    """The base model, or that of the sentence vectors, by name and by the digest of its weights.

    `source` is where it was found, as `resolve` takes it: a catalog name, a hub id or an absolute path.
    """

    name: str
    source: str
    digest: str
    licence: str


class AnswerSpec(Frozen):
    """How the answer is written and read.

    `words`: the label's text, decoded within the labels' trie. `codes`: one token per label, exact
    probabilities from one pass. `schema`: JSON decoded under the schema. `calls`: JSON
    decoded under the signatures of the functions that the question itself offers. `free`: whatever comes.
    """

    form: Literal["words", "codes", "schema", "calls", "free"]
    codes: tuple[int, ...] = ()
    max_tokens: int = 64


class ShotSpec(Frozen):
    """Examples in the prompt: none, the same ones always, or the nearest neighbours of each input."""

    choice: Literal["none", "fixed", "nearest"] = "none"
    k: int = 0


class Spec(Frozen):
    """Everything that decides an answer, but for the bytes of the files named in `files`."""

    format: Literal[1] = 1
    rung: str
    task: str
    kind: OutputKind
    labels: tuple[str, ...] = ()
    schema_: Json = None
    engine: Literal["head", "llama", "torch", "endpoint", "fake"]
    model: ModelRef | None = None
    style: Literal["chat", "terse"] = "chat"
    instruction: str | None = None
    shots: ShotSpec = ShotSpec()
    answer: AnswerSpec = AnswerSpec(form="free")
    features: Literal["minilm", "tfidf", "both"] | None = None
    vectors: ModelRef | None = None
    files: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Names this System: sha256 over the canonical Spec, file digests included.

        Where its models lie isn't part of it; what they are made of is, and so is the order of a schema's
        properties, in which they are written.
        """
        fields = self.model_dump(mode="json", exclude={"model": {"source"}, "vectors": {"source"}})
        if self.schema_ is not None:
            fields["schema_"] = json.dumps(self.schema_, ensure_ascii=False)
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
