"""The Spec of a System: everything that decides an answer, but for the bytes of its files."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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


Written = Literal["json", "tagged", "tools"]
"""How calls are spelled: as JSON, in the form that FunctionGemma was taught, or as a provider's own calls."""


class AnswerSpec(Frozen):
    """How the answer is written and read.

    `words`: the label's text, decoded within the labels' trie. `codes`: one token per label, exact
    probabilities from one pass. `schema`: JSON decoded under the schema. `calls`: JSON
    decoded under the signatures of the functions that the question itself offers, `most_calls` of them at
    most. `free`: whatever comes; calls are `written` as JSON, in the form that FunctionGemma was taught, or,
    where a hosted model is given the functions as `tools`, as its server has them. What is held to a form
    `ends` with the model's own token, or, where that has no chat template, with the blank line of the worked
    examples too.
    """

    form: Literal["words", "codes", "schema", "calls", "free"]
    codes: tuple[int, ...] = ()
    max_tokens: int = 64
    most_calls: int | None = None
    written: Written = "json"
    ends: Literal["token", "blank_line"] = "token"


HELD = ("schema", "calls")
"""The forms whose text a grammar lets through."""


WeightType = Literal["q8_0"]
"""A type of llama.cpp's weights other than their own file's: more memory, and faster on some processors."""


def engine_text(engine: str, weight_type: WeightType | None) -> str:
    """An engine, and the type of its weights where that isn't their file's."""
    return engine if weight_type is None else f"{engine} in {weight_type}"


class ShotSpec(Frozen):
    """Examples in the prompt: none, the same ones always, or the nearest neighbours of each input."""

    choice: Literal["none", "fixed", "nearest"] = "none"
    k: int = 0


class StepsSpec(Frozen):
    """How one answer is made of several calls; `AnswerSpec` is then that of the last one.

    `vote`: `samples` answers drawn at `temperature`, of which the commonest is given. `think`: free reasoning
    of up to `max_tokens`, `close`, then the answer; of several samples each reasons for itself, and they
    vote. `repair`: a free draft of up to `max_tokens`; where a check finds a fault, `close` with that in
    place of {fault}, and the answer again. Text has no check: its draft is always gone over.
    """

    kind: Literal["vote", "think", "repair"]
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 0
    close: str = ""


USUAL_TOKENS = 2048
"""Of a prompt and its answer: enough for most narrow tasks, and little memory for each request at a time."""


class RetrievalSpec(Frozen):
    """Passages of documents in the prompt: the `k` that a search ranks highest for each input.

    `bm25` goes by words, `dense` by sentence vectors, `fused` by both rankings.
    """

    search: Literal["bm25", "dense", "fused"]
    k: int = Field(ge=1)

    @property
    def said(self) -> str:
        """In a report."""
        return f"{self.k} passage{'s' if self.k > 1 else ''}, {self.search}"


LATER = ("retrieval", "weight_type")
"""What came into Specs later, and is written to a System's file where it's set alone."""


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
    retrieval: RetrievalSpec | None = None
    answer: AnswerSpec = AnswerSpec(form="free")
    steps: StepsSpec | None = None
    features: Literal["minilm", "tfidf", "both"] | None = None
    vectors: ModelRef | None = None
    context_tokens: int | None = Field(default=None, ge=1)
    """Of a prompt and its answer together, where it isn't the usual number."""
    weight_type: WeightType | None = None
    """In which llama.cpp has the base model's matrices, where it isn't that of their file."""
    files: dict[str, str] = {}

    @property
    def engine_said(self) -> str:
        """The engine, and the type of its weights where that isn't their file's."""
        return engine_text(self.engine, self.weight_type)

    @property
    def looks_up(self) -> bool:
        """Whether every prompt is made of what a search finds for its input."""
        return self.shots.choice == "nearest" or self.retrieval is not None

    @property
    def digest(self) -> str:
        """Names this System: sha256 over the canonical Spec, file digests included.

        Where its models lie isn't part of it; what they are made of is, and so is the order of a schema's
        properties, in which they are written. What came into Specs later counts where it's set alone: other
        Systems are what they were before.
        """
        fields = self.model_dump(mode="json", exclude={"model": {"source"}, "vectors": {"source"}})
        for later in ("steps", "context_tokens", *LATER):
            if fields[later] is None:
                del fields[later]
        for later, unset in (("most_calls", None), ("written", "json"), ("ends", "token")):
            if fields["answer"][later] == unset:
                del fields["answer"][later]
        if self.schema_ is not None:
            fields["schema_"] = json.dumps(self.schema_, ensure_ascii=False)
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
