"""A System that looks up passages, served: every way of asking tells which ones its prompt held."""

import asyncio

import pytest

from rung.answering import Answerer
from rung.records import Passage
from rung.search import PassageIndex, index_files, terms_of
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.spec import RetrievalSpec, StepsSpec
from rung.system import save
from tests.fixtures_climb import topic_passages
from tests.fixtures_serve import also, said

TEXT = "my invoice and the courier"
IDS = ["billing.md#1", "delivery.md#1"]
SCHEMA = {
    "type": "object",
    "properties": {"carrier": {"enum": ["courier"]}, "late": {"enum": [True]}},
    "required": ["carrier", "late"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory, tiny_systems):
    """The Systems for labels, for text and for JSON, with two passages by their words."""
    folder, passages = tmp_path_factory.mktemp("looked-up"), topic_passages()
    index = PassageIndex(passages=passages, terms=terms_of(passages), vectors=None)
    changes: dict[str, dict] = {"words": {}, "text": {}, "json": {"schema_": SCHEMA}}
    return {
        name: save(
            folder / name,
            tiny_systems[name].spec.model_copy(
                update={"retrieval": RetrievalSpec(search="bm25", k=2), **change}
            ),
            index_files(index, "bm25"),
        )
        for name, change in changes.items()
    }


@pytest.fixture(scope="module")
def cited(tiny, looked_up):
    """The server with those too, each under `cited-` and its name."""
    with also(tiny, {f"cited-{name}": system.folder for name, system in looked_up.items()}) as server:
        yield server


@pytest.mark.parametrize("name", ["words", "text", "json"])
def test_a_served_answer_is_the_systems_own_and_names_its_passages(name, cited, looked_up, pool):
    made = cited.user.chat.completions.create(model=f"cited-{name}", messages=said(TEXT))
    own = Answerer(looked_up[name], pool).ask(TEXT)
    choice = made.choices[0]
    # Half a character at the end is spelled once by a stream, and once for each byte by a whole answer.
    assert (choice.message.content or "").rstrip("�") == own.text.rstrip("�")
    assert made.usage is not None and made.usage.prompt_tokens == own.prompt_tokens
    assert sorted(own.passages) == IDS
    assert choice.model_extra == {"passages": list(own.passages), "source": own.source}


def test_json_names_the_passage_that_has_its_values_and_a_label_none(cited):
    made = cited.user.chat.completions.create(model="cited-json", messages=said(TEXT)).choices[0]
    assert (made.model_extra or {})["source"] == "delivery.md#1"
    chunks = list(cited.user.chat.completions.create(model="cited-json", messages=said(TEXT), stream=True))
    assert (chunks[-1].choices[0].model_extra or {})["source"] == "delivery.md#1"
    label = cited.user.chat.completions.create(model="cited-words", messages=said(TEXT)).choices[0]
    assert sorted((label.model_extra or {})["passages"]) == IDS
    assert (label.model_extra or {})["source"] is None


def test_a_stream_names_the_passages_in_its_last_chunk(cited):
    chunks = list(cited.user.chat.completions.create(model="cited-text", messages=said(TEXT), stream=True))
    told = [chunk.choices[0].model_extra or {} for chunk in chunks]
    assert chunks[-1].choices[0].finish_reason and sorted(told[-1]["passages"]) == IDS
    assert not any(told[:-1])


def test_texts_name_their_own_passages_and_a_text_without_any_none(cited):
    made = cited.user.completions.create(model="cited-text", prompt=["my parcel", "?!"])
    assert [choice.model_extra for choice in made.choices] == [
        {"passages": ["delivery.md#1"], "source": None},
        {},
    ]
    chunks = list(cited.user.completions.create(model="cited-text", prompt="my parcel", stream=True))
    assert (chunks[-1].choices[0].model_extra or {})["passages"] == ["delivery.md#1"]


def test_a_system_that_looks_up_nothing_answers_as_it_always_did(cited):
    choice = cited.user.chat.completions.create(model="text", messages=said(TEXT)).choices[0]
    assert not choice.model_extra


def test_passages_are_in_memory_as_long_as_a_system_that_is_served_looks_them_up(tmp_path, looked_up):
    words, text = looked_up["words"], looked_up["text"]
    passages = (*topic_passages(), Passage(id="more.md#1", title="more", text="More of it."))
    files = index_files(PassageIndex(passages=passages, terms=terms_of(passages), vectors=None), "bm25")
    anew = save(tmp_path / "anew", text.spec, files)
    steps = StepsSpec(kind="think", max_tokens=8, close="Now the answer.")
    thinks = save(tmp_path / "thinks", words.spec.model_copy(update={"steps": steps}), files)
    assert thinks.index_key == anew.index_key != text.index_key

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        held = systems.pool.passages
        await systems.add(str(text.folder), "one")
        await systems.add(str(words.folder), "two")
        assert held.keys() == {text.index_key}
        await systems.add(str(anew.folder), "one")
        assert held.keys() == {text.index_key, anew.index_key}, "`two` has the old ones"
        await systems.remove("two")
        assert held.keys() == {anew.index_key}
        await systems.add(str(thinks.folder), "thinks")
        await systems.remove("thinks")
        assert held.keys() == {anew.index_key} and not systems.pool.engines
        await systems.remove("one")
        assert not held
        await systems.close()

    asyncio.run(run())
