"""A System: a folder that answers inputs, whichever rung made it.

`system.json` holds the Spec and the digest of every other file, and is written last. The folder names its
base model by digest and never holds it; an adapter, a head, shots and a schema lie beside the Spec.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import ValidationError

from rung.calibration import calibrated_answers, read_calibration, write_calibration
from rung.calling import schema_of
from rung.engines import start
from rung.engines.base import Choice, Completion, Engine, EngineSpec, Progress, Request, no_progress
from rung.engines.trie import Trie
from rung.errors import SystemFolderError, TaskError
from rung.models.catalog import entry_named
from rung.models.chat import Chat, load_chat
from rung.models.embed import Embedder
from rung.models.head import Head, answers, load_head
from rung.models.offered import offered_named
from rung.models.resolve import Model, resolve
from rung.models.weights import dequantised
from rung.records import Answer, Calibration, Example
from rung.runs import atomic_folder, file_digest, write_text
from rung.scoring.extract import read_answer
from rung.spec import ModelRef, Spec
from rung.task.calls import functions_in, settled_calls, without_functions
from rung.task.schemas import check_schema
from rung.wording import Shot, embedded_text, label_texts, messages

SPEC_FILE = "system.json"
SHOTS_FILE = "shots.jsonl"
VECTORS_FILE = "shots.safetensors"
ADAPTER_FOLDER = "adapter"
ADAPTER_GGUF = "adapter.gguf"
ANSWER_CONTEXT = 2048


Sources: TypeAlias = Mapping[str, Path | str | bytes]
"""The files of a System by name: a file to copy, or what to write."""

Index: TypeAlias = tuple[list[Shot], np.ndarray | None]
"""Stored examples, and their unit vectors [examples, width] where neighbours are looked up."""


@dataclass
class Pool(AbstractContextManager["Pool"]):
    """Engines, tokenisers and models that several Systems share while they are open."""

    threads: int = 0
    parallel: int = 8
    keep: int | None = 2
    models: dict[str, Model] = field(default_factory=dict)
    engines: dict[EngineSpec, Engine] = field(default_factory=dict)
    chats: dict[str, Chat] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    embedder: Embedder = field(default_factory=Embedder)

    def model(self, ref: ModelRef) -> Model:
        """The base model, by its digest. Raises SystemFolderError where other weights lie in its place."""
        if ref.digest not in self.models:
            model = resolve(ref.source)
            if model.digest != ref.digest:
                raise SystemFolderError(
                    f"the System was made on {ref.source!r} with digest {ref.digest[:16]!r}, but there is "
                    f"{model.digest[:16]!r} now; restore the old weights or climb again"
                )
            self.models[ref.digest] = model
        return self.models[ref.digest]

    def chat(self, model: Model) -> Chat:
        """The tokeniser and templates of a model."""
        if model.digest not in self.chats:
            self.chats[model.digest] = load_chat(model)
        return self.chats[model.digest]

    def engine(self, spec: EngineSpec) -> Engine:
        """A running engine for the spec; the longest unused makes room when `keep` are open (None: never)."""
        if spec in self.engines:
            self.engines[spec] = self.engines.pop(spec)
        else:
            while self.keep is not None and len(self.engines) >= self.keep:
                self.engines.pop(next(iter(self.engines))).close()
            self.engines[spec] = start(spec)
        return self.engines[spec]

    def drop(self, system: "System", beside: Sequence["System"] = ()) -> None:
        """Let go of what a System alone needs, and none of those `beside` it."""
        if system.digest in {other.digest for other in beside}:
            return
        self.heads.pop(system.digest, None)
        self.indexes.pop(system.digest, None)
        if system.spec.model is not None:
            spec = system.engine_spec(self)
            others = [other for other in beside if other.spec.model is not None]
            if spec in self.engines and spec not in {other.engine_spec(self) for other in others}:
                self.engines.pop(spec).close()

    def close(self) -> None:
        """Close every engine, also when one of them can't be."""
        with ExitStack() as stack:
            for engine in self.engines.values():
                stack.callback(engine.close)
            self.engines.clear()

    def __exit__(self, *exc: object) -> None:
        self.close()


class System:
    """A loaded System folder."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self.digest = spec.digest
        self.calibration: Calibration | None = None

    @classmethod
    def load(cls, folder: Path) -> "System":
        """Read and check a System folder. Raises SystemFolderError where a file is missing or changed."""
        path = folder / SPEC_FILE
        try:
            spec = Spec.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SystemFolderError(
                f"no System at {str(folder)!r}: {error.strerror}; give a folder with a {SPEC_FILE}, "
                "such as a run's `winner`"
            ) from None
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()[:3])
            raise SystemFolderError(
                f"{str(path)!r} isn't a System of this version: {faults}; climb again"
            ) from None
        except ValueError as error:
            raise SystemFolderError(f"{str(path)!r} can't be read: {error}; climb again") from None
        try:
            if spec.schema_ is not None:
                check_schema(spec.schema_, "its schema")
        except TaskError as error:
            raise SystemFolderError(f"{str(path)!r} can't be used: {error}") from None
        for name, digest in sorted(spec.files.items()):
            file = folder / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise SystemFolderError(
                    f"{str(path)!r} names a file outside its folder: {name!r}; climb again"
                )
            if not file.is_file() or file_digest(file) != digest:
                raise SystemFolderError(
                    f"{str(file)!r} is missing or was changed since the System was made; restore it or "
                    "climb again"
                )
        loaded = cls(folder, spec)
        loaded.calibration = read_calibration(folder, loaded.digest)
        return loaded

    @property
    def has_probabilities(self) -> bool:
        """Whether its answers are labels that it gives probabilities to."""
        return self.spec.engine == "head" or self.spec.answer.form in ("words", "codes")

    def answer(
        self,
        examples: Sequence[Example],
        pool: Pool,
        *,
        progress: Progress = no_progress,
        every_label: bool = False,
    ) -> list[Answer]:
        """One answer per example, in order, probabilities as they come. Outputs are never looked at.

        `distribution` is known from heads, codes, and labels of which no two begin alike. Of others it's
        worked out where `every_label` says so, in up to five times the time with 77 labels in words.
        """
        if not examples:
            return []
        if self.spec.engine == "head":
            return answers(
                self._head(pool), [embedded_text(e) for e in examples], lambda texts: self._embed(texts, pool)
            )
        engine = self.open(pool)
        return ask(
            self.spec,
            self.chat(pool),
            engine,
            self.prompts(examples, pool),
            progress,
            every_label=every_label,
            contexts=[e.context for e in examples],
        )

    def model(self, pool: Pool) -> Model:
        """The base model. Raises SystemFolderError where the System has none, or other weights lie there."""
        return pool.model(_model_of(self.spec))

    def chat(self, pool: Pool) -> Chat:
        """How the base model is talked to."""
        return pool.chat(self.model(pool))

    def prompts(self, examples: Sequence[Example], pool: Pool) -> list[tuple[int, ...]]:
        """What the base model is given for each example, shots included."""
        chat = self.chat(pool)
        limit = context_of(self.model(pool)) - room_for_answer(self.spec, chat)
        return prompts_for(self.spec, chat, examples, self._shots(examples, pool), limit)

    def calibrated(self, answers: Sequence[Answer]) -> list[Answer]:
        """Answers of this System with calibrated probabilities; as they are where it has no calibration."""
        if self.calibration is None:
            return list(answers)
        return calibrated_answers(answers, self.calibration.map, self.spec.labels)

    def memory_mb(self, pool: Pool) -> float:
        """Memory of what holds the weights, in MiB: an engine's own figure, or that of head and embedder."""
        if self.spec.engine != "head":
            return self.open(pool).memory_mb()
        found = self._head(pool).size_bytes
        if self.spec.features != "tfidf" and pool.embedder.model.folder is not None:
            found += sum(p.stat().st_size for p in sorted(pool.embedder.model.folder.glob("*.safetensors")))
        return found / 2**20

    def open(self, pool: Pool) -> Engine:
        """The engine that answers for this System."""
        return pool.engine(self.engine_spec(pool))

    def engine_spec(self, pool: Pool) -> EngineSpec:
        """What that engine is; equal ones are one engine."""
        model = self.model(pool)
        if self.spec.engine == "torch":
            return EngineSpec(
                engine="torch",
                weights=dequantised(model),
                adapter=self.adapter,
                context=context_of(model),
                threads=pool.threads,
            )
        return EngineSpec(
            engine=self.spec.engine,
            gguf=model.gguf,
            adapter=self.adapter_gguf,
            context=context_of(model),
            parallel=pool.parallel,
            threads=pool.threads,
        )

    @property
    def adapter(self) -> Path | None:
        """A tuned System's adapter as peft has it, a folder; None for others."""
        tuned = any(name.startswith(f"{ADAPTER_FOLDER}/") for name in self.spec.files)
        return self.folder / ADAPTER_FOLDER if tuned else None

    @property
    def adapter_gguf(self) -> Path | None:
        """The same as llama.cpp has it, a file."""
        return self.folder / ADAPTER_GGUF if ADAPTER_GGUF in self.spec.files else None

    def _shots(self, examples: Sequence[Example], pool: Pool) -> list[list[Shot]]:
        """The worked examples of each prompt: fixed ones, or the k nearest, the nearest last."""
        if self.spec.shots.choice == "none":
            return [[] for _ in examples]
        if self.digest not in pool.indexes:
            pool.indexes[self.digest] = read_index(self.folder)
        stored, vectors = pool.indexes[self.digest]
        if vectors is None:
            return [stored for _ in examples]
        asked = self._embed([embedded_text(e) for e in examples], pool)
        return [[stored[i] for i in row] for row in nearest(asked, vectors, self.spec.shots.k)]

    def _embed(self, texts: Sequence[str], pool: Pool) -> np.ndarray:
        """Sentence vectors [texts, width]. Raises SystemFolderError where another model makes them now."""
        wanted = self.spec.vectors
        if wanted is not None and wanted.digest != pool.embedder.model.digest:
            raise SystemFolderError(
                f"the System was made with sentence vectors of {wanted.name!r} with digest "
                f"{wanted.digest[:16]!r}, but there is {pool.embedder.model.digest[:16]!r} now; climb again"
            )
        return pool.embedder.embed(texts)

    def _head(self, pool: Pool) -> Head:
        if self.digest not in pool.heads:
            features = self.spec.features or "minilm"
            pool.heads[self.digest] = load_head(self.folder, features, self.spec.labels)
        return pool.heads[self.digest]


def save(folder: Path, spec: Spec, sources: Sources) -> System:
    """Write a System folder whole or not at all. Raises RunError where it can't be written."""
    with atomic_folder(folder) as draft:
        digests = {}
        for name, source in sorted(sources.items()):
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                target.write_bytes(source if isinstance(source, bytes) else source.encode("utf-8"))
            digests[name] = file_digest(target)
        whole = spec.model_copy(update={"files": digests})
        # Keys unsorted: a schema's properties are answered in their order.
        text = json.dumps(whole.model_dump(mode="json"), indent=2, ensure_ascii=False)
        write_text(draft / SPEC_FILE, text + "\n")
    return System(folder, whole)


def copy(system: System, folder: Path) -> System:
    """The same System in another folder, with its calibration; SystemFolderError for a changed file."""
    made = save(folder, system.spec, {name: system.folder / name for name in system.spec.files})
    if made.digest != system.digest:
        raise SystemFolderError(
            f"a file of {str(system.folder)!r} was changed since the System was made; climb again"
        )
    if system.calibration is not None:
        keep_calibration(made, system.calibration)
    return made


def keep_calibration(system: System, calibration: Calibration) -> None:
    """Give a System a calibration, in its folder too. Raises RunError where that can't be written."""
    write_calibration(system.folder, system.digest, calibration)
    system.calibration = calibration


def ref_to(model: Model, given: str) -> ModelRef:
    """How a System names a model that `resolve(given)` found."""
    path = Path(given).expanduser()
    known = entry_named(given) is not None or offered_named(given) is not None
    source = str(path.resolve()) if not known and path.exists() else given
    return ModelRef(name=model.name, source=source, digest=model.digest, licence=model.licence)


def context_of(model: Model) -> int:
    """How many tokens a prompt and its answer may have together."""
    return min(model.context, ANSWER_CONTEXT)


def room_for_answer(spec: Spec, chat: Chat) -> int:
    """The tokens that the answer may need, of those that the context holds."""
    if spec.answer.form in ("words", "codes"):
        return max(map(len, candidates(spec, chat)))
    return spec.answer.max_tokens


def prompts_for(
    spec: Spec,
    chat: Chat,
    examples: Sequence[Example],
    shots: Sequence[Sequence[Shot]],
    limit: int = ANSWER_CONTEXT,
) -> list[tuple[int, ...]]:
    """Prompt ids for each example, the worked examples in front.

    Where they make a prompt longer than `limit` tokens the first ones, which are the least like the
    question, are left out of it.
    """
    return [
        _prompt(spec, chat, example, list(some), limit) for example, some in zip(examples, shots, strict=True)
    ]


def _prompt(spec: Spec, chat: Chat, example: Example, shots: list[Shot], limit: int) -> tuple[int, ...]:
    tools: list[dict[str, Any]] = []
    if spec.kind == "tool_call" and spec.style == "chat" and chat.takes_tools:
        # The template says how the model was taught to read its functions.
        tools = [{"type": "function", "function": one} for one in functions_in(example.context)]
        example = replace(example, context=without_functions(example.context))
    while True:
        prompt = chat.render(messages(spec.instruction, example, shots), style=spec.style, tools=tools)
        if len(prompt) <= limit or not shots:
            return prompt
        shots = shots[1:]


def read_index(folder: Path) -> Index:
    """The examples that lie in a System's folder, and their vectors if it has any."""
    from safetensors.numpy import load_file

    # Not splitlines: a text may hold line breaks of Unicode that JSON leaves as they are.
    lines = (folder / SHOTS_FILE).read_bytes().split(b"\n")
    vectors = folder / VECTORS_FILE
    stored = [Shot(**json.loads(line)) for line in lines if line]
    return stored, load_file(vectors)["vectors"] if vectors.is_file() else None


def nearest(asked: np.ndarray, stored: np.ndarray, k: int) -> list[list[int]]:
    """Indices of the k stored unit vectors nearest to each asked one by cosine, the nearest last."""
    similar = asked @ stored.T
    k = min(k, len(stored))
    least = np.partition(similar, -k, axis=1)[:, -k]
    found = []
    for row, threshold in zip(similar, least, strict=True):
        near = np.flatnonzero(row >= threshold)
        found.append(near[np.argsort(-row[near], kind="stable")][:k][::-1].tolist())
    return found


def candidates(spec: Spec, chat: Chat) -> list[tuple[int, ...]]:
    """The token sequences that stand for the labels, in the labels' order."""
    if spec.answer.form == "codes":
        return [(code,) for code in spec.answer.codes]
    return [chat.answer_ids(text, spec.style) for text in label_texts(spec.labels)]


def _model_of(spec: Spec) -> ModelRef:
    if spec.model is None:
        raise SystemFolderError(f"the System of rung {spec.rung!r} names no base model; climb again")
    return spec.model


def ask(  # noqa: PLR0913 (who is asked, what, and how far it is)
    spec: Spec,
    chat: Chat,
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    progress: Progress = no_progress,
    *,
    every_label: bool = False,
    contexts: Sequence[str | None] = (),
) -> list[Answer]:
    """Put rendered prompts to an engine and read its answers as the Spec says.

    `contexts` are those of the questions, of which calls need them: the functions stand there.
    """
    if spec.answer.form in ("words", "codes"):
        options = candidates(spec, chat)
        trie = Trie(options)
        choices = engine.choose(prompts, options, progress=progress, exhaustive=every_label)
        return [answer_of_choice(spec, choice, trie, every_label) for choice in choices]
    told = list(contexts) or [None] * len(prompts)
    requests = [request_for(spec, chat, prompt, of) for prompt, of in zip(prompts, told, strict=True)]
    written = engine.generate(requests, progress=progress)
    return [answer_of_completion(spec, one, of) for one, of in zip(written, told, strict=True)]


def request_for(spec: Spec, chat: Chat, prompt: tuple[int, ...], context: str | None = None) -> Request:
    """What an engine is asked to write after the prompt of a question with this context."""
    schema = spec.schema_ if spec.answer.form == "schema" else None
    return Request(
        prompt=prompt,
        max_tokens=spec.answer.max_tokens,
        stop_ids=chat.stop_ids,
        stop=chat.stop_strings(spec.style),
        schema=schema_of(context) if spec.answer.form == "calls" else schema,
    )


def answer_of_choice(spec: Spec, choice: Choice, options: Trie, every_label: bool) -> Answer:
    """What an engine's choice among the labels says; `every_label`: it was to look at all of them.

    The chosen label's tokens are what counts as written. How many were evaluated for it is no measure: that
    depends on what the engine's cache held before.
    """
    if choice.failure:
        return Answer(text="", failure=choice.failure, latency_s=choice.latency_s)
    # A label without a probability is out of the question then, not just one that wasn't looked at.
    whole = every_label or options.branchings < 2
    label = spec.labels[choice.index]
    ranked = sorted(zip(spec.labels, choice.logprobs, strict=True), key=lambda pair: -pair[1])
    shares = [math.exp(value) for value in choice.logprobs] if whole else []
    total = math.fsum(shares)
    return Answer(
        text=label,
        value=label,
        probability=math.exp(choice.logprobs[choice.index]),
        options=tuple((name, math.exp(value)) for name, value in ranked[:5]),
        prompt_tokens=choice.prompt_tokens,
        completion_tokens=options.lengths[choice.index],
        latency_s=choice.latency_s,
        distribution=tuple(share / total for share in shares),
    )


def answer_of_completion(spec: Spec, completion: Completion, context: str | None = None) -> Answer:
    """What an engine wrote to a question with this context, read as the Spec says."""
    # Half a surrogate pair, which a model's bytes can spell, is text that no file can hold.
    text = completion.text.encode("utf-8", "replace").decode("utf-8")
    # A number that was cut off in the middle reads as another one.
    cut = completion.truncated and spec.kind == "number" and spec.answer.form == "free"
    schema = schema_of(context) if spec.kind == "tool_call" else spec.schema_
    value = None if cut else read_answer(text, kind=spec.kind, labels=spec.labels, schema=schema)
    if spec.kind == "tool_call" and isinstance(value, list):
        value = settled_calls(value, functions_in(context))
    return Answer(
        text=text,
        value=value,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens or len(completion.tokens),
        latency_s=completion.latency_s,
        failure=completion.failure,
    )
