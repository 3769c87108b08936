"""On a task with documents: who is asked with the passages that were found, and what is told of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.answering import load
from rung.errors import TaskError
from rung.records import Answer
from rung.rungs import optimise, sft, workflow
from rung.rungs.api import Api, foretold_usd, prompting
from rung.rungs.base import Context
from rung.rungs.below import best_prompting
from rung.rungs.instructions import EXAMPLES_SHOW_IT, answer_spec, spec_for
from rung.rungs.reflect import _Search, reflector
from rung.rungs.retrieval import LOOK_THERE
from rung.rungs.sft import BARE, Sft, answer_forms
from rung.rungs.taught import inputs, teach
from rung.rungs.teacher import teacher_system
from rung.search import PassageIndex, index_files, index_names, terms_of
from rung.ship.export import ExportOptions, export
from rung.spec import RetrievalSpec, ShotSpec, Spec
from rung.system import SHOTS_FILE, System, save
from tests.fixtures_climb import (
    Log,
    json_rows,
    label_rows,
    make_tiny_gguf,
    number_rows,
    opened,
    write_rows,
)
from tests.fixtures_hosted import KEY, PRICES, Hosted, as_asked, beside, topic, unlabelled

READS = RetrievalSpec(search="bm25", k=2)
NO_GAIN = "retrieval was no better on dev than few_shot"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=2048)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    with Hosted(as_asked) as found:
        yield found


@pytest.fixture
def context(tiny, tmp_path, server) -> Iterator[Context]:
    """A task of labels with a hosted rival and teacher, and the System of retrieval below."""
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(100)), tmp_path) as found:
        found = beside(found, server, tmp_path, unlabelled(12))
        yield replace(found, built={"retrieval": reading(found, tmp_path / "reading")})


def reading(context: Context, folder: Path, **changes) -> System:
    """A System that looks up two passages by their words, as retrieval makes them."""
    index = PassageIndex(passages=context.passages, terms=terms_of(context.passages), vectors=None)
    answer = answer_spec(context, constrained=True)
    spec = spec_for(context, "retrieval", instruction=f"Name it. {LOOK_THERE}", answer=answer)
    spec = spec.model_copy(update={"retrieval": READS, **changes})
    return save(folder, spec, index_files(index, "bm25"))


def showing(context: Context, folder: Path) -> System:
    """A System that shows two worked examples, as few_shot makes them."""
    answer = answer_spec(context, constrained=True)
    spec = spec_for(context, "few_shot", instruction="By example.", answer=answer)
    spec = spec.model_copy(update={"shots": ShotSpec(choice="fixed", k=2)})
    shots = '{"input": "my invoice", "output": "billing"}\n{"input": "the parcel", "output": "delivery"}\n'
    return save(folder, spec, {SHOTS_FILE: shots})


def right(context: Context, system: System, rows: int) -> None:
    """So many dev answers of a System that are right are known, and the others are wrong."""
    given = [Answer(text="?", value=e.output if at < rows else None) for at, e in enumerate(context.dev)]
    context.bench.store.append(system.digest, list(zip(context.dev, given, strict=True)), 1.0)


def asked(server: Hosted) -> list[str]:
    """The questions that the server was sent, but for the one by which it was asked for its name."""
    return [body["messages"][-1]["content"] for body in server.seen[1:]]


def passage_of(question: str) -> str:
    """What the document on a question's topic says, as far as it's told from other text."""
    return f"that is {topic(question.split(chr(10))[-1])}, 5.5 or 12."


def test_retrieval_is_among_the_rungs_whose_prompt_may_be_the_best(context, tmp_path):
    few, reads = showing(context, tmp_path / "few"), context.built["retrieval"]
    both = replace(context, built={"few_shot": few, "retrieval": reads})
    right(both, few, 10)
    right(both, reads, 11)
    assert best_prompting(both) is reads
    assert best_prompting(both, ("prompt", "few_shot")) is few


def test_the_hosted_rival_reads_what_a_local_model_reads_cites_it_and_is_paid_for_it(context, server):
    made = Api().build(context)
    assert len(asked(server)) == len(context.dev)
    assert all(passage_of(question) in question for question in asked(server))
    local = context.built["retrieval"]
    told = [local.chat(context.pool).tokens.decode(list(p)) for p in local.prompts(context.dev, context.pool)]
    assert all(any(question in text for text in told) for question in asked(server)), "word for word"
    answers = made.system.answer(context.dev, context.pool)
    found = [tuple(one.id for one in some) for some in local.find(context.dev, context.pool)]
    assert all(found) and [answer.passages for answer in answers] == found
    assert made.upon == "retrieval" and made.what.endswith("the prompt of retrieval, 2 passages, bm25")
    assert not any("without passages" in note for note in made.notes)


def test_what_the_passages_cost_is_foretold(context, tmp_path):
    bare = save(tmp_path / "bare", context.built["retrieval"].spec.model_copy(update={"retrieval": None}), {})
    price = PRICES.per_token
    with_them = foretold_usd(context, price, prompting(context))
    without = foretold_usd(context, price, prompting(replace(context, built={"retrieval": bare})))
    rows = context.dev[:20]
    prompts = context.built["retrieval"].prompts(rows, context.pool), bare.prompts(rows, context.pool)
    more = (sum(map(len, prompts[0])) - sum(map(len, prompts[1]))) / len(rows)
    assert more > 20 and with_them - without == pytest.approx(more * price.input_usd_per_m / 1e6)


def test_a_hosted_system_holds_the_index_is_loaded_with_it_and_cannot_be_exported(context, server, tmp_path):
    made = Api().build(context)
    assert set(index_names("bm25")) == made.system.spec.files.keys()
    assert System.load(made.system.folder).spec.retrieval == READS
    with load(made.system.folder) as ask:
        answer = ask.ask("my invoice please")
    assert answer.value == "billing" and answer.passages == ("billing.md#1",)
    assert "that is billing" in server.seen[-1]["messages"][-1]["content"]
    with pytest.raises(TaskError, match="'endpoint' has no weights here"):
        export(made.system.folder, tmp_path / "out", ExportOptions(target="gguf"), Log())


def test_where_a_tune_may_read_passages_its_rival_has_them_beside_the_best_prompt(context, server, tmp_path):
    few, reads = showing(context, tmp_path / "few"), context.built["retrieval"]
    both = replace(context, built={"few_shot": few, "retrieval": reads}, no_gain=NO_GAIN)
    right(both, few, 12)
    right(both, reads, 11)
    closed = prompting(both)
    assert closed.retrieval is None and closed.system is few
    made = Api().build(replace(both, retrieval=reads))
    assert made.system.spec.shots.k == 2 and made.system.spec.retrieval == READS
    assert str(made.system.spec.instruction).startswith(f"By example. {LOOK_THERE}")
    assert [len(body["messages"]) for body in server.seen[1:]] == [6] * len(context.dev)
    assert all(passage_of(question) in question for question in asked(server))


def test_a_rival_that_is_asked_without_the_documents_is_said_to_be(context, tmp_path):
    few = showing(context, tmp_path / "few")
    made = Api().build(replace(context, built={"few_shot": few}, no_gain=NO_GAIN))
    assert f"without passages of the documents: {NO_GAIN}" in made.notes


def test_a_hosted_teacher_is_asked_with_the_passages(context, server):
    teacher = teacher_system(context, server.name)
    found = teach(context, teacher, inputs(context))
    assert found.asked == 12 and found.rows
    assert len(asked(server)) >= 12 and all(passage_of(question) in question for question in asked(server))


def test_a_local_teacher_is_asked_with_them_too(context, tiny):
    teacher = teacher_system(context, str(tiny))
    assert teacher.spec.retrieval == READS
    prompts = teacher.prompts(context.unlabelled, context.pool)
    decoded = [teacher.chat(context.pool).tokens.decode(list(prompt)) for prompt in prompts]
    told = zip(decoded, context.unlabelled, strict=True)
    assert all(passage_of(e.input) in text for text, e in told)


def test_every_call_of_a_workflow_reads_the_passages_and_its_answer_names_them(tiny, tmp_path, monkeypatch):
    with opened(tiny, write_rows(tmp_path / "numbers.jsonl", number_rows(60)), tmp_path) as found:
        context = replace(found, built={"retrieval": reading(found, tmp_path / "reading")})
        variants, notes = workflow._variants(context)
        assert notes[0].startswith("asked several times: the System of retrieval")
        (system,) = [one.system for one in variants if one.name == "draft, check, repair"]
        engine, chat, pool = system.open(context.pool), system.chat(context.pool), context.pool
        calls: list[list[str]] = []
        generate = engine.generate

        def heard(requests, **options):
            calls.append([chat.tokens.decode(list(request.prompt)) for request in requests])
            return generate(requests, **options)

        monkeypatch.setattr(engine, "generate", heard)
        rows = context.dev[:6]
        answers = system.answer(rows, pool)
    drafts, repairs = calls
    assert len(drafts) == len(rows) and repairs and all("That can't be used" in text for text in repairs)
    assert all(", 5.5 or 12." in text for text in (*drafts, *repairs))
    assert all(answer.passages for answer in answers)
    assert all(answer.source in (None, *answer.passages) for answer in answers)


def test_the_search_for_a_prompt_tries_the_passages_under_other_instructions(context):
    found, _ = optimise._drawn(context)
    read = [one for one in found if one.system.spec.retrieval == READS]
    assert len(found) == len({one.name for one in found}) == optimise.CANDIDATES and found[1] is read[0]
    told = [str(one.system.spec.instruction) for one in read]
    assert len(set(told)) == len(told) >= 3
    assert all(text.endswith(LOOK_THERE) and EXAMPLES_SHOW_IT not in text for text in told)
    below = context.built["retrieval"].spec
    assert all(one.system.spec.engine == below.engine for one in read)
    assert all(one.system.spec.files == below.files and one.system.spec.rung == "optimise" for one in read)


def test_the_search_for_a_prompt_reads_nothing_where_examples_did_as_well(context, tmp_path):
    few, reads = showing(context, tmp_path / "few"), context.built["retrieval"]
    both = replace(context, built={"few_shot": few, "retrieval": reads})
    right(both, few, 11)
    right(both, reads, 11)
    assert not [one for one in optimise._drawn(both)[0] if one.system.spec.retrieval is not None]


def test_a_model_that_reflects_begins_with_the_passages_and_is_shown_those_of_each_answer(context):
    start = optimise._start(context)
    assert start.spec.retrieval == READS and start.spec.rung == "optimise"
    model = reflector(context)
    assert model is not None
    search, row = _Search(context, start, model), context.train[0]
    read, bare = Answer(text="x", value="x", passages=("login.md#1",)), Answer(text="x", value="x")
    batch: Any = SimpleNamespace(trajectories=[(row, read, 0.0), (row, bare, 0.0)])
    with_parts, without = search.make_reflective_dataset({}, batch, ["instruction"])["instruction"]
    assert "that is login" in with_parts["Parts of documents"] and row.input in with_parts["Input"]
    assert "Parts of documents" not in without


def test_dev_chooses_whether_a_tune_reads_where_passages_gained_nothing_but_facts_are_lacking(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "rows.jsonl", json_rows(80)), tmp_path) as context:
        reads = reading(context, tmp_path / "reading")
        (form, spec), *others = answer_forms(replace(context, retrieval=reads)).items()
        assert spec.retrieval == READS and not others
        both = answer_forms(replace(context, retrieval=reads, no_gain=NO_GAIN))
        assert both == {form: spec, f"{form} {BARE}": spec.model_copy(update={"retrieval": None})}
        (closed,) = answer_forms(replace(context, no_gain=NO_GAIN)).values()
        assert closed.retrieval is None


def outcome(form: str, *trials: str) -> Any:
    return SimpleNamespace(form=form, trials=[SimpleNamespace(name=name) for name in trials])


def test_a_tune_says_whether_and_why_it_reads_the_documents(context):
    reads = context.built["retrieval"]
    assert sft._on_passages(context, outcome("words")) == ()
    assert sft._on_passages(replace(context, retrieval=reads), outcome("words")) == ()
    lacking = replace(context, no_gain=NO_GAIN)
    assert sft._on_passages(lacking, outcome("words")) == (f"without passages of the documents: {NO_GAIN}",)
    chosen, bare = replace(lacking, retrieval=reads), f"schema {BARE}"
    tried = ("schema, rate 0.002, 40 steps (loss 1.000)", f"{bare}, rate 0.002, 40 steps (loss 1.000)")
    why = f"passages of the documents: {NO_GAIN}, but the oracle test found a knowledge gap"
    assert sft._on_passages(chosen, outcome(bare, *tried)) == (
        f"without {why}, so dev chose between the two",
    )
    assert sft._on_passages(chosen, outcome("schema", *tried)) == (
        f"with {why}, so dev chose between the two",
    )
    assert sft._on_passages(chosen, outcome("schema", tried[0])) == (
        f"with {why}, and the tune wasn't tried without them",
    )


def test_a_tune_that_dev_chose_is_the_one_that_it_says(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("rung.rungs.length.FEWEST_TRIAL_STEPS", 8)
    monkeypatch.setattr("rung.rungs.length.MOST_EVALUATIONS", 2)
    monkeypatch.setattr("rung.rungs.tuning.MOST_EPOCHS", 6)
    with opened(tiny, write_rows(tmp_path / "rows.jsonl", json_rows(160)), tmp_path) as found:
        context = replace(found, dev=found.dev[:12])
        reads = reading(context, tmp_path / "reading")
        made = Sft().build(replace(context, retrieval=reads, no_gain=NO_GAIN))
        answers = System.load(made.system.folder).answer(context.dev[:4], context.pool)
    spec: Spec = made.system.spec
    tried = {trial.name.split(", rate")[0] for trial in made.trials if ", rate" in trial.name}
    assert tried == {"schema", f"schema {BARE}"}
    reads_on = spec.retrieval is not None
    which = "with" if reads_on else "without"
    assert made.notes[0].startswith(f"{which} passages of the documents: {NO_GAIN}")
    assert made.upon == ("retrieval" if reads_on else None)
    assert all(bool(answer.passages) == reads_on for answer in answers)
