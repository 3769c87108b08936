"""Sentence vectors: mean-pooled, normalised outputs of a small BERT, and their cache on disk."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rung.errors import ModelError
from rung.models.bert import Bert
from rung.models.processor import multiplies_bf16
from rung.models.resolve import Model, read_json, resolve

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vectors: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = Callable[[int, int], None]
"""Called with (texts done, texts)."""

BATCH_TOKENS: Final = 2048
ENCODED_AT_ONCE: Final = 1024
"""Texts: what the tokenizer tells of each takes a hundred times what is kept."""
PART_TEXTS: Final = 2048
"""So many are lost at most where the program is killed before all vectors of many texts are there."""


def no_rows(done: int, total: int) -> None:
    """The progress callback of a caller that doesn't want any."""


class Embedder:
    """Texts to unit vectors with one model; the weights load when the first text comes.

    Threads that ask at once are answered one after the other.
    """

    def __init__(self, name: str = "minilm-l6", threads: int = 0) -> None:
        """Take the model called `name`, as `resolve` understands it; 0 threads: as many as torch has."""
        self.name, self.threads = name, threads
        self._turn = threading.Lock()

    @cached_property
    def model(self) -> Model:
        """The model's files. Raises ModelError when it isn't an embedding model with safetensors weights."""
        model = resolve(self.name)
        if model.kind != "embed" or model.folder is None or model.architecture != "bert":
            raise ModelError(
                f"{self.name!r} ({model.architecture}) isn't a BERT with safetensors weights, which sentence "
                "vectors need: use 'minilm-l6'"
            )
        return model

    @property
    def size_bytes(self) -> int:
        """Of the weights as they lie on disk. Raises ModelError as `model` does."""
        assert self.model.folder is not None, "an embedding model is a folder"
        return sum(file.stat().st_size for file in sorted(self.model.folder.glob("*.safetensors")))

    def embed(self, texts: Sequence[str], *, progress: Rows = no_rows) -> Vectors:
        """One vector of length 1 for each text: float32, [texts, 384].

        Mean of the last layer over the text's tokens, as all-MiniLM-L6-v2 was trained; text past 256
        tokens is cut. Batches hold texts of like length, so little is padded. In bf16 where the processor
        multiplies it: the cosine to the vector in fp32 is .9999 then.
        """
        with self._turn:
            return self._vectors(texts, progress)

    def _vectors(self, texts: Sequence[str], progress: Rows) -> Vectors:
        import torch

        if not texts:
            return np.zeros((0, self._network.width), dtype=np.float32)
        rows = [
            np.array(row.ids, dtype=np.int32)
            for start in range(0, len(texts), ENCODED_AT_ONCE)
            for row in self._tokenizer.encode_batch(list(texts[start : start + ENCODED_AT_ONCE]))
        ]
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
        vectors = np.empty((len(rows), self._network.width), dtype=np.float32)
        done = 0
        for chosen in _batches(order, list(map(len, rows))):
            sizes = [len(rows[i]) for i in chosen]
            ids = np.zeros((len(chosen), max(sizes)), dtype=np.int64)
            for line, i in zip(ids, chosen, strict=True):
                line[: len(rows[i])] = rows[i]
            with torch.inference_mode(), _on(self.threads):
                mean = self._network.mean(torch.from_numpy(ids), torch.tensor(sizes))
                vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            done += len(chosen)
            progress(done, len(order))
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `embed` reads of these texts, all together."""
        return sum(len(row.ids) for row in self._tokenizer.encode_batch(list(texts)))

    def cached_embeddings(
        self, texts: Sequence[str], cache_dir: Path, *, progress: Rows = no_rows
    ) -> Vectors:
        """`embed`, read from `cache_dir` when this model has embedded these texts, in this order, before.

        Those of many texts are kept in parts until all are there.
        """
        path = self._file(texts, cache_dir)
        try:
            found = np.load(path, allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            found = None
        if found is not None and found.dtype == np.float32 and found.ndim == 2 and len(found) == len(texts):
            return found
        parts = _parts(texts) if len(texts) > PART_TEXTS else []
        if parts:
            vectors = np.concatenate(list(self._each(parts, cache_dir, progress)))
        else:
            vectors = self.embed(texts, progress=progress)
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, vectors, allow_pickle=False)
        partial.replace(path)
        for part in parts:
            self._file(part, cache_dir).unlink(missing_ok=True)
        return vectors

    def missing(self, texts: Sequence[str], cache_dir: Path) -> int:
        """How many of these texts `cached_embeddings` would have to embed."""
        if self._file(texts, cache_dir).exists():
            return 0
        return sum(len(part) for part in _parts(texts) if not self._file(part, cache_dir).exists())

    def _each(self, parts: Sequence[Sequence[str]], cache_dir: Path, progress: Rows) -> Iterator[Vectors]:
        """The vectors of one part after the other, each kept before the next is begun."""
        before, total = 0, sum(map(len, parts))
        for part in parts:

            def told(done: int, _: int, before: int = before) -> None:
                progress(before + done, total)

            yield self.cached_embeddings(part, cache_dir, progress=told)
            before += len(part)

    def _file(self, texts: Sequence[str], cache_dir: Path) -> Path:
        digest = hashlib.sha256(f"{self.model.digest} {'bf16' if multiplies_bf16() else 'fp32'}".encode())
        for text in texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        return cache_dir / f"{digest.hexdigest()[:32]}.npy"

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        assert self.model.folder is not None
        tokenizer = Tokenizer.from_file(str(self.model.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(min(self.model.context, 256))
        return tokenizer

    @cached_property
    def _network(self) -> Bert:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = self.model.folder
        assert folder is not None
        tensors: dict[str, Any] = {}
        try:
            for file in sorted(folder.glob("*.safetensors")):
                tensors |= load_file(file)
            config = read_json(folder / "config.json")
            return Bert(config, tensors, torch.bfloat16 if multiplies_bf16() else torch.float32)
        except (KeyError, SafetensorError) as error:
            raise ModelError(f"{str(folder)!r} lacks {error}: bring the model again") from None


@contextmanager
def _on(threads: int) -> Iterator[None]:
    """torch on so many threads, and afterwards on as many as before; 0 leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    if threads not in (0, before):
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads not in (0, before):
            torch.set_num_threads(before)


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + PART_TEXTS] for start in range(0, len(texts), PART_TEXTS)]


def _batches(order: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """`order`, shortest first, cut into batches of about `BATCH_TOKENS` tokens, padding included."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * sizes[i] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
