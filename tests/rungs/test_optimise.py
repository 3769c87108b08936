"""The search for a better prompt: what is drawn, what is asked, what is kept, and what a resumed one asks."""

import json
import random
import re
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from rung.climb.hosted import hosted_models
from rung.engines.till import Till
from rung.models.resolve import resolve
from rung.records import Answer, Example
from rung.rungs import few_shot
from rung.rungs import optimise as module
from rung.rungs.api import prices
from rung.rungs.base import SETTLED_FILE, Variant
from rung.rungs.below import best_prompting
from rung.rungs.instructions import wordings
from rung.rungs.optimise import Optimise, drawn_shots
from rung.rungs.prompt import Prompt
from rung.rungs.reflect import COMPONENT, _Search, feedback, reflected, reflector, rows_to_reflect_on
from rung.rungs.variants import SURVIVORS, WIDER, Tried, _OnDev, choose, halved
from rung.runs import digest_of, read_jsonl
from rung.spec import Spec
from rung.system import Pool, read_index, save
from tests.fixtures_climb import TASKS, label_rows, make_tiny_gguf, opened, write_rows
from tests.fixtures_hosted import PRICES
from tests.fixtures_serve import Server
from tests.rungs.test_choose import Guesser, names, rows

SHORT = Optimise(metric_calls=150)
USAGE = {"prompt_tokens": 1000, "completion_tokens": 10}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def pool(tiny):
    """Engines that each test leaves open for the next one."""
    model = resolve(str(tiny))
    with Pool(models={model.digest: model}, threads=1, parallel=4) as found:
        yield found


@contextmanager
def begun(tiny, folder, pool):
    """A context whose engines are those of the pool."""
    with opened(tiny, write_rows(folder / "topics.jsonl", label_rows(80)), folder) as found:
        yield replace(found, bench=replace(found.bench, pool=pool))
    pool.till = None
    pool.indexes.clear()


@pytest.fixture
def context(tiny, tmp_path, pool):
    with begun(tiny, tmp_path, pool) as found:
        yield found


@pytest.fixture(scope="module")
def random_search(tiny, tmp_path_factory, pool):
    """The context of a random search with no rung below, and what it came to."""
    with begun(tiny, tmp_path_factory.mktemp("drawn"), pool) as context:
        return context, Optimise().build(context)


class Mentor:
    """An OpenAI-compatible server that writes an instruction by what it is shown, always the same one."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.breaks_after: int | None = None
        mentor = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                mentor.prompts.append(body["messages"][0]["content"])
                number = len(mentor.prompts)
                broken = mentor.breaks_after is not None and number > mentor.breaks_after
                rule = digest_of(mentor.prompts[-1])[:6]
                text = f"Think.\n```\nRule {rule}: name the topic of the text.\n```"
                message = {"role": "assistant", "content": text}
                reply = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
                said = json.dumps(reply).encode()
                self.send_response(400 if broken else 200)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def mentor():
    found = Mentor()
    yield found
    found.close()


def taught(context, url):
    """The context of a task with a hosted teacher, and with a till to pay it from."""
    names = {"teacher": f"openai:mentor@{url}", "prices": PRICES}
    task = context.task.model_copy(update=names)
    context.pool.till = Till(context.folder / "paid.jsonl", 1.0, prices(task, hosted_models(task)))
    return replace(context, task=task)


def test_a_halving_asks_all_of_few_rows_and_few_of_all_rows(tmp_path, context):
    context = replace(context, dev=rows(400), bench=replace(context.bench, metric="mae"))
    systems = [Guesser(f"v{i:02d}", float(i + 1)) for i in range(16)]
    dice = random.Random(3)
    given = [Variant(name=one.digest, system=one) for one in dice.sample(systems, 16)]
    chosen, trials, notes = choose(context, given, 32, halving=True)
    assert chosen.name == "v00" and notes == ()
    assert Counter(n for _, n, _ in names(trials)) == {32: 16, 32 * WIDER: SURVIVORS, 400: SURVIVORS // 2}
    assert [one.digest for one in systems if one.asked >= 400] == ["v00", "v01", "v02"]


def test_a_halving_whose_time_is_over_goes_on_with_no_survivor_but_the_first(context, monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr("rung.rungs.base.time", SimpleNamespace(monotonic=lambda: clock["now"]))
    asked: dict[str, int] = {}

    class OnTheClock(_OnDev):
        def attempt(self, variant, rows, what):
            clock["now"] += rows - asked.get(variant.name, 0)
            asked[variant.name] = rows
            return Tried(variant=variant, value=-float(variant.name[1:]), row_s=1.0, stopped=False)

    context = replace(context, dev=rows(190), deadline=16 * 32 + 80.0)
    given = [Variant(name=f"v{i}", system=Guesser(f"v{i}", 0.0)) for i in range(16)]
    notes: list[str] = []
    heat, screened, whole = halved(OnTheClock(context, {}), given, range(32), 190, 0.0, notes)
    assert len(heat) == 12 and len(screened) == 1 and [one.variant.name for one in whole] == ["v0"]
    assert notes == [
        *(f"v{i}: not tried, the rung's share of the budget was used up" for i in range(12, 16)),
        *(f"v{i}: not tried on 96 rows, the rung's share of the budget was used up" for i in range(1, 6)),
    ]


def test_a_halving_on_few_dev_rows_is_one_heat(context):
    context = replace(context, dev=rows(30), bench=replace(context.bench, metric="mae"))
    given = [Variant(name=f"v{i}", system=Guesser(f"v{i}", 9.0 - i)) for i in range(8)]
    chosen, trials, _ = choose(context, given, 32, halving=True)
    assert chosen.name == "v7" and [t.n for t in trials] == [30] * 8


@pytest.mark.parametrize("seed", range(20))
def test_examples_are_drawn_in_turn_from_all_outputs_and_without_repeats(seed):
    pool = [Example(id=str(i), input=f"row {i}", output="abc"[min(2, i // 10)]) for i in range(40)]
    drawn = drawn_shots(pool, 7, random.Random(seed))
    assert len({e.id for e in drawn}) == 7
    assert sorted(Counter(str(e.output) for e in drawn).values()) == [2, 2, 3]
    assert drawn == drawn_shots(pool[::-1], 7, random.Random(seed)), "whatever the order of the rows"


def test_fewer_rows_than_asked_for_are_all_of_them():
    pool = [Example(id=str(i), input=f"row {i}", output=i) for i in range(3)]
    assert {e.id for e in drawn_shots(pool, 8, random.Random(0))} == {"0", "1", "2"}


@pytest.mark.parametrize("about", ["", "Name the topic."])
@pytest.mark.parametrize("kind", list(TASKS))
def test_wordings_differ_say_what_the_job_is_and_none_is_empty(kind, about, tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", TASKS[kind](40)), tmp_path) as context:
        context = replace(context, task=context.task.model_copy(update={"about": about}))
        found = wordings(context)
        assert len(set(found.values())) == len(found) >= 5
        assert all(text.strip() and about in text for text in found.values())


def test_candidates_cross_wordings_and_sizes_and_the_seed_decides_them(context):
    found = module.candidates(context)
    assert len(found) == len({one.name for one in found}) == module.CANDIDATES
    assert len({tuple(e.id for e in one.shots) for one in found}) == module.CANDIDATES
    pairs = Counter((one.instruction, len(one.shots)) for one in found)
    assert max(pairs.values()) <= 2 and {k for _, k in pairs} == {4, 8}
    assert {e.id for one in found for e in one.shots} <= {e.id for e in context.train}
    assert module.candidates(replace(context, train=context.train[::-1])) == found
    assert not set(module.candidates(replace(context, seed=1))) & set(found)


def test_a_candidate_is_a_system_with_its_examples_in_their_order(context):
    one, (first, *_) = module.candidates(context)[0], module._drawn(context)[0]
    shots, vectors = read_index(first.system.folder)
    assert [s.input for s in shots] == [e.input for e in one.shots] and vectors is None
    spec = first.system.spec
    assert (spec.instruction, spec.shots.k, spec.answer.form) == (one.instruction, len(one.shots), "words")


def test_nearest_examples_that_did_best_below_are_tried_under_the_other_instructions(context):
    systems = {one.name: one.system for one in few_shot._variants(context)[0]}
    below = systems["4 nearest examples"]
    found = module._drawn(replace(context, built={"few_shot": below}))[0]
    near = [one for one in found if one.system.spec.shots.choice == "nearest"]
    assert len({one.name for one in found}) == module.CANDIDATES and found[1 : 1 + len(near)] == near
    others = [text for text in wordings(context).values() if text != below.spec.instruction]
    assert len(others) == 5 and [one.system.spec.instruction for one in near] == others
    for one in near:
        spec, same = one.system.spec, {"rung": "few_shot", "instruction": below.spec.instruction}
        assert spec.rung == "optimise" and spec.model_copy(update=same) == below.spec
        one.system.prompts(context.dev[:2], context.pool)
    assert list(context.pool.indexes) == [below.shots_key], "one set of vectors in memory"
    fixed = replace(context, built={"few_shot": systems["8 stratified examples"]})
    assert all(one.system.spec.shots.choice == "fixed" for one in module._drawn(fixed)[0])


def test_the_notes_say_how_many_were_tried_and_by_how_much_luck_flatters(random_search):
    _, built = random_search
    told = "\n".join(built.notes)
    assert built.what.startswith("best of 16 candidates: set ")
    assert re.search(r"best of 16 on \d+ dev rows: were all equally good, .* be \.\d\d\d too good", told)
    assert "no model reflects" in told and "the instruction of set" in told
    assert "scores" not in told, "no rung below is known"


def test_candidates_that_time_left_out_are_not_counted_among_those_that_were_tried(context, monkeypatch):
    in_time = iter((True, True))
    monkeypatch.setattr(_OnDev, "in_time", lambda self, step, seconds: next(in_time, False))
    built = Optimise().build(context)
    assert built.what.startswith("best of 3 of 16 candidates: set ")
    assert any(note.startswith("the best of 3 on ") for note in built.notes)


def test_a_rung_below_is_what_the_gain_is_counted_from(context):
    prompt = Prompt().build(replace(context, folder=context.folder / "prompt")).system
    built = Optimise().build(replace(context, built={"prompt": prompt}))
    assert any(
        re.match(r"prompt scores \.\d+ and this \.\d+ on the same \d+ dev rows", n) for n in built.notes
    )
    assert built.upon is None, "its sets were drawn, and need no rung below"


def test_instructions_that_a_model_wrote_rest_on_the_prompt_that_it_began_with(context, mentor):
    prompt = Prompt().build(replace(context, folder=context.folder / "prompt")).system
    built = SHORT.build(taught(replace(context, built={"prompt": prompt}), mentor.url))
    assert built.upon == "prompt"


def test_of_the_systems_below_the_best_on_dev_is_gone_on_from(context):
    context = replace(context, bench=replace(context.bench, metric="mae"), dev=rows(40))
    errors = {"prompt": 3.0, "few_shot": 1.0, "optimise": 1.0}
    systems = {rung: Guesser(rung, error, rung=rung) for rung, error in errors.items()}
    assert best_prompting(context) is None
    built = replace(context, built={"prompt": systems["prompt"]})
    assert best_prompting(built) is systems["prompt"], "though it has no answers yet"

    def answer(name, asked):
        error = systems[name].error
        given = [(e, Answer(text="", value=float(str(e.output)) + error * (int(e.id) % 3))) for e in asked]
        context.bench.store.append(systems[name].digest, given, 1.0)

    answer("few_shot", context.dev[:20])
    answer("prompt", context.dev[:30])
    assert best_prompting(replace(context, built=systems)) is systems["prompt"], "one has no answers yet"
    two = {name: systems[name] for name in ("prompt", "few_shot")}
    assert best_prompting(replace(context, built=two)) is systems["few_shot"], "on the rows that both have"
    answer("prompt", context.dev[30:])
    answer("optimise", context.dev)
    assert best_prompting(replace(context, built=systems)) is systems["optimise"], "few_shot was stopped"
    answer("few_shot", context.dev[20:])
    assert best_prompting(replace(context, built=systems)) is systems["few_shot"], "a tie goes to the cheaper"
    other = Guesser("larger", 0.5)
    given = [(e, Answer(text="", value=float(str(e.output)))) for e in context.dev]
    context.bench.store.append(other.digest, given, 1.0)
    several = {"few_shot@a": systems["few_shot"], "prompt@a": systems["prompt"], "prompt@b": other}
    assert best_prompting(replace(context, built=several)) is other, "whichever model it was found on"
    assert best_prompting(replace(context, built=several), ("few_shot",)) is systems["few_shot"]


def test_a_model_that_reflects_is_shown_what_went_wrong_and_its_instructions_are_tried(context, mentor):
    built = SHORT.build(taught(context, mentor.url))
    assert mentor.prompts and "Feedback" in mentor.prompts[0] and "This is " in mentor.prompts[0]
    inputs = {e.input for e in context.train}
    shown = [line for line in mentor.prompts[0].splitlines() if line in inputs]
    assert shown, "training rows"
    everything = "\n".join(mentor.prompts)
    assert not any(e.input in everything.splitlines() for e in context.dev), "no dev row"
    (note,) = [note for note in built.notes if "mentor wrote" in note]
    count = len(mentor.prompts)
    assert f"wrote {count} instructions" in note
    assert f"reading {1000 * count:,} tokens and writing {10 * count:,}" in note
    tried = {trial.name for trial in built.trials}
    assert "the instruction it began with" in tried
    assert built.system.spec.rung == "optimise"
    assert len(tried) == 1 or any("Rule" in (v or "") for v in _instructions(context))


def _instructions(context):
    folders = sorted((context.folder / "work").glob("instruction-*"))
    return [json.loads((f / "system.json").read_text())["instruction"] for f in folders]


def test_a_search_that_is_taken_up_again_asks_nobody_twice(context, mentor, tiny, tmp_path):
    context = taught(context, mentor.url)
    first = SHORT.build(context)
    calls, answers = len(mentor.prompts), _training_answers(context)
    assert calls and answers
    # As after a kill once half of the replies were kept: their file and the answers are all there is.
    settled = context.folder / SETTLED_FILE
    lines = settled.read_bytes().splitlines(keepends=True)
    replies = [i for i, line in enumerate(lines) if b"reflection on" in line]
    settled.write_bytes(b"".join(lines[: replies[len(replies) // 2]]))
    again = SHORT.build(taught(context, mentor.url))
    assert len(mentor.prompts) == calls, "what was paid for lies in the till"
    assert again.system.digest == first.system.digest
    assert [(t.name, t.score) for t in again.trials] == [(t.name, t.score) for t in first.trials]
    assert _training_answers(context) == answers, "and the small model is asked nothing again either"


def _training_answers(context):
    """How many answers to training rows were ever kept, one that was asked twice counting twice."""
    ids = {e.id for e in context.train}
    batches = [b for path in context.bench.store.folder.glob("*.jsonl") for b in read_jsonl(path)]
    return sum(row in ids for batch in batches for row in batch["answers"])


def _asked(context):
    return {path.name: path.stat().st_size for path in context.bench.store.folder.iterdir()}


def test_a_random_search_that_is_taken_up_again_asks_nothing(random_search):
    context, first = random_search
    before = _asked(context)
    again = Optimise().build(context)
    assert _asked(context) == before
    assert again.system.digest == first.system.digest and again.trials == first.trials


def test_a_search_with_a_hosted_model_is_foretold_without_paying_it(context, mentor):
    given = taught(context, mentor.url)
    told = SHORT.outlook(given)
    assert told is not None and told.refusal is None and told.low_s < told.high_s
    till = given.pool.till
    assert not mentor.prompts and till is not None and till.spent_usd == 0


def test_a_model_that_breaks_ends_the_search_with_what_it_has(context, mentor):
    mentor.breaks_after = 2
    built = SHORT.build(taught(context, mentor.url))
    assert len(mentor.prompts) <= 4
    assert any("the search ended early" in note and "400" in note for note in built.notes)
    assert built.system.spec.rung == "optimise"


def test_a_model_that_makes_no_mistake_needs_no_better_instruction(context, mentor):
    start = module._start(taught(context, mentor.url))
    given = [(e, Answer(text=str(e.output), value=e.output)) for e in context.train]
    context.bench.store.append(start.digest, given, 1.0)
    built = SHORT.build(taught(context, mentor.url))
    assert not mentor.prompts and built.system.digest == start.digest
    assert "0 did better" in "".join(built.notes)


def test_a_teacher_that_cannot_be_asked_reflects_on_nothing(context, monkeypatch):
    def with_teacher(name):
        return replace(context, task=context.task.model_copy(update={"teacher": name}))

    assert reflector(context) is None
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    built = Optimise().build(with_teacher("openai:gpt-5-mini"))
    assert any("OPENAI_API_KEY isn't set in the environment" in note for note in built.notes)
    assert built.what.startswith("best of 16 candidates")


def test_who_is_ranked_was_asked_every_row_that_candidates_are_ranked_by(context, mentor, monkeypatch):
    context = taught(context, mentor.url)
    start = module._start(context)
    # Whatever is right among the next answers is better, so that some instruction is taken up.
    context.bench.store.append(start.digest, [(e, Answer(text="?")) for e in context.train], 1.0)
    asked: defaultdict[str, set[str]] = defaultdict(set)
    evaluate = _Search.evaluate

    def watched(self, batch, candidate, capture_traces=False):
        asked[candidate[COMPONENT]].update(e.id for e in batch)
        return evaluate(self, batch, candidate, capture_traces)

    monkeypatch.setattr(_Search, "evaluate", watched)
    model = reflector(context)
    assert model is not None
    reflected(context, start, model, 150)
    to_rank = {e.id for e in rows_to_reflect_on(context, start)[1]}
    ranked = [ids for ids in asked.values() if ids & to_rank]
    assert len(ranked) > 1 and all(ids >= to_rank for ids in ranked)


def test_an_unreadable_number_is_no_better_where_the_rows_of_a_batch_are_alike(context, tmp_path):
    numbers = tuple(Example(id=str(i), input=f"row {i}", output=float(i)) for i in range(40))
    context = taught(context, "http://127.0.0.1:9/v1")
    context = replace(context, train=numbers, bench=replace(context.bench, metric="mae"))
    spec = Spec(rung="optimise", task="t", kind="number", engine="fake", instruction="Count.")
    start, model = save(tmp_path / "start", spec, {}), reflector(context)
    assert model is not None
    given = [Answer(text="?"), Answer(text="16", value=16.0), Answer(text="12", value=12.0)]
    context.bench.store.append(start.digest, list(zip(numbers[10:13], given, strict=True)), 1.0)
    found = _Search(context, start, model).evaluate([*numbers[10:13]], {COMPONENT: "Count."})
    assert found.scores == [-39.0, -5.0, 0.0]


def test_with_a_teacher_that_cannot_be_asked_the_rung_needs_what_a_draw_needs(context, mentor, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    able = replace(taught(context, mentor.url), train=context.train[:10])
    assert "needs at least 20" in (Optimise().skip(able) or "")
    mute = replace(able, task=able.task.model_copy(update={"teacher": "openai:gpt-5-mini"}))
    assert Optimise().skip(mute) is None and Optimise().outlook(mute) is not None
    short = replace(mute, model=replace(mute.model, limit=64))
    assert Optimise().skip(short) == "one worked example and a question don't fit a prompt of 64 tokens"


def test_feedback_names_the_right_answer_and_the_fields_that_are_wrong(context, tiny, tmp_path):
    row = context.train[0]
    right = Answer(text=str(row.output), value=row.output)
    assert feedback(context, row, right, 1.0) == "This is right."
    wrong = feedback(context, row, Answer(text="tax", value="tax"), 0.0)
    assert wrong == f"This is wrong. The right answer is: {row.output}"
    assert "can't be read as a label" in feedback(context, row, Answer(text="?"), 0.0)
    assert "broke: died" in feedback(context, row, Answer(text="", failure="died"), 0.0)
    data = write_rows(tmp_path / "json.jsonl", TASKS["json"](40))
    with opened(tiny, data, tmp_path / "json") as other:
        row = other.train[0]
        said = feedback(other, row, Answer(text="", value={"topic": "x", "first": row.output["first"]}), 0.5)
    assert said.startswith("This is wrong. Wrong: topic. The right answer is: {")


def test_a_served_model_of_our_own_may_reflect(context, tmp_path):
    """What a random model writes is no instruction; that it's asked, heard and outdone is what counts."""
    gguf = make_tiny_gguf(tmp_path / "mentor.gguf", context=8192)
    with Server(f"mentor={gguf}", "--context", "8192", "--slots", "1", home=tmp_path) as server:
        built = Optimise(metric_calls=40).build(taught(context, f"{server.address}/v1"))
        assert server.gauge("rung_requests_total") >= 1
    assert not any("ended early" in note for note in built.notes)
    (note,) = [note for note in built.notes if "mentor wrote" in note]
    assert re.search(r"reading [\d,]{3,} tokens", note)
