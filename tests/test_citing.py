"""A System that looks up passages: what its prompts hold and what it cites. Others stay what they were."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from rung.answering import Answerer
from rung.cli.answers import as_json
from rung.errors import SystemFolderError, TaskError
from rung.evaluate import Bench, Store, answers_of
from rung.models.resolve import resolve
from rung.records import Answer, Example, Passage
from rung.search import PASSAGES_FILE, TERMS_FILE, PassageIndex, index_files, terms_of
from rung.ship.export import ExportOptions, export
from rung.spec import AnswerSpec, ModelRef, RetrievalSpec, ShotSpec, Spec
from rung.system import ADAPTER_GGUF, SHOTS_FILE, SPEC_FILE, VECTORS_FILE, Pool, System, ref_to, save
from rung.wording import with_passages
from tests.fixtures_climb import Log, make_tiny_gguf

REF = ModelRef(name="m", source="/a/m.gguf", digest="d", licence="mit")
BEFORE = {
    "811ab87091f3d820": Spec(
        rung="head", task="t", kind="label", labels=("a", "b"), engine="head", features="both", vectors=REF
    ),
    "16431816cef5aa4f": Spec(
        rung="few_shot",
        task="t",
        kind="text",
        engine="torch",
        model=REF,
        instruction="Do.",
        shots=ShotSpec(choice="nearest", k=4),
        vectors=REF,
    ),
    "1993f2bc2e2b2aa3": Spec(
        rung="prompt",
        task="t",
        kind="json",
        schema_={"properties": {"b": {}, "a": {}}},
        engine="llama",
        model=REF,
        answer=AnswerSpec(form="schema"),
        files={"x": "0"},
    ),
    "fcc73b14adb0d377": Spec(
        rung="sft",
        task="t",
        kind="label",
        labels=("a", "b"),
        engine="llama",
        model=REF,
        style="terse",
        answer=AnswerSpec(form="codes", codes=(1, 2)),
        files={"adapter.gguf": "1"},
    ),
}
"""Specs of Systems that were made before there were passages, with the digests that they had then."""
PASSAGES = (
    Passage(id="a.md#1", title="Lift", text="The lift goes to the third floor."),
    Passage(id="a.md#2", title="Keys", text="A lost key costs 20 euros."),
    Passage(id="b.md#1", title="", text="The key of the lift is red."),
    Passage(id="b.md#2", title="", text="Lunch is at noon."),
)
ROW = Example(id="1", input="Which key has the lift?", output="red", context="Asked by day.")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def pool():
    with Pool(threads=1, parallel=2) as found:
        yield found


def system(folder: Path, tiny: Path, k: int = 3, passages=PASSAGES, **changes) -> System:
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    spec = Spec(
        rung="retrieval",
        task="t",
        kind="text",
        engine="llama",
        model=ref_to(resolve(str(tiny)), str(tiny)),
        instruction="Answer.",
        retrieval=RetrievalSpec(search="bm25", k=k),
        answer=AnswerSpec(form="free", max_tokens=8),
    )
    return save(folder, spec.model_copy(update=changes), index_files(index, "bm25"))


@pytest.mark.parametrize("digest", BEFORE)
def test_systems_without_passages_keep_their_digest_and_their_file(digest, tmp_path):
    spec = BEFORE[digest]
    assert spec.digest == digest
    saved = save(tmp_path / "s", spec.model_copy(update={"files": {}}), {})
    assert "retrieval" not in json.loads((saved.folder / SPEC_FILE).read_text())
    assert System.load(saved.folder).digest == saved.digest


def test_a_system_with_passages_is_the_same_after_loading_and_its_digest_hangs_on_all_of_it(tiny, tmp_path):
    one = system(tmp_path / "a", tiny)
    again = System.load(one.folder)
    assert again.spec == one.spec and again.digest == one.digest
    others = [
        system(tmp_path / "b", tiny, k=2),
        system(tmp_path / "c", tiny, passages=PASSAGES[::-1]),
        system(tmp_path / "d", tiny, retrieval=RetrievalSpec(search="fused", k=3)),
        system(tmp_path / "e", tiny, retrieval=None),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    "fault", [{"search": "magic", "k": 1}, {"search": "bm25", "k": 0}, {"search": "bm25"}]
)
def test_a_search_that_is_none_is_refused(fault, tiny, tmp_path):
    path = system(tmp_path / "a", tiny).folder / SPEC_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "retrieval": fault}))
    with pytest.raises(SystemFolderError, match="retrieval"):
        System.load(path.parent)


def test_the_best_passages_come_before_the_rows_context_the_best_one_last(tiny, tmp_path, pool):
    one = system(tmp_path / "a", tiny)
    ((prompt, passages),) = one.prompted([ROW], pool)
    assert [passage.id for passage in passages] == ["b.md#1", "a.md#1", "a.md#2"]
    text = one.chat(pool).tokens.decode(list(prompt))
    told = (
        "Keys\nA lost key costs 20 euros.\n\nLift\nThe lift goes to the third floor.\n\n"
        "The key of the lift is red.\n\nAsked by day.\n\nWhich key has the lift?"
    )
    assert told in text
    assert one.prompts([ROW], pool) == [prompt]
    assert with_passages(ROW, ()) == ROW


def test_passages_that_make_a_prompt_too_long_are_left_out_worst_first_and_not_cited(tiny, tmp_path, pool):
    long = tuple(replace(one, text=f"{one.text} {'key ' * 40}") for one in PASSAGES[:3])
    one = system(tmp_path / "a", tiny, passages=long)
    limit = one.model(pool).context
    ((prompt, passages),) = one.prompted([ROW], pool)
    ranked = [passage.id for passage in one.find([ROW], pool)[0]]
    assert len(ranked) == 3 and 0 < len(passages) < 3
    assert [passage.id for passage in passages] == ranked[: len(passages)]
    assert len(prompt) + 8 <= limit
    more = with_passages(ROW, one.find([ROW], pool)[0][: len(passages) + 1])
    bare = system(tmp_path / "b", tiny, passages=long, retrieval=None)
    ((longer, _),) = bare.prompted([more], pool)
    assert len(longer) + 8 > limit
    (answer,) = one.answer([ROW], pool)
    assert answer.passages == tuple(passage.id for passage in passages)


def test_a_row_that_no_passage_is_found_for_is_asked_without_any(tiny, tmp_path, pool):
    one = system(tmp_path / "a", tiny)
    stranger = Example(id="2", input="Wohin?", output=None)
    ((prompt, passages),) = one.prompted([stranger], pool)
    bare = system(tmp_path / "b", tiny, retrieval=None)
    assert passages == () and bare.prompts([stranger], pool) == [prompt]
    assert one.answer([stranger], pool)[0].passages == ()


def test_an_answer_cites_the_passages_of_its_prompt_in_every_way_of_asking(tiny, tmp_path, pool):
    one = system(tmp_path / "a", tiny)
    answer = Answerer(System.load(one.folder), pool).ask(ROW.input)
    assert answer.passages == ("b.md#1", "a.md#1", "a.md#2")
    whole = json.loads(as_json(answer))
    assert whole["passages"] == ["b.md#1", "a.md#1", "a.md#2"] and whole["source"] is None
    assert "passages" not in json.loads(as_json(Answer(text="x")))
    told = json.loads(as_json(replace(answer, source="a.md#1")))
    assert told["source"] == "a.md#1"


def test_kept_answers_keep_their_passages_and_older_ones_are_read(tiny, tmp_path, pool):
    one = system(tmp_path / "a", tiny)
    bench = Bench(pool=pool, store=Store(tmp_path / "answers"), metric="exact")
    first, _ = answers_of(one, [ROW], bench)
    (kept,) = bench.store.load(one.digest).values()
    assert kept.answer == first[0] and kept.answer.passages
    bench.store.append("old", [(ROW, Answer(text="x", value="x"))], 1.0)
    text = (tmp_path / "answers" / "old.jsonl").read_text()
    assert "passages" not in text and "source" not in text
    assert bench.store.load("old")["1"].answer == Answer(text="x", value="x")


def test_systems_of_another_k_share_the_passages_in_memory_until_none_needs_them(tiny, tmp_path, pool):
    one, two = system(tmp_path / "a", tiny), system(tmp_path / "b", tiny, k=1)
    other = system(tmp_path / "c", tiny, passages=PASSAGES[:2])
    for each in (one, two, other):
        each.prompts([ROW], pool)
    assert len(pool.passages) == 2 and one.index_key == two.index_key
    pool.forget(one, beside=[two, other])
    assert len(pool.passages) == 2
    pool.forget(two, beside=[other])
    assert list(pool.passages) == [other.index_key]


def test_its_memory_holds_the_sentence_model_and_all_that_is_looked_up(tiny, tmp_path, pool):
    weights = tmp_path / "minilm" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(2**20))
    pool.embedder.model = replace(resolve(str(tiny)), gguf=None, folder=weights.parent)
    index = PassageIndex(
        passages=PASSAGES, terms=terms_of(PASSAGES), vectors=np.zeros((len(PASSAGES), 384), np.float32)
    )
    given = system(tmp_path / "given", tiny).spec
    bare = given.model_copy(update={"engine": "fake", "retrieval": None, "files": {}})
    spec = bare.model_copy(update={"vectors": REF})
    search = save(
        tmp_path / "search",
        spec.model_copy(update={"retrieval": RetrievalSpec(search="fused", k=1)}),
        index_files(index, "fused"),
    )
    near = save(
        tmp_path / "near",
        spec.model_copy(update={"shots": ShotSpec(choice="nearest", k=1)}),
        {SHOTS_FILE: "{}\n", VECTORS_FILE: bytes(5000)},
    )
    tuned = save(tmp_path / "tuned", bare, {ADAPTER_GGUF: bytes(9000)})
    own = save(tmp_path / "bare", bare, {}).memory_mb(pool)
    for one in (search, near):
        looked_up = sum((one.folder / name).stat().st_size for name in one.spec.files)
        assert one.memory_mb(pool) == pytest.approx(own + 1 + looked_up / 2**20)
    assert tuned.memory_mb(pool) == own, "the engine tells of its weights"


def test_a_system_whose_files_are_not_named_in_it_is_refused(tiny, tmp_path, pool):
    one = system(tmp_path / "a", tiny)
    path = one.folder / SPEC_FILE
    fields = json.loads(path.read_text())
    assert sorted(fields["files"]) == [PASSAGES_FILE, TERMS_FILE]
    del fields["files"][TERMS_FILE]
    path.write_text(json.dumps(fields))
    with pytest.raises(SystemFolderError, match=r"lacks 'terms.safetensors'; climb again"):
        System.load(one.folder).answer([ROW], pool)


def test_a_changed_passage_is_refused(tiny, tmp_path):
    one = system(tmp_path / "a", tiny)
    path = one.folder / PASSAGES_FILE
    path.write_text(path.read_text().replace("red", "blue"))
    with pytest.raises(SystemFolderError, match=r"passages\.jsonl' is missing or was changed"):
        System.load(one.folder)


def test_no_other_program_can_look_up_its_passages(tiny, tmp_path):
    one = system(tmp_path / "a", tiny)
    with pytest.raises(TaskError, match="its passages are looked up anew for each text"):
        export(one.folder, tmp_path / "out", ExportOptions(target="gguf"), Log())


def test_a_passage_is_kept_as_it_was(tiny, tmp_path):
    odd = Passage(id="ä\u2028#1", title='"', text="a\u2028b\x85c\n\nd")
    one = system(tmp_path / "a", tiny, passages=(odd,))
    (line,) = (one.folder / PASSAGES_FILE).read_bytes().split(b"\n")[:-1]
    assert Passage(**json.loads(line)) == odd and asdict(odd) == json.loads(line)
