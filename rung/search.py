"""Search in passages and worked examples: by words (BM25), by sentence vectors, by both rankings fused."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from rung.records import Answer, Json, OutputKind, Passage
from rung.scoring.extract import words
from rung.wording import Shot, answer_text, passage_text

SHOTS_FILE = "shots.jsonl"
VECTORS_FILE = "shots.safetensors"
PASSAGES_FILE = "passages.jsonl"
PASSAGE_VECTORS_FILE = "passages.safetensors"
TERMS_FILE = "terms.safetensors"
RRF_K: Final = 60
DEPTH: Final = 100
"""Passages of each ranking that are fused: those further down would move nothing into the first ten."""

_GROUPED = re.compile(r"(?<=\d)[,'’\u00a0\u202f](?=\d{3}(?!\d))")
"""What stands between the digits of thousands."""
_WITHIN = re.compile(r"(?<=\d)[.:](?=\d)")
"""What stands within a number or a time, of which no part is to be taken for another one."""

SearchKind: TypeAlias = Literal["bm25", "dense", "fused"]
Passages: TypeAlias = Sequence[Passage]
"""Those that stand in one prompt, the best first."""
Embed: TypeAlias = Callable[[Sequence[str]], np.ndarray]
Index: TypeAlias = tuple[list[Shot], np.ndarray | None]
"""Worked examples, and their unit vectors [examples, width] where neighbours are looked up."""


@dataclass(frozen=True)
class Terms:
    """BM25 scores of every word in every passage, as a sparse matrix [passages, words] by columns."""

    places: dict[str, int]
    scores: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    passages: int

    def ranked(self, text: str, most: int) -> list[int]:
        """The places of the passages that share a word with the text, the best first; ties in order."""
        total = np.zeros(self.passages, dtype=np.float32)
        for word in words(text):
            if (place := self.places.get(word)) is not None:
                column = slice(self.starts[place], self.starts[place + 1])
                total[self.rows[column]] += self.scores[column]  # a passage is in a column once
        return [place for place in highest(total, most) if total[place] > 0]


@dataclass(frozen=True)
class PassageIndex:
    """Passages with what a search in them needs: terms, unit vectors [passages, width], or both."""

    passages: tuple[Passage, ...]
    terms: Terms | None
    vectors: np.ndarray | None

    def ranked(self, texts: Sequence[str], search: SearchKind, most: int, embed: Embed) -> list[list[int]]:
        """For each text the places of its passages, the best first, `most` at most.

        `bm25` finds those alone that share a word with the text.
        """
        depth = max(most, DEPTH) if search == "fused" else most
        found: list[list[list[int]]] = [[] for _ in texts]
        if search != "dense":
            assert self.terms is not None, "a Spec's search has its files"
            for text, rankings in zip(texts, found, strict=True):
                rankings.append(self.terms.ranked(text, depth))
        if search != "bm25":
            assert self.vectors is not None, "a Spec's search has its files"
            for asked, rankings in zip(embed(texts), found, strict=True):
                rankings.append(highest(self.vectors @ asked, depth))
        return [(fused(rankings) if len(rankings) > 1 else rankings[0])[:most] for rankings in found]

    def find(self, texts: Sequence[str], search: SearchKind, k: int, embed: Embed) -> list[Passages]:
        """The k best passages for each text, the best first."""
        return [tuple(self.passages[i] for i in row) for row in self.ranked(texts, search, k, embed)]


def fused(rankings: Iterable[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion: by the sum of 1 / (60 + rank) over the rankings, ranks from 1; ties in order.

    Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet".
    """
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, start=1):
            total[place] = total.get(place, 0.0) + 1 / (RRF_K + rank)
    return sorted(total, key=lambda place: (-total[place], place))


def highest(scores: np.ndarray, most: int) -> list[int]:
    """The places of the highest scores, the highest first; those that are alike in order."""
    most = min(most, len(scores))
    if most == 0:
        return []
    least = np.partition(scores, -most)[-most]
    high = np.flatnonzero(scores >= least)
    return high[np.argsort(-scores[high], kind="stable")][:most].tolist()


def nearest(asked: np.ndarray, stored: np.ndarray, k: int) -> list[list[int]]:
    """Indices of the k stored unit vectors nearest to each asked one by cosine, the nearest last."""
    return [highest(row, k)[::-1] for row in asked @ stored.T]


def holds(passage: Passage, answer: str) -> bool:
    """Whether the words of an answer stand in a passage, one after the other; no answer stands anywhere."""
    wanted = _plain(answer)
    return bool(wanted.strip()) and wanted in _plain(passage_text(passage))


def held_by_any(passages: Passages, answers: Sequence[str]) -> list[bool]:
    """Of each answer whether its words stand in one passage at least, as `holds` has it."""
    text = "\n".join(_plain(passage_text(passage)) for passage in passages)
    return [bool(wanted.strip()) and wanted in text for wanted in map(_plain, answers)]


def answer_parts(output: Json, kind: OutputKind) -> tuple[str, ...]:
    """What of an output could stand in a passage: a text, a number, leaves of JSON; nothing of a label."""
    if kind == "label":
        return ()
    if kind == "json":
        return tuple(_leaves(output))
    if kind == "tool_call" and isinstance(output, list):
        return tuple(_leaves([call.get("arguments") for call in output if isinstance(call, dict)]))
    return (answer_text(output, kind),)


def _leaves(value: Json) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for item in inner for text in _leaves(item)]
    if isinstance(value, str):
        return [value] if value.strip() else []
    told = isinstance(value, int | float) and not isinstance(value, bool)
    return [answer_text(value, "number")] if told else []


def cited(answer: Answer, passages: Passages, kind: OutputKind) -> Answer:
    """The answer with the ids of the passages that its prompt held, and the first one that has all its parts.

    A label has none: its word stands in many a passage that isn't where it comes from.
    """
    if not passages:
        return answer
    readable = answer.failure is None and answer.value is not None
    parts = answer_parts(answer.value, kind) if readable else ()
    source = next((one.id for one in passages if parts and all(holds(one, part) for part in parts)), None)
    return replace(answer, passages=tuple(one.id for one in passages), source=source)


def terms_of(passages: Sequence[Passage]) -> Terms:
    """BM25 as Lucene has it, k1 1.5 and b .75 (Robertson and Zaragoza 2009; Kamphuis et al. 2020).

    The words are in alphabetical order, so that the same passages make the same bytes.
    """
    from bm25s import BM25

    split = [words(passage_text(passage)) for passage in passages]
    places = {word: place for place, word in enumerate(sorted({word for one in split for word in one}))}
    if not places:
        nothing = np.zeros(0, np.int32)
        return Terms(places, np.zeros(0, np.float32), nothing, np.zeros(1, np.int64), len(passages))
    model = BM25(method="lucene", k1=1.5, b=0.75, backend="numpy", csc_backend="numpy")
    ids = [[places[word] for word in one] for one in split]
    model.index((ids, places), create_empty_token=False, show_progress=False)
    made = model.scores
    return Terms(
        places=places,
        scores=np.asarray(made["data"], np.float32),
        rows=np.asarray(made["indices"], np.int32),
        starts=np.asarray(made["indptr"], np.int64),
        passages=len(passages),
    )


def index_names(search: SearchKind) -> list[str]:
    """The files that a kind of search needs."""
    return [
        PASSAGES_FILE,
        *([TERMS_FILE] if search != "dense" else []),
        *([PASSAGE_VECTORS_FILE] if search != "bm25" else []),
    ]


def index_files(index: PassageIndex, search: SearchKind) -> dict[str, bytes | str]:
    """What a System keeps of an index for one kind of search: JSON lines and arrays, nothing that runs."""
    from safetensors.numpy import save

    lines = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in index.passages)
    files: dict[str, bytes | str] = {PASSAGES_FILE: lines}
    if search != "dense" and index.terms is not None:
        spelled = np.frombuffer("\n".join(index.terms.places).encode(), np.uint8)
        parts = {"scores": index.terms.scores, "rows": index.terms.rows, "starts": index.terms.starts}
        files[TERMS_FILE] = save({**parts, "words": spelled})
    if search != "bm25" and index.vectors is not None:
        files[PASSAGE_VECTORS_FILE] = save({"vectors": index.vectors})
    return files


def read_index(folder: Path) -> Index:
    """The worked examples that lie in a System's folder, and their vectors if it has any."""
    from safetensors.numpy import load_file

    # Not splitlines: a text may hold line breaks of Unicode that JSON leaves as they are.
    lines = (folder / SHOTS_FILE).read_bytes().split(b"\n")
    vectors = folder / VECTORS_FILE
    stored = [Shot(**json.loads(line)) for line in lines if line]
    return stored, load_file(vectors)["vectors"] if vectors.is_file() else None


def read_passages(folder: Path, search: SearchKind) -> PassageIndex:
    """The index that lies in a System's folder, as far as a kind of search needs it."""
    from safetensors.numpy import load_file

    # Not splitlines: a text may hold line breaks of Unicode that JSON leaves as they are.
    lines = (folder / PASSAGES_FILE).read_bytes().split(b"\n")
    passages = tuple(Passage(**json.loads(line)) for line in lines if line)
    terms, vectors = None, None
    if search != "dense":
        parts = load_file(folder / TERMS_FILE)
        spelled = parts["words"].tobytes().decode()
        places = {word: place for place, word in enumerate(spelled.split("\n"))} if spelled else {}
        terms = Terms(places, parts["scores"], parts["rows"], parts["starts"], len(passages))
    if search != "bm25":
        vectors = load_file(folder / PASSAGE_VECTORS_FILE)["vectors"]
    return PassageIndex(passages=passages, terms=terms, vectors=vectors)


def _plain(text: str) -> str:
    """The words between single blanks, a number's digits together, so that any stretch of words is found."""
    return f" {' '.join(words(_WITHIN.sub('o', _GROUPED.sub('', text))))} "
