import time
from dataclasses import replace
from pathlib import Path

import pytest

from rung.evaluate import Bench, Store
from rung.models.resolve import resolve
from rung.records import Answer, Example, Passage
from rung.rungs.base import Context
from rung.rungs.recall import (
    FEWEST_ORACLE_ROWS,
    KNOWLEDGE_GAIN,
    Found,
    oracle_pairs,
    oracle_test,
    recall_notes,
)
from rung.rungs.retrieval import _best_search
from rung.search import PassageIndex, answer_parts
from rung.spec import AnswerSpec, Spec
from rung.system import Pool
from rung.task import DataFiles, Output, Task
from tests.fixtures_climb import Log, make_tiny_gguf

COLOURS = ("red", "blue", "green", "grey")
PASSAGES = tuple(Passage(id=f"a.md#{i}", title="", text=f"It is {c}.") for i, c in enumerate(COLOURS))
ROWS = tuple(Example(id=f"{i:02d}", input=f"q{i}", output=COLOURS[i % 4]) for i in range(24))
SPEC = Spec(
    rung="retrieval", task="t", kind="text", engine="fake", answer=AnswerSpec(form="free", max_tokens=8)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return resolve(str(make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")))


@pytest.fixture
def context(tiny, tmp_path) -> Context:
    return Context(
        task=Task(data=DataFiles(train=Path("t")), output=Output(kind="text")),
        train=ROWS[:4],
        dev=ROWS,
        model=tiny,
        folder=tmp_path / "rung",
        bench=Bench(pool=Pool(), store=Store(tmp_path / "answers"), metric="exact"),
        reporter=Log(),
        deadline=time.monotonic() + 600,
        seed=0,
    )


def found(context: Context, bm25, fused=None, rows=ROWS) -> Found:
    """`bm25[row]` and `fused[row]` are the ranked places; dense finds nothing."""
    index = PassageIndex(passages=PASSAGES, terms=None, vectors=None)
    ranked = {"bm25": bm25, "dense": [[] for _ in rows], "fused": fused or bm25}
    return Found(context, rows, index, ranked)  # type: ignore[arg-type]


def ranks(place_of_right: int) -> list[list[int]]:
    """Rankings in which the right passage stands at a place, from 0."""
    made = []
    for i in range(len(ROWS)):
        others = [c for c in range(4) if c != i % 4]
        made.append([*others[:place_of_right], i % 4, *others[place_of_right:]])
    return made


class Reader:
    """What a System is to the bench. It answers with the colour that it reads, else with one word."""

    def __init__(self, *, reads: bool):
        self.reads, self.digest, self.spec = reads, "reads" if reads else "doesn't", SPEC

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        texts = [next((c for c in COLOURS if self.reads and c in (e.context or "")), "red") for e in examples]
        return [Answer(text=text, value=text) for text in texts]


@pytest.mark.parametrize(("place", "k", "share"), [(0, 1, 1.0), (2, 1, 0.0), (2, 2, 0.0), (2, 3, 1.0)])
def test_recall_is_the_share_of_rows_whose_answer_is_among_the_first_passages(place, k, share, context):
    assert found(context, ranks(place)).recall("bm25", k) == share
    assert found(context, ranks(place)).recall("dense", k) == 0.0


def test_recall_counts_rows_and_leaves_out_those_whose_answer_could_stand_nowhere(context):
    mixed = [ranking if i < 6 else ranking[::-1] for i, ranking in enumerate(ranks(0))]
    assert found(context, mixed).recall("bm25", 1) == 6 / 24
    rows = (*ROWS[:2], replace(ROWS[2], output=True), replace(ROWS[3], output={"a": None, "b": []}))
    json_task = replace(context, task=Task(data=DataFiles(train=Path("t")), output=Output(kind="json")))
    some = found(json_task, [[0], [0], [0], [0]], rows=rows)
    assert some.asked == [0, 1] and some.recall("bm25", 1) == 0.5


@pytest.mark.parametrize(
    ("kind", "output", "parts"),
    [
        ("text", "At noon", ("At noon",)),
        ("number", 12.0, ("12",)),
        ("number", 2.5, ("2.5",)),
        ("label", "billing", ()),
        ("json", {"a": "x", "b": [1, {"c": 2.5}], "d": True, "e": None, "f": " "}, ("x", "1", "2.5")),
    ],
)
def test_the_parts_of_an_answer_that_could_stand_in_a_passage(kind, output, parts):
    assert answer_parts(output, kind) == parts


def test_every_part_of_an_answer_has_to_stand_in_the_passages_and_the_right_one_holds_all(context):
    rows = (Example(id="1", input="q", output=["red", "blue"]),)
    made = replace(context, task=Task(data=DataFiles(train=Path("t")), output=Output(kind="json")))
    some = found(made, [[0, 1, 2]], rows=rows)
    assert (some.recall("bm25", 1), some.recall("bm25", 2)) == (0.0, 1.0)
    assert some.gold(0) is None
    both = replace(PASSAGES[2], text="blue and red")
    index = PassageIndex(passages=(*PASSAGES[:2], both), terms=None, vectors=None)
    assert replace(some, index=index).gold(0) == both


def test_the_right_passage_is_the_best_ranked_one_that_holds_the_answer(context):
    twice = (*PASSAGES, Passage(id="b.md#1", title="", text="Red it is."))
    some = replace(found(context, [[3, 4, 0]] * 24), index=PassageIndex(twice, None, None))
    assert some.gold(0) == twice[4]
    assert [row.id for row, _ in some.answerable] == [r.id for r in ROWS if r.output in ("red", "grey")]
    out = replace(some, context=replace(context, too_long=frozenset({"00"})))
    assert [row.id for row, _ in out.answerable][0] == "03"


def test_a_low_recall_is_called_what_limits_and_a_high_one_is_not(context):
    (told,) = recall_notes(found(context, ranks(2)))
    assert told == (
        "recall@1/3/5/8 (the answers to 24 of 24 dev rows stand word for word in the documents): "
        "bm25 .000 / 1.000 / 1.000 / 1.000, dense .000 / .000 / .000 / .000, "
        "fused .000 / 1.000 / 1.000 / 1.000"
    )
    low = [ranking if i < 16 else [] for i, ranking in enumerate(ranks(0))]
    assert (
        "search, not the model, is what limits: recall@5 is .667 at best"
        in recall_notes(found(context, low))[1]
    )
    high = [ranking if i < 17 else [] for i, ranking in enumerate(ranks(0))]
    assert len(recall_notes(found(context, high))) == 1


def test_answers_in_other_words_than_the_documents_do_not_speak_against_a_search(context):
    worded = tuple(replace(e, output=f"It must be {e.output}") if i < 4 else e for i, e in enumerate(ROWS))
    some = found(context, ranks(0), rows=worded)
    assert len(some.standing) == 20 and some.tells and some.recall("bm25", 1) == 1.0
    (told,) = recall_notes(some)
    assert "the answers to 20 of 24 dev rows stand word for word in the documents" in told
    fewer = tuple(replace(e, output=f"It must be {e.output}") if i < 5 else e for i, e in enumerate(ROWS))
    few = found(context, ranks(0), rows=fewer)
    assert not few.tells and recall_notes(few) == [
        "no recall is told: the answers to 19 of 24 dev rows stand word for word in the documents, "
        "and 20 are needed to judge a search by"
    ]
    assert _best_search(few, 8) == "fused" and _best_search(some, 8) == "bm25"


def test_an_answer_stands_there_whether_or_not_a_search_finds_it(context):
    assert len(found(context, [[] for _ in ROWS]).standing) == 24
    outputs = (["red", "blue"], ["red", "x"])
    rows = tuple(Example(id=str(i), input="q", output=output) for i, output in enumerate(outputs))
    made = replace(context, task=Task(data=DataFiles(train=Path("t")), output=Output(kind="json")))
    assert found(made, [[], []], rows=rows).standing == [0], "its parts may stand in two passages"


def test_where_the_right_passage_helps_it_is_a_knowledge_gap_and_else_one_of_behaviour(context):
    some = found(context, ranks(0))
    told, gap = oracle_test(context, some, Reader(reads=True), 20)  # type: ignore[arg-type]
    assert told == (
        "oracle test on 20 rows: 1.000 with the right passage in the prompt, .250 without any: "
        "a knowledge gap, which documents can close"
    )
    assert gap == "knowledge"
    fresh = replace(context, folder=context.folder / "other")
    told, gap = oracle_test(fresh, some, Reader(reads=False), 20)  # type: ignore[arg-type]
    assert told.startswith("oracle test on 20 rows: .250 with the right passage in the prompt, .250 without")
    assert told.endswith("a behaviour gap: documents don't help, a better prompt or a tune may")
    assert gap == "behaviour"
    assert KNOWLEDGE_GAIN == 0.05


def test_the_oracle_test_is_settled_once_and_its_answers_are_kept(context):
    some, reader = found(context, ranks(0)), Reader(reads=True)
    first = oracle_test(context, some, reader, 20)  # type: ignore[arg-type]
    assert len(context.bench.store.load("reads")) == 40
    assert oracle_test(context, some, Reader(reads=False), 20) == first  # type: ignore[arg-type]
    assert not context.bench.store.load("doesn't")


def test_an_oracle_test_that_cannot_be_made_says_why(context):
    some = found(context, [[] for _ in ROWS])
    told, gap = oracle_test(context, some, Reader(reads=True), 0)  # type: ignore[arg-type]
    assert told == (
        f"no oracle test: the answers to 0 of 24 dev rows stand in a passage, and at least "
        f"{FEWEST_ORACLE_ROWS} have to be asked in time"
    )
    assert gap is None
    labels = replace(context, task=Task(data=DataFiles(train=Path("t")), output=Output(kind="label")))
    none = found(labels, [[] for _ in ROWS])
    assert "of a label nobody can tell" in oracle_test(labels, none, None, 0)[0]  # type: ignore[arg-type]
    assert "a label isn't looked for" in recall_notes(none)[0]


@pytest.mark.parametrize("kind", ["json", "tool_call"])
def test_of_answers_without_text_or_numbers_no_label_is_spoken_of(kind, context):
    rows = tuple(replace(row, output={"covered": True} if kind == "json" else []) for row in ROWS)
    made = replace(context, task=Task(data=DataFiles(train=Path("t")), output=Output(kind=kind)))
    none = found(made, [[] for _ in rows], rows=rows)
    why = "the answers hold no text or number that could stand in a passage"
    assert recall_notes(none) == [f"no recall is told: {why}"]
    assert oracle_test(made, none, Reader(reads=True), 0) == (  # type: ignore[arg-type]
        f"no oracle test: {why}",
        None,
    )


def test_rows_that_are_too_long_with_their_passage_are_no_wrong_answers(context):
    some, reader = found(context, ranks(0)), Reader(reads=True)
    long = replace(PASSAGES[0], text=f"It is red.{' please' * context.limit}")
    some = replace(some, index=PassageIndex((long, *PASSAGES[1:]), None, None))
    assert len(some.answerable) == 24, "each of them fits alone"
    pairs, left_out = oracle_pairs(context, some, SPEC)
    assert left_out == 6 and [row.id for row, _ in pairs] == [r.id for r in ROWS if r.output != "red"]
    said = "(6 that are too long with their passage left out)"
    told, _ = oracle_test(context, some, reader, 18)  # type: ignore[arg-type]
    assert told.startswith(f"oracle test on 18 rows {said}: 1.000 with the right passage")
    asked = context.bench.store.load(reader.digest)
    assert len(asked) == 36 and not any("a.md#0" in id or id == "00" for id in asked)
    told, _ = oracle_test(context, some, reader, 0)  # type: ignore[arg-type]
    assert f"24 of 24 dev rows stand in a passage {said}, and at least 20" in told
