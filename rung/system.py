"""A System: a folder that answers inputs, whichever rung made it.

`system.json` holds the Spec and the digest of every other file, and is written last. The folder names its
base model by digest and doesn't hold it; an adapter, a head, shots and a schema lie beside the Spec, and the
weights of a model that was tuned whole.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import ValidationError

from rung.asking import answer_of_completion, ask, context_of, fitted, room_for_answer
from rung.calibration import calibrated_answers, read_calibration, write_calibration
from rung.engines import crowded, slowed, start
from rung.engines.base import Completion, Engine, EngineSpec, Progress, Say, no_progress, no_say
from rung.engines.cores import available_cores
from rung.engines.till import Till
from rung.engines.unchanged import files_in, unchanged
from rung.errors import SystemFolderError, TaskError
from rung.hosted import GREEDY, Draw, complete, hosted_engine_spec, hosted_of
from rung.models.chat import Chat, load_chat
from rung.models.embed import Embedder
from rung.models.head import HEAD_FILE, VOCABULARY_FILE, Head, answers, load_head
from rung.models.refs import model_of
from rung.models.refs import ref_to as ref_to
from rung.models.resolve import Model, limited
from rung.models.retyped import retyped
from rung.models.weights import dequantised
from rung.records import Answer, Calibration, Example
from rung.runs import Shared, atomic_folder, file_digest, place, unlisted, write_text
from rung.search import (
    SHOTS_FILE,
    VECTORS_FILE,
    Index,
    PassageIndex,
    Passages,
    cited,
    index_names,
    nearest,
    read_index,
    read_passages,
)
from rung.spec import LATER, ModelRef, Spec
from rung.steps import Call, answered
from rung.task.schemas import check_schema
from rung.wording import Shot, embedded_text, with_passages

SPEC_FILE = "system.json"
ADAPTER_FOLDER = "adapter"
ADAPTER_GGUF = "adapter.gguf"
WEIGHTS_FOLDER = "weights"
WEIGHTS_GGUF = "weights.gguf"

Sources: TypeAlias = Mapping[str, Path | Shared | str | bytes]
"""The files of a System by name: a file to copy or to share, or what to write."""


@dataclass
class Pool(AbstractContextManager["Pool"]):
    """Engines, tokenisers and models that open Systems share. Hosted ones are paid out of the `till`.

    `say` is told, once each, of engines that compute on the processor though there is a GPU. Several threads
    may ask hosted models through it at once, beside one that does anything else.
    """

    threads: int = 0
    parallel: int = 8
    keep: int | None = 2
    till: Till | None = None
    say: Say = no_say
    models: dict[str, Model] = field(default_factory=dict)
    engines: dict[EngineSpec, Engine] = field(default_factory=dict)
    chats: dict[str, Chat] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    passages: dict[str, PassageIndex] = field(default_factory=dict)
    embedder: Embedder = field(default_factory=Embedder)
    _told: set[str] = field(default_factory=set, repr=False, compare=False)
    _change: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        # As many as the torch engine takes: a vector's last digits hang on their number.
        self.embedder.threads = self.threads or available_cores()

    def model(self, ref: ModelRef, folder: Path) -> Model:
        """The base model of the System in `folder`, by its digest. Raises as `model_of` does."""
        if ref.digest not in self.models:
            self.models[ref.digest] = model_of(ref, folder)
        return self.models[ref.digest]

    def chat(self, model: Model) -> Chat:
        """The tokeniser and templates of a model."""
        if model.digest not in self.chats:
            self.chats[model.digest] = load_chat(model)
        return self.chats[model.digest]

    def engine(self, spec: EngineSpec) -> Engine:
        """A running engine for the spec; the longest unused make room by number and memory, if `keep`."""
        with self._change:
            if (found := self.engines.pop(spec, None)) is not None and not found.closed:
                self.engines[spec] = found
                return found
            while self.keep and self.engines and (len(self.engines) >= self.keep or crowded(spec)):
                self.engines.pop(next(iter(self.engines))).close()
        # Not under the lock: whoever asks for another engine doesn't wait while weights are loaded.
        made = start(spec, self.till)
        self.tell(slowed(spec, made, [*self.models.values()]))
        with self._change:
            found = self.engines.setdefault(spec, made)
        if found is not made:
            made.close()
        return found

    def tell(self, slow: str | None) -> None:
        """Say why the processor computes though there is a GPU, if so; never the same line twice."""
        if slow is not None and slow not in self._told:
            self._told.add(slow)
            self.say(slow)

    def forget(self, system: "System", beside: Sequence["System"] = ()) -> None:
        """Let go of the head, examples and passages that a System needs, and none of those `beside` it."""
        if system.digest not in {other.digest for other in beside}:
            self.heads.pop(system.digest, None)
        if system.shots_key not in {other.shots_key for other in beside}:
            self.indexes.pop(system.shots_key, None)
        if system.index_key not in {other.index_key for other in beside}:
            self.passages.pop(system.index_key, None)

    def drop(self, system: "System", beside: Sequence["System"] = ()) -> None:
        """End the engine that a System needs, and none of those `beside` it."""
        if system.spec.model is not None:
            spec = system.engine_spec(self)
            others = {other.engine_spec(self) for other in beside if other.spec.model is not None}
            with self._change:
                unused = None if spec in others else self.engines.pop(spec, None)
            if unused is not None:
                unused.close()

    def close(self) -> None:
        """Close every engine, also when one of them can't be."""
        with self._change:
            engines = [*self.engines.values()]
            self.engines.clear()
        with ExitStack() as stack:
            for engine in engines:
                stack.callback(engine.close)

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
        if strange := unlisted(folder, (ADAPTER_FOLDER, WEIGHTS_FOLDER), spec.files):
            raise SystemFolderError(
                f"{str(folder / strange)!r} is no file of the System; take it out of there"
            )
        loaded = cls(folder, spec)
        loaded.calibration = read_calibration(folder, loaded.digest)
        return loaded

    @property
    def has_probabilities(self) -> bool:
        """Whether its answers are labels that it gives probabilities to."""
        steps = self.spec.steps
        one = steps is None or (steps.kind == "think" and steps.samples == 1)
        scored = self.spec.engine == "head" or (self.spec.answer.form in ("words", "codes") and one)
        return scored and self.spec.kind == "label"

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
        if self.is_hosted:
            return self.hosted_answers(examples, pool, progress=progress)
        chat, engine = self.chat(pool), self.open(pool)
        contexts = [e.context for e in examples]
        if self.spec.steps is None:
            prompted = self.prompted(examples, pool)
            given = [prompt for prompt, _ in prompted]
            found = ask(self.spec, chat, engine, given, progress, every_label=every_label, contexts=contexts)
            return [cited(one, some, self.spec.kind) for one, (_, some) in zip(found, prompted, strict=True)]
        limit, shots = context_of(self.model(pool)), self._shots(examples, pool)
        looked_up = self.find(examples, pool)
        held = list(looked_up)

        def put(spec: Spec, calls: Sequence[Call], done: Progress) -> list[Answer]:
            room, prompts = limit - room_for_answer(spec, chat), []
            for at, after in ((c.row, c.after) for c in calls):
                prompt, held[at] = fitted(spec, chat, examples[at], shots[at], room, looked_up[at], after)
                prompts.append(prompt)
            return ask(
                spec,
                chat,
                engine,
                prompts,
                done,
                every_label=every_label,
                contexts=[contexts[c.row] for c in calls],
                seeds=[c.seed for c in calls],
            )

        found = answered(self.spec, examples, put, progress)
        return [cited(one, some, self.spec.kind) for one, some in zip(found, held, strict=True)]

    @property
    def is_hosted(self) -> bool:
        """Whether somebody else's model answers, through an endpoint."""
        return self.spec.engine == "endpoint"

    @property
    def ref(self) -> ModelRef:
        """How the Spec names the base model. Raises SystemFolderError where it names none."""
        if self.spec.model is None:
            raise SystemFolderError(f"the System of rung {self.spec.rung!r} names no base model; climb again")
        return self.spec.model

    def hosted_answers(
        self, examples: Sequence[Example], pool: Pool, draw: Draw = GREEDY, progress: Progress = no_progress
    ) -> list[Answer]:
        """What a hosted model answers. Raises EngineError if it refuses the key, or the till is shut."""
        held = self.find(examples, pool)
        found = self.hosted_completions(examples, held, pool, draw, progress)
        read = (answer_of_completion(self.spec, c, e.context) for c, e in zip(found, examples, strict=True))
        return [cited(one, some, self.spec.kind) for one, some in zip(read, held, strict=True)]

    def hosted_completions(
        self,
        examples: Sequence[Example],
        looked_up: Sequence[Passages],
        pool: Pool,
        draw: Draw = GREEDY,
        progress: Progress = no_progress,
    ) -> list[Completion]:
        """The same before it is read as the Spec says, with all passages that were `looked_up` for each."""
        told = self._shots(examples, pool)
        given = [with_passages(e, some) for e, some in zip(examples, looked_up, strict=True)]
        return complete(self.spec, self.open(pool), given, told, draw=draw, progress=progress)

    def model(self, pool: Pool) -> Model:
        """The base model. Raises SystemFolderError where the System has none, or other weights lie there."""
        return limited(pool.model(self.ref, self.folder), self.spec.context_tokens)

    def chat(self, pool: Pool) -> Chat:
        """How the base model is talked to."""
        return pool.chat(self.model(pool))

    def prompts(self, examples: Sequence[Example], pool: Pool) -> list[tuple[int, ...]]:
        """What the base model is given for each example, shots and passages included."""
        return [prompt for prompt, _ in self.prompted(examples, pool)]

    def prompted(self, examples: Sequence[Example], pool: Pool) -> list[tuple[tuple[int, ...], Passages]]:
        """The prompts, each with the passages that it holds."""
        chat = self.chat(pool)
        limit = context_of(self.model(pool)) - room_for_answer(self.spec, chat)
        parts = zip(examples, self._shots(examples, pool), self.find(examples, pool), strict=True)
        return [fitted(self.spec, chat, example, shots, limit, some) for example, shots, some in parts]

    def find(self, examples: Sequence[Example], pool: Pool) -> list[Passages]:
        """The passages that are looked up for each example, the best first."""
        wanted = self.spec.retrieval
        if wanted is None:
            return [()] * len(examples)
        if (index := pool.passages.get(self.index_key)) is None:
            with self._as_loaded(*index_names(wanted.search)):
                index = read_passages(self.folder, wanted.search)
            pool.passages[self.index_key] = index
        asked = [embedded_text(e) for e in examples]
        return index.find(asked, wanted.search, wanted.k, lambda texts: self._embed(texts, pool))

    @property
    def shots_key(self) -> str:
        """Names the worked examples it has or looks up; Systems of other k or instructions share them."""
        return " ".join(self.spec.files.get(name, "") for name in (SHOTS_FILE, VECTORS_FILE)).strip()

    @property
    def index_key(self) -> str:
        """Names the passages that it looks up, and how; Systems of other k share them. Empty without any."""
        if self.spec.retrieval is None:
            return ""
        try:
            return " ".join(self.spec.files[name] for name in index_names(self.spec.retrieval.search))
        except KeyError as error:
            raise SystemFolderError(f"{str(self.folder)!r} lacks {error}; climb again") from None

    def calibrated(self, answers: Sequence[Answer]) -> list[Answer]:
        """Answers of this System with calibrated probabilities; as they are where it has no calibration."""
        if self.calibration is None:
            return list(answers)
        return calibrated_answers(answers, self.calibration.map, self.spec.labels)

    def memory_mb(self, pool: Pool) -> float:
        """Memory of all that it answers by, in MiB: engine or head, sentence model, and what is looked up."""
        head = self.spec.engine == "head"
        found = self._head(pool).size_bytes if head else self.open(pool).memory_mb() * 2**20
        found += pool.embedder.size_bytes if self.spec.vectors is not None else 0
        looked_up = {SHOTS_FILE, VECTORS_FILE, *index_names("fused")} & self.spec.files.keys()
        return (found + sum((self.folder / name).stat().st_size for name in looked_up)) / 2**20

    def open(self, pool: Pool) -> Engine:
        """The engine that answers for this System."""
        return pool.engine(self.engine_spec(pool))

    def engine_spec(self, pool: Pool, *, tuned: bool = True) -> EngineSpec:
        """What that engine is; equal ones are one engine. Not `tuned`: that of the base model as it is."""
        if self.is_hosted:
            return hosted_engine_spec(hosted_of(self.ref))
        model, digests = self.model(pool), self.spec.files if tuned else {}
        if self.spec.engine == "torch":
            own = self.weights if tuned else None
            return EngineSpec(
                engine="torch",
                weights=dequantised(model) if own is None else own,
                # A GGUF file is read when its de-quantised copy is made, and looked at then.
                base=model.files if own is None and model.gguf is None else (),
                adapter=self.adapter if tuned else None,
                files=files_in(self.folder, digests, f"{ADAPTER_FOLDER}/", f"{WEIGHTS_FOLDER}/"),
                context=context_of(model),
                threads=pool.threads,
            )
        own = self.weights_gguf if tuned else None
        run = retyped(model, self.spec.weight_type)
        return EngineSpec(
            engine=self.spec.engine,
            gguf=own or run.gguf,
            base=() if own else run.files,
            adapter=self.adapter_gguf if tuned else None,
            files=files_in(self.folder, digests, ADAPTER_GGUF, WEIGHTS_GGUF),
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
    def adapter_form(self) -> Literal["lora", "dora", "prefix"] | None:
        """What its adapter is; None without one. Raises ModelError for one that isn't read here."""
        from rung.engines.prefix import adapter_form

        return None if self.adapter is None else adapter_form(self.adapter)

    @property
    def adapter_gguf(self) -> Path | None:
        """The same as llama.cpp has it, a file."""
        return self.folder / ADAPTER_GGUF if ADAPTER_GGUF in self.spec.files else None

    @property
    def weights(self) -> Path | None:
        """The whole weights of a System that was tuned in all of them, a folder; None for others."""
        whole = any(name.startswith(f"{WEIGHTS_FOLDER}/") for name in self.spec.files)
        return self.folder / WEIGHTS_FOLDER if whole else None

    @property
    def weights_gguf(self) -> Path | None:
        """The same as llama.cpp has them, a file."""
        return self.folder / WEIGHTS_GGUF if WEIGHTS_GGUF in self.spec.files else None

    @property
    def is_tuned(self) -> bool:
        """Whether it learned weights of a language model: an adapter's, or all."""
        return self.adapter is not None or self.weights is not None

    def _shots(self, examples: Sequence[Example], pool: Pool) -> list[list[Shot]]:
        """The worked examples of each prompt: fixed ones, or the k nearest, the nearest last."""
        if self.spec.shots.choice == "none":
            return [[] for _ in examples]
        if (index := pool.indexes.get(self.shots_key)) is None:
            with self._as_loaded(SHOTS_FILE, VECTORS_FILE):
                index = read_index(self.folder)
            pool.indexes[self.shots_key] = index
        stored, vectors = index
        if vectors is None:
            return [stored for _ in examples]
        asked = self._embed([embedded_text(e) for e in examples], pool)
        return [[stored[i] for i in row] for row in nearest(asked, vectors, self.spec.shots.k)]

    def _as_loaded(self, *names: str) -> AbstractContextManager[None]:
        """What is read within is what was there when the System was loaded. Raises EngineError elsewise."""
        return unchanged(files_in(self.folder, self.spec.files, *names))

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
            with self._as_loaded(HEAD_FILE, VOCABULARY_FILE):
                head = load_head(self.folder, features, self.spec.labels)
            pool.heads[self.digest] = head
        return pool.heads[self.digest]


def save(folder: Path, spec: Spec, sources: Sources) -> System:
    """Write a System folder whole or not at all. Raises RunError where it can't be written."""
    with atomic_folder(folder) as draft:
        digests = {}
        for name, source in sorted(sources.items()):
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            place(source, target)
            digests[name] = file_digest(target)
        whole = spec.model_copy(update={"files": digests})
        # Keys unsorted: a schema's properties are answered in their order.
        fields = whole.model_dump(mode="json", exclude={n for n in LATER if getattr(spec, n) is None})
        text = json.dumps(fields, indent=2, ensure_ascii=False)
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
