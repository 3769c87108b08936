"""A hosted model that is asked for calls: by its own function calls or for JSON, whichever dev prefers."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import pytest

from rung.engines.till import Till
from rung.errors import EngineError
from rung.evaluate import timed
from rung.hosted import hosted_ref
from rung.models.hosted import hosted
from rung.records import Example
from rung.rungs.api import NOT_TAKEN, Api, hosted_system, prompting, rival_of
from rung.rungs.called import MOST_FAULTS, NAMING_ROWS, NOTHING_OFFERED, SAID, TAUGHT_ROWS, WAY_ROWS
from rung.rungs.teacher import TEACHER, drawn, teacher_system
from rung.rungs.teaching_money import least_usd
from rung.search import PassageIndex, index_files, terms_of
from rung.spec import AnswerSpec, RetrievalSpec, ShotSpec, Spec
from rung.system import SHOTS_FILE, Pool, System, save
from rung.task.calls import FUNCTIONS
from tests.fixtures_called import FIND, SENT, Caller, find_rows, finding, found, nothing
from tests.fixtures_climb import make_tiny_gguf, opened, topic_passages, write_rows
from tests.fixtures_hosted import KEY, MODEL, PRICES, beside, topic

REFUSED = (400, {"error": {"message": "oracle does not support tools"}}, {})
TRIES = 5
"""Of a call, before it is a row's fault."""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("RUNG_API_KEY", KEY)
    monkeypatch.setattr("rung.engines.endpoint.BACKOFF_S", 0.001)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """With room for prompts that hold functions."""
    return make_tiny_gguf(tmp_path_factory.mktemp("roomy") / "tiny.gguf", context=2048)


@pytest.fixture
def server():
    with Caller() as made:
        yield made


@contextmanager
def begun(roomy, folder, server):
    rows = write_rows(folder / "calls.jsonl", find_rows(200))
    with opened(roomy, rows, folder) as context:
        yield beside(context, server, folder)


@pytest.fixture
def context(roomy, tmp_path, server):
    with begun(roomy, tmp_path, server) as made:
        assert len(made.dev) == 40 > WAY_ROWS
        yield made


def in_json(text: str, body: dict) -> str:
    """The right answer as JSON text."""
    last = text.split("\n\n")[-1]
    calls = [{"name": "desk.find", "arguments": {"topic": topic(text)}}]
    return json.dumps([] if last.startswith("thank you") else calls)


def built(context) -> tuple[System, float, tuple[str, ...]]:
    with context.paying():
        assert Api().outlook(context) is not None
        made = Api().build(context)
    return made.system, context.measure(made.system, context.dev, "again").score, made.notes


def test_a_model_that_is_better_with_its_own_calls_is_asked_for_these(context, server):
    system, score, notes = built(context)
    assert (system.spec.answer.written, system.spec.answer.form, score) == ("tools", "free", 1.0)
    assert f"prompt: the plain instruction, {SAID['tools']}" in notes
    sent = server.native()[-1]
    assert [tool["function"]["name"] for tool in sent["tools"]] == [SENT]
    assert all("JSON" not in str(turn["content"]) for turn in sent["messages"])
    # In JSON, too, on the first rows alone; and one row more, which tells the model's name.
    assert (len(server.native()), len(server.plain())) == (len(context.dev), WAY_ROWS)


def test_one_that_is_better_in_json_or_passes_tools_over_is_asked_for_json(context, server):
    server.calls, server.says = nothing, in_json
    system, score, notes = built(context)
    assert (system.spec.answer.written, score) == ("json", 1.0)
    assert f"prompt: the plain instruction, {SAID['json']}" in notes and NOT_TAKEN not in str(notes)
    assert (len(server.native()), len(server.plain())) == (WAY_ROWS, len(context.dev))


def test_where_both_are_as_good_its_own_calls_are_taken(context, server):
    server.says = in_json
    system, score, _ = built(context)
    assert (system.spec.answer.written, score) == ("tools", 1.0)


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_server_that_takes_no_tools_is_asked_for_json_and_the_notes_say_why(status, context, server):
    refusal = {"error": {"message": "tools are not supported here"}}
    server.refusal, server.says = (status, refusal, {}), in_json
    system, score, notes = built(context)
    assert (system.spec.answer.written, score) == ("json", 1.0)
    (note,) = (note for note in notes if NOT_TAKEN in note)
    assert f"status {status}: " in note and "tools are not supported here" in note
    assert (len(server.native()), len(server.plain())) == (NAMING_ROWS, len(context.dev))
    assert Api().build(context).notes == notes and len(server.native()) == NAMING_ROWS


def test_a_server_that_is_gone_for_a_while_is_not_taken_to_refuse_tools(context, server):
    server.refusal = (503, {"error": {"message": "busy"}}, {})
    with pytest.raises(EngineError, match="503"):
        Api().build(context)
    assert len(server.native()) == MOST_FAULTS * TRIES, "the first two rows tell"
    server.refusal = None
    assert Api().build(context).system.spec.answer.written == "tools"


def test_a_fault_of_one_row_alone_ends_no_rung(context, server):
    first = context.dev[0].input
    fault = (500, {"error": {"message": "no grammar could be made"}}, {})
    server.whole = lambda body: (
        fault
        if "tools" in body and body["messages"][-1]["content"] == first
        else (200, server.completion(body), {})
    )
    made = Api().build(context)
    assert made.system.spec.answer.written == "tools"
    found = context.measure(made.system, context.dev, "again")
    assert (found.failures, found.n) == (1, len(context.dev) - 1)


def test_where_no_dev_row_offers_functions_none_are_sent_and_json_is_asked_for(context, server):
    context = replace(context, dev=tuple(replace(e, context=None, output=[]) for e in context.dev))
    system, score, notes = built(context)
    assert (system.spec.answer.written, score, server.native()) == ("json", 1.0, [])
    (note,) = (note for note in notes if NOT_TAKEN in note)
    assert NOTHING_OFFERED in note


NOWHERE = [
    "Not Found",
    {"error": {"message": "No endpoints found that support the provided 'tool_choice' value", "code": 404}},
    {"error": {"message": "Function calling isn't supported by this model"}},
]


def named_before(context) -> None:
    """What a killed climb leaves: its model has a name, and was asked for no calls; the next one begins."""
    hosted_system(context, rival_of(context.task), prompting(context), Api.name, "tools")
    context.pool.close()


@pytest.mark.parametrize("said", NOWHERE)
def test_a_404_that_refuses_tools_is_one_though_a_new_process_hears_it_first(said, context, server):
    server.refusal, server.says = (404, said, {}), in_json
    named_before(context)
    system, score, notes = built(context)
    assert (system.spec.answer.written, score) == ("json", 1.0)
    assert any(NOT_TAKEN in note and "status 404" in note for note in notes)
    assert NAMING_ROWS <= len(server.native()) <= NAMING_ROWS + 1
    assert len(server.plain()) == len(context.dev), "none is asked twice"


def test_a_model_that_is_gone_when_a_climb_goes_on_has_refused_nothing(context, server):
    named_before(context)
    server.whole = lambda body: (404, "Not Found", {})
    with pytest.raises(EngineError, match="is not there: check .*Not Found"):
        Api().build(context)
    server.whole = None
    assert built(context)[0].spec.answer.written == "tools"


@pytest.mark.parametrize("way", ["tools", "json"])
def test_a_model_that_vanishes_amid_the_dev_rows_ends_the_rung_in_one_line(way, context, server):
    if way == "json":
        server.calls, server.says = nothing, in_json
    gone = (404, {"error": {"message": "The model `oracle` does not exist"}}, {})
    server.whole = lambda body: (
        gone if len(server.seen) > 2 * WAY_ROWS + 3 else (200, server.completion(body), {})
    )
    with pytest.raises(EngineError) as ended:
        Api().build(context)
    place = "127.0.0.1/v1/chat/completions (oracle)"
    said = f"is not there: check the URL and the model's name (status 404: {json.dumps(gone[1])})"
    assert str(ended.value) == f"{place} {said}"
    context.pool.close()
    with pytest.raises(EngineError, match="is not there"):
        Api().build(context)
    server.whole = None
    made = Api().build(context)
    assert made.system.spec.answer.written == way
    assert context.measure(made.system, context.dev, "again").score == 1.0


def test_rows_that_offer_nothing_cost_nothing_by_tools_and_count_as_calling_nothing(context, server):
    bare = {e.id: replace(e, context=None, output=[]) for e in context.dev[::4]}
    context = replace(context, dev=tuple(bare.get(e.id, e) for e in context.dev))
    system, score, _ = built(context)
    assert (system.spec.answer.written, score) == ("tools", 1.0)
    assert len(server.native()) == len(context.dev) - len(bare)
    measured = context.measure(system, context.dev, "again")
    times = timed(measured, system, context.dev, context.bench)
    asked_s = [p.answer.latency_s for p in measured.predictions if p.answer.prompt_tokens]
    assert len(asked_s) == len(context.dev) - len(bare) and times.p50_s == median(asked_s) > 0
    later = again(context, context.pool.till.spent_usd)
    asked = len(server.seen)
    assert Api().skip(later) is None, "nothing of them is to be paid yet"
    built(later)
    assert len(server.seen) == asked


def again(context, cap_usd: float):
    """The context as under a longer budget: nothing is settled, and under another cap."""
    shutil.rmtree(context.folder)
    context.pool.close()
    context.pool.till = Till(context.pool.till.path, cap_usd, context.pool.till.prices)
    return replace(context, bench=replace(context.bench, store=type(context.bench.store)(context.work / "a")))


def test_what_is_to_be_paid_is_foretold_with_both_ways_and_nothing_is_paid_twice(context, server):
    cost = Api().usd_per_1000(context) / 1000
    rows = 2 * WAY_ROWS + len(context.dev) - WAY_ROWS
    context.pool.till = Till(context.pool.till.path, (rows - 1) * cost, context.pool.till.prices)
    assert f"would cost about ${rows * cost:.4f} more" in Api().skip(context)
    context.pool.till = Till(context.pool.till.path, 1.0, context.pool.till.prices)
    assert Api().skip(context) is None
    system, _, _ = built(context)
    (line,) = (line for line in context.reporter.lines if line.startswith("api: about $"))
    assert f" for {rows} answers of oracle" in line
    spent, count = context.pool.till.spent_usd, len(server.seen)
    later = again(context, spent)
    assert Api().skip(later) is None
    with later.paying():
        assert Api().build(later).system.digest == system.digest
    assert (len(server.seen), later.pool.till.spent_usd) == (count, spent)


def test_answers_in_json_that_were_paid_for_before_are_found(context, server):
    server.refusal, server.says = REFUSED, in_json
    built(context)
    spent, count = context.pool.till.spent_usd, len(server.plain())
    later = again(context, spent)
    assert Api().skip(later) is None, "nothing more is foretold"
    asked = len(server.seen)
    system, _, notes = built(later)
    assert system.spec.answer.written == "json" and len(server.seen) == asked
    assert any(NOT_TAKEN in note and "raise --api-usd" in note for note in notes)
    server.refusal = None
    later = again(later, 3 * spent)
    with later.paying():
        system = Api().build(later).system
    assert system.spec.answer.written == "tools" and len(server.plain()) == count
    assert len(server.native()) == NAMING_ROWS + len(context.dev)


def test_the_cap_holds_for_both_ways_together(context, server):
    least = Api().usd_per_1000(context) / 1000
    context.pool.till = Till(context.pool.till.path, 20 * least, context.pool.till.prices)
    with pytest.raises(EngineError, match="could pass the cap of .*raise --api-usd"), context.paying():
        Api().build(context)
    assert context.pool.till.spent_usd <= 20 * least


def test_what_an_earlier_version_began_in_json_goes_on_so(context, server):
    server.says = in_json
    model, given = rival_of(context.task), prompting(context)
    for rung in (Api.name, TEACHER):
        hosted_system(context, model, given, rung)
    assert Api().skip(context) is None
    assert built(context)[0].spec.answer.written == "json"
    assert teacher_system(context, server.name).spec.answer.written == "json"
    assert server.native() == [] and len(server.plain()) == len(context.dev)


def test_a_teacher_is_asked_in_the_way_that_is_ahead_on_a_few_dev_rows(context, server):
    model = rival_of(context.task)
    assert least_usd(context, model, context.dev[:3], ()) == pytest.approx(
        6 * Api().usd_per_1000(context) / 1000
    )
    assert least_usd(context, model, (), context.dev) == pytest.approx(
        (len(context.dev) + TAUGHT_ROWS) * Api().usd_per_1000(context) / 1000
    )
    teacher = teacher_system(context, server.name)
    assert teacher.spec.answer.written == "tools"
    assert (len(server.native()), len(server.plain())) == (TAUGHT_ROWS, TAUGHT_ROWS)
    count = len(server.seen)
    assert teacher_system(context, server.name).digest == teacher.digest and len(server.seen) == count
    (answer,) = drawn(context, teacher, [finding("my invoice")], 0)
    assert answer.value == [{"name": "desk.find", "arguments": {"topic": "billing"}}]
    assert server.seen[-1]["temperature"] == 0.7 and "tools" in server.seen[-1]


def test_a_teacher_whose_server_passes_tools_over_is_asked_for_json(context, server):
    server.calls, server.says = nothing, in_json
    assert teacher_system(context, server.name).spec.answer.written == "json"
    server.calls = found
    assert teacher_system(context, server.name).spec.answer.written == "json", "that was settled"


def called(server: Caller, folder, **changes) -> System:
    """A System that asks the server for calls of its own."""
    model = hosted(server.name)
    answer = AnswerSpec(form="free", max_tokens=40, written="tools")
    spec = Spec(
        rung="api",
        task="desk",
        kind="tool_call",
        engine="endpoint",
        model=hosted_ref(model, MODEL),
        answer=answer,
    )
    files = changes.pop("files", {})
    return save(folder / "called", spec.model_copy(update=changes), files)


def test_how_calls_are_asked_for_is_part_of_the_system_and_of_no_older_one(server, tmp_path):
    ours = called(server, tmp_path)
    plain = AnswerSpec(form="free", max_tokens=40)
    other = save(tmp_path / "plain", ours.spec.model_copy(update={"answer": plain}), {})
    assert ours.digest != other.digest
    assert System.load(ours.folder).spec == ours.spec
    told = json.loads((other.folder / "system.json").read_text())
    del told["answer"]["written"]
    (other.folder / "system.json").write_text(json.dumps(told))
    assert System.load(other.folder).digest == other.digest


def test_functions_that_are_sent_by_one_name_do_not_share_an_answer(server, tmp_path):
    server.calls = lambda text, body: [("a_b", "{}")]
    rows = [
        Example(id=name, input="go", output=None, context=FUNCTIONS + json.dumps([{"name": name}]))
        for name in ("a.b", "a/b")
    ]
    model = hosted(server.name)
    prices = {(model.url, model.model): PRICES.per_token}
    with Pool(till=Till(tmp_path / "paid.jsonl", 1.0, prices)) as pool:
        for _ in range(2):
            values = [answer.value for answer in called(server, tmp_path).answer(rows, pool)]
            assert values == [[{"name": name, "arguments": {}}] for name in ("a.b", "a/b")]
    assert 1 <= len(server.seen) <= 2, "they are one request, which may be under way twice at once"


def test_broken_arguments_and_unknown_functions_are_wrong_and_words_call_nothing(server, tmp_path):
    said = {
        "broken": [(SENT, '{"topic": "bil')],
        "unknown": [("delete_all", "{}")],
        "wrong": [(SENT, '{"topic": 5}')],
        "twice": [(SENT, '{"topic": "billing"}'), (SENT, '{"topic": "login", "most": 5}')],
        "words": [],
    }
    server.calls = lambda text, body: said[text]
    with Pool() as pool:
        answers = called(server, tmp_path).answer([finding(text) for text in said], pool)
    twice = [{"name": "desk.find", "arguments": {"topic": name}} for name in ("billing", "login")]
    assert [answer.value for answer in answers] == [None, None, None, twice, []]
    assert all(answer.failure is None for answer in answers)


def test_worked_examples_call_as_the_protocol_has_it(server, tmp_path):
    other = FUNCTIONS + json.dumps([{"name": "now.here", "parameters": {}}])
    shots = [
        {
            "input": f"{finding('').context}\n\nmy invoice",
            "output": json.dumps([call("desk.find", "billing")] * 2),
        },
        {"input": f"Be kind.\n\n{finding('').context}\n\nthank you", "output": "[]"},
        {"input": f"{other}\n\nwhat time is it", "output": '[{"name":"now.here","arguments":{}}]'},
    ]
    lines = "".join(json.dumps(shot) + "\n" for shot in shots)
    system = called(
        server,
        tmp_path,
        instruction="Call.",
        shots=ShotSpec(choice="fixed", k=3),
        files={SHOTS_FILE: lines},
    )
    with Pool() as pool:
        (answer,) = system.answer([finding("my password")], pool)
    assert answer.value == [call("desk.find", "login")]
    turns = server.seen[-1]["messages"]
    assert [turn["role"] for turn in turns] == [
        *("system", "user", "assistant", "tool", "tool", "assistant"),
        *("user", "assistant", "user", "assistant", "tool", "assistant", "user"),
    ]
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == [
        *("my invoice", "Be kind.\n\nthank you", f"{other}\n\nwhat time is it", "my password")
    ]
    names = [one["function"]["name"] for turn in turns for one in turn.get("tool_calls", ())]
    assert names == [SENT, SENT, "now_here"]
    ids = [one["id"] for turn in turns for one in turn.get("tool_calls", ())]
    assert len(set(ids)) == 3 and all(len(one) == 9 and one.isalnum() for one in ids)


def call(name: str, topic: str) -> dict:
    return {"name": name, "arguments": {"topic": topic}}


def test_passages_stay_in_the_question_whose_functions_stand_beside_it(server, tmp_path):
    index = PassageIndex(passages=topic_passages(), terms=terms_of(topic_passages()), vectors=None)
    reads = RetrievalSpec(search="bm25", k=1)
    system = called(server, tmp_path, retrieval=reads, files=index_files(index, "bm25"))
    with Pool() as pool:
        (answer,) = system.answer([finding("my invoice")], pool)
    assert answer.value == [call("desk.find", "billing")] and answer.passages
    (sent,) = server.seen
    (turn,) = sent["messages"]
    assert "that is billing" in turn["content"] and turn["content"].endswith("\n\nmy invoice")
    assert FUNCTIONS.strip() not in turn["content"] and FIND["name"] not in turn["content"]
