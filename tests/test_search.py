import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.records import Answer, Passage
from rung.scoring.extract import words
from rung.search import (
    PassageIndex,
    cited,
    fused,
    highest,
    holds,
    index_files,
    index_names,
    read_passages,
    terms_of,
)
from rung.wording import passage_text

WORDS = ["lift", "floor", "key", "the", "a", "Tür", "5", "lift's"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=9)


def passages(*texts: str) -> tuple[Passage, ...]:
    return tuple(Passage(id=f"a.md#{i}", title="", text=text) for i, text in enumerate(texts, start=1))


def index_of(texts: list[str], vectors: np.ndarray | None = None) -> PassageIndex:
    some = passages(*texts)
    return PassageIndex(passages=some, terms=terms_of(some), vectors=vectors)


def no_vectors(texts) -> np.ndarray:
    raise AssertionError("BM25 needs no vectors")


def bm25(texts: list[str], asked: str, k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Okapi BM25 with Lucene's idf, term by term as in the paper."""
    split = [words(text) for text in texts]
    mean = sum(map(len, split)) / len(split)
    found = []
    for one in split:
        score, counts = 0.0, Counter(one)
        for word in words(asked):
            df = sum(word in other for other in split)
            if df:
                idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
                norm = k1 * (1 - b + b * len(one) / mean) if mean else k1
                score += idf * counts[word] / (counts[word] + norm)
        found.append(score)
    return found


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.lists(st.sampled_from([*WORDS, "unknown"]), max_size=6).map(" ".join))
def test_bm25_ranks_as_the_formula_does(texts, asked):
    expected = bm25(texts, asked)
    ((ranking),) = index_of(texts).ranked([asked], "bm25", len(texts), no_vectors)
    assert len(set(ranking)) == len(ranking) == sum(score > 0 for score in expected)
    scores = [expected[place] for place in ranking]
    assert all(a >= b - 1e-5 for a, b in zip(scores, scores[1:], strict=False))
    terms = terms_of(passages(*texts))
    total = np.zeros(len(texts))
    for word in words(asked):
        if word in terms.places:
            column = slice(*terms.starts[terms.places[word] : terms.places[word] + 2])
            total[terms.rows[column]] += terms.scores[column]
    assert total == pytest.approx(expected, abs=1e-5)


def test_ranks_are_fused_as_in_the_paper():
    assert fused([[7, 3], [3, 9, 7]]) == [3, 7, 9]
    scores = {7: 1 / 61 + 1 / 63, 3: 1 / 62 + 1 / 61, 9: 1 / 62}
    assert sorted(scores, key=lambda place: -scores[place]) == [3, 7, 9]
    assert fused([[4, 1], [1, 4]]) == [1, 4] and fused([[], []]) == [] and fused([[5]]) == [5]


@given(st.lists(st.permutations(range(6)), min_size=1, max_size=4))
def test_a_passage_that_is_ahead_in_every_ranking_is_ahead_when_they_are_fused(rankings):
    found = fused(rankings)
    assert sorted(found) == list(range(6))
    for one in range(6):
        for other in range(6):
            if all(ranking.index(one) < ranking.index(other) for ranking in rankings):
                assert found.index(one) < found.index(other)


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 14))
def test_the_highest_scores_come_first_and_ties_in_their_order(scores, most):
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:most]
    assert highest(np.array(scores, dtype=np.float32), most) == expected


def test_each_search_ranks_by_its_own_and_the_fused_one_by_both():
    vectors = np.eye(3, dtype=np.float32)
    index = index_of(["red key", "green key key", "lift"], vectors)

    def embed(texts):
        return np.array([[0.1, 0.2, 0.9]] * len(texts), dtype=np.float32)

    assert index.ranked(["key key"], "bm25", 8, no_vectors) == [[1, 0]]
    assert index.ranked(["key"], "dense", 2, embed) == [[2, 1]]
    assert index.ranked(["key", "lift"], "fused", 3, embed) == [[1, 0, 2], [2, 1, 0]]
    (found,) = index.find(["red"], "bm25", 1, no_vectors)
    assert [one.id for one in found] == ["a.md#1"]


@pytest.mark.parametrize("texts", [["Größe 5\u2028x", "lift key"], ["…", "---"]])
@pytest.mark.parametrize("search", ["bm25", "dense", "fused"])
def test_an_index_is_the_same_after_it_was_written_and_read(texts, search, tmp_path):
    index = index_of(texts, np.eye(2, dtype=np.float32))
    files = index_files(index, search)
    assert sorted(files) == sorted(index_names(search))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    again = read_passages(tmp_path, search)
    assert again.passages == index.passages

    def embed(asked):
        return np.array([[0.6, 0.8]] * len(asked), dtype=np.float32)

    for asked in ("grösse", "GRÖSSE lift", "nothing", ""):
        assert again.ranked([asked], search, 2, embed) == index.ranked([asked], search, 2, embed)
    assert index_files(again, search) == files


def test_the_same_passages_make_the_same_bytes_in_every_process():
    code = (
        "import hashlib; from rung.records import Passage; from rung.search import *\n"
        "some = tuple(Passage(id=str(i), title='', text=t) for i, t in enumerate(['b a c', 'd a', 'Z q']))\n"
        "files = index_files(PassageIndex(passages=some, terms=terms_of(some), vectors=None), 'bm25')\n"
        "parts = [f if isinstance(f, bytes) else f.encode() for f in files.values()]\n"
        "print(hashlib.sha256(b''.join(parts)).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1


def test_nothing_of_an_index_is_a_pickle():
    files = index_files(index_of(["lift key"], np.eye(1, dtype=np.float32)), "fused")
    for name, content in files.items():
        if isinstance(content, bytes):
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            assert all(part["dtype"] in ("F32", "I32", "I64", "U8") for part in header.values()), name
        else:
            assert [json.loads(line)["id"] for line in content.splitlines()] == ["a.md#1"]


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("The fee is 1,250 euros.", "1250", True),
        ("The fee is 1,250 euros.", "250", False),
        ("Ask at the DESK, please", "the desk", True),
        ("Ask at the desk", "he desk", False),
        ("within 14 days", "14 days.", True),
        ("within 14 days", "14  hours", False),
        ("anything", "", False),
        ("anything", "…", False),
        ("2.5 litres", "2.5", True),
        ("12.5 litres", "2.5", False),
        ("12.5 litres", "12", False),
        ("12. Next", "12", True),
        ("until 20:00", "20:00", True),
        ("until 20:00", "20", False),
    ],
)
def test_an_answer_stands_in_a_passage_when_its_words_do(text, answer, held):
    (passage,) = passages(text)
    assert holds(passage, answer) is held


def test_an_answer_names_the_passages_of_its_prompt_and_the_first_that_has_its_words():
    some, lift = passages("red key", "the lift", "lift"), Answer(text="Lift", value="Lift")
    assert cited(lift, some, "text") == Answer(
        text="Lift", value="Lift", passages=("a.md#1", "a.md#2", "a.md#3"), source="a.md#2"
    )
    assert cited(Answer(text="stairs", value="stairs"), some, "text").source is None
    assert cited(Answer(text="lift", failure="it broke"), some, "text").source is None
    assert cited(lift, (), "text") == lift


@pytest.mark.parametrize(
    ("kind", "text", "value", "source"),
    [
        ("json", '{"weight":"62 kg","shop":"Riga"}', {"weight": "62 kg", "shop": "Riga"}, "a.md#2"),
        ("json", '{"weight":"62 kg","shop":"Oslo"}', {"weight": "62 kg", "shop": "Oslo"}, None),
        ("json", '{"sold":true}', {"sold": True}, None),
        ("json", "{}", {}, None),
        ("number", "The answer is 62", 62.0, "a.md#1"),
        ("tool_call", "", [{"name": "find", "arguments": {"shop": "Riga"}}], "a.md#2"),
        ("tool_call", "[]", [], None),
        ("label", "shop", "shop", None),
        ("json", "no JSON, but Riga", None, None),
    ],
)
def test_the_source_of_an_answer_holds_every_part_of_its_value(kind, text, value, source):
    some = passages("It weighs 62 kilograms.", "The shop in Riga has one of 62 kg.")
    assert cited(Answer(text=text, value=value), some, kind).source == source


@pytest.mark.parametrize(
    ("title", "text", "shown"),
    [
        ("Kettle", "It boils.", "Kettle\nIt boils."),
        ("Kettle", "## Kettle\nIt boils.", "Kettle\nIt boils."),
        ("Kettle: Use", "# Kettle\n\n## Use #\n\nIt boils.", "Kettle: Use\nIt boils."),
        ("Kettle: Use", "# Care\n\n## Use\nIt boils.", "Kettle: Use\n# Care\n\n## Use\nIt boils."),
        ("Kettle", "# Kettle", "Kettle\n# Kettle"),
        ("Kettle", "#1 is the best", "Kettle\n#1 is the best"),
        ("", "# Kettle\nIt boils.", "# Kettle\nIt boils."),
    ],
)
def test_a_passage_is_shown_under_its_title_without_the_headings_in_it(title, text, shown):
    assert passage_text(Passage(id="a#1", title=title, text=text)) == shown
