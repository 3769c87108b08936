import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from rung import evaluate
from rung.errors import EngineError, RunError
from rung.evaluate import LOOK_ROWS, Bench, Pace, Store, timed_s
from rung.records import Answer, Example
from rung.rungs.base import Context, Variant, slug, strict_score
from rung.rungs.paces import SLACK, bounded, closing_s, paces, rows_to_screen, timing_s
from rung.rungs.rehearsal import Rehearsal, outlook
from rung.rungs.rival import rival
from rung.rungs.variants import Tried, choose, tried
from rung.scoring.measure import measurement
from rung.spec import ShotSpec, Spec
from rung.system import Pool
from rung.task import DataFiles, Task
from tests.fixtures_climb import Log


class Guesser:
    """What a System is to `choose`: it adds an error to the right number, and may break on some rows."""

    is_hosted = False

    def __init__(self, name, error, breaks=0, fault=None, pause_s=0.0, rung="prompt"):
        self.digest, self.error, self.breaks = name, error, breaks
        self.spec = Spec(rung=rung, task="t", kind="number", engine="fake")
        self.fault, self.pause_s, self.asked = fault, pause_s, 0

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        if self.fault is not None:
            raise self.fault
        self.asked += len(examples)
        time.sleep(self.pause_s)
        return [
            Answer(text="", failure="refused")
            if int(e.id) < self.breaks
            else Answer(text="", value=float(str(e.output)) + self.error * (int(e.id) % 3))
            for e in examples
        ]


def rows(count):
    return tuple(Example(id=f"{i:04d}", input=f"row {i}", output=float(i)) for i in range(count))


@pytest.fixture
def context(tmp_path) -> Context:
    return Context(
        task=Task(data=DataFiles(train=Path("t"))),
        train=(),
        dev=rows(60),
        model=None,  # type: ignore[arg-type]
        folder=tmp_path / "rung",
        bench=Bench(pool=Pool(), store=Store(tmp_path / "answers"), metric="mae"),
        reporter=Log(),
        deadline=time.monotonic() + 600,
        seed=0,
    )


def variants(*systems) -> list[Variant]:
    return [Variant(name=one.digest, system=one) for one in systems]


def names(trials):
    return [(t.name, t.n, t.chosen) for t in trials]


def test_where_less_is_better_the_lowest_wins(context):
    chosen, trials, notes = choose(context, variants(Guesser("far", 5.0), Guesser("near", 1.0)))
    assert chosen.name == "near" and notes == ()
    assert names(trials) == [("near", 60, True), ("far", 60, False)]
    assert [t.score for t in trials] == [1.0, 5.0]


@pytest.mark.parametrize("metric", ["exact", "spearman"])
def test_where_more_is_better_the_highest_wins(context, metric):
    context = replace(context, bench=replace(context.bench, metric=metric))
    chosen, trials, _ = choose(context, variants(Guesser("far", 40.0), Guesser("right", 0.0)))
    assert chosen.name == "right" and trials[0].score == 1.0


def test_a_tie_goes_to_the_earlier_variant(context):
    assert choose(context, variants(Guesser("one", 1.0), Guesser("two", 1.0)))[0].name == "one"


def test_only_the_better_half_is_scored_on_all_rows(context):
    context = replace(context, dev=rows(150))
    systems = [Guesser(f"v{error}", error) for error in (3.0, 1.0, 4.0, 2.0)]
    chosen, trials, _ = choose(context, variants(*systems))
    assert chosen.name == "v1.0"
    assert names(trials) == [
        ("v1.0", 100, False),
        ("v2.0", 100, False),
        ("v3.0", 100, False),
        ("v4.0", 100, False),
        ("v1.0", 150, True),
        ("v2.0", 150, False),
    ]


def test_a_variant_whose_engine_breaks_is_left_out_and_named(context):
    broken = Guesser("broken", 0.0, fault=EngineError("it died"))
    chosen, _, notes = choose(context, variants(broken, Guesser("whole", 1.0)))
    assert chosen.name == "whole" and notes == ("broken: left out, it died",)


def test_when_every_variant_breaks_so_does_the_rung(context):
    systems = [Guesser(name, 0.0, fault=EngineError("it died")) for name in ("one", "two")]
    with pytest.raises(EngineError, match="one: left out, it died; two: left out, it died"):
        choose(context, variants(*systems))


def test_breaking_on_the_hard_rows_is_no_way_to_win(context):
    chosen, trials, _ = choose(context, variants(Guesser("breaks", 0.5, breaks=50), Guesser("tries", 1.0)))
    assert chosen.name == "tries"
    assert {t.name: t.score for t in trials}["breaks"] < 1.0, "the score shown is that of the answered rows"


def test_a_broken_call_counts_as_an_unreadable_answer():
    examples = rows(4)
    answers = [Answer(text="", value=float(i)) for i in range(3)] + [Answer(text="", failure="refused")]
    found = measurement(system="s", split="dev", metric="mae", examples=examples, answers=answers)
    assert (found.score, strict_score(found, examples)) == (0.0, 0.75)


def test_what_there_was_no_time_for_is_named_and_stays_out_when_the_climb_goes_on(context):
    late = replace(context, deadline=time.monotonic() - 1)
    chosen, trials, notes = choose(late, variants(Guesser("first", 5.0), Guesser("second", 1.0)))
    assert chosen.name == "first" and {t.name for t in trials} == {"first"}
    assert "second: not tried" in notes[0]
    again = choose(context, variants(Guesser("first", 5.0), Guesser("second", 1.0)))
    assert (again[0].name, *again[1:]) == ("first", trials, notes)


def test_what_is_scored_for_comparison_alone_is_never_chosen(context):
    free, held = variants(Guesser("free", 0.0), Guesser("held", 1.0))
    free = replace(free, shippable=False)
    chosen, trials, _ = choose(context, [free, held], screen=30)
    assert chosen is held
    assert [(t.name, t.chosen) for t in trials] == [("free", False), ("held", False), ("held", True)]
    dead = Variant(name="dead", system=Guesser("dead", 0.0, fault=EngineError("it died")))
    with pytest.raises(EngineError, match="dead: left out, it died"):
        choose(context, [free, dead])


def test_a_variant_that_dies_on_all_rows_leaves_the_others(context):
    class Late(Guesser):
        def answer(self, examples, pool, **more):
            if self.asked >= 30:
                raise EngineError("it died")
            return super().answer(examples, pool, **more)

    best, second, third, fourth = variants(
        Late("best", 0.0), Guesser("second", 1.0), Guesser("third", 2.0), Guesser("fourth", 3.0)
    )
    chosen, _, notes = choose(context, [second, best, third, fourth], screen=30)
    assert chosen is second
    assert notes == ("best: left out on all dev rows, it died",)


def test_a_question_is_settled_once_and_for_good(context):
    assert context.settled("which?", lambda: "this") == "this"
    assert context.settled("which?", lambda: "that") == "this"
    assert context.settled("and which?", lambda: [1, None]) == [1, None]
    assert context.in_time("step") is True
    late = replace(context, deadline=time.monotonic() - 1)
    assert late.in_time("step") is True and late.in_time("other step") is False


def test_names_become_folders():
    assert slug("MiniLM + logistic regression, C = 0.3") == "minilm-logistic-regression-c-0.3"


def against(context, error, *, dev):
    """The context with a cheaper rung to beat that makes such errors."""
    context = replace(context, dev=rows(dev), bench=replace(context.bench, metric="exact"))
    answers = Guesser("rival", error).answer(context.dev, None)
    found = measurement(system="r", split="dev", metric="exact", examples=context.dev, answers=answers)
    return replace(context, rival=rival("head", found, context.dev, needed=0.02, level=0.05 / 6))


def test_a_variant_that_cannot_beat_the_rival_gets_no_more_rows(context):
    context = against(context, 1.0, dev=200)
    good, bad = Guesser("good", 0.0), Guesser("bad", 1.0, breaks=0)
    bad.answer = lambda examples, pool, **more: [Answer(text="", value=-1.0) for _ in examples]
    chosen, trials, notes = choose(context, variants(bad, good))
    assert chosen.name == "good" and notes == ()
    # One third of the rows are right in the rival, none in the bad one.
    (stopped,) = [t for t in trials if t.stopped]
    assert (stopped.name, stopped.n < 96, stopped.chosen) == ("bad", True, False)
    assert [(t.name, t.n) for t in trials if t.chosen] == [("good", 200)]


def test_a_rung_none_of_whose_variants_can_win_is_hopeless_after_few_rows(context):
    context = against(context, 0.0, dev=200)
    far, near = Guesser("far", 2.0), Guesser("near", 1.0)
    far.answer = lambda examples, pool, **more: [Answer(text="", value=-1.0) for _ in examples]
    chosen, trials, _ = choose(context, variants(far, near))
    assert chosen.name == "near"
    assert [(t.name, t.n, t.stopped, t.chosen) for t in trials] == [
        ("near", 32, True, True),
        ("far", 32, True, False),
    ]
    assert len(context.measure(chosen.system, context.dev, "again").predictions) == 32


def test_the_seconds_of_a_choice_are_foretold_before_it_and_kept(context):
    context = replace(context, dev=rows(200))
    slow = Guesser("slow", 1.0, pause_s=0.05)
    told = outlook(context, variants(slow, Guesser("quick", 1.0)))
    assert told is not None
    # Each batch waits: 100 rows, then 100 more, and 22 single requests of the best variant.
    assert 0.05 < told.seconds < 2.5 and told.least_s <= told.seconds == told.low_s == told.high_s
    asked = slow.asked
    assert outlook(context, variants(slow, Guesser("quick", 1.0))) == told
    assert slow.asked == asked == LOOK_ROWS
    assert (
        outlook(
            replace(context, folder=context.folder / "other"),
            variants(dead := Guesser("dead", 0.0, fault=EngineError("it died"))),
        )
        is None
        and dead.asked == 0
    )


def test_where_time_is_short_fewer_variants_are_foretold(context):
    context = replace(context, dev=rows(200), deadline=time.monotonic() + 0.6)
    slow = [Guesser(f"v{i}", 1.0, pause_s=0.1) for i in range(4)]
    long = replace(context, deadline=time.monotonic() + 600, folder=context.folder / "long")
    short, whole = outlook(context, variants(*slow)), outlook(long, variants(*slow))
    assert short is not None and whole is not None
    assert short.seconds < whole.seconds


class Wrong(Guesser):
    """Never right."""

    def answer(self, examples, pool, **more):
        self.asked += len(examples)
        return [Answer(text="", value=-1.0) for _ in examples]


class AsItIs(Random):
    """Draws what the rows of the same kind tell in turn, and not the two of the prior."""

    def choices(self, population, weights=None, *, cum_weights=None, k=1):
        told = population[:-2] or population
        return [told[at % len(told)] for at in range(k)]


@pytest.mark.parametrize("rival_error", [None, 0.0, 1.0])
def test_a_rehearsal_goes_the_way_of_the_choice_where_the_first_rows_are_like_the_others(
    context, rival_error
):
    context = replace(context, dev=rows(200))
    if rival_error is not None:
        context = against(context, rival_error, dev=200)
    tries = variants(Wrong("wrong", 0.0), Guesser("near", 1.0), Guesser("right", 0.0), Guesser("far", 9.0))
    found = dict(zip((v.name for v in tries), paces(context, tries), strict=True))
    kept = {v.name: context.bench.store.load(v.system.digest) for v in tries}
    first = {name: [kept[name][e.id].answer for e in context.dev[:LOOK_ROWS]] for name in kept}
    on = Rehearsal(context, found, first, AsItIs(0))
    few = rows_to_screen(context, tries)
    screened, whole = tried(on, tries, range(few), 200, closing_s(context, tries), [])
    _, trials, _ = choose(context, tries)
    told = [(one.variant.name, one.stopped) for one in (*screened, *whole)]
    assert sorted(told) == sorted((t.name, t.stopped) for t in trials)
    assert on.asked == {name: max(t.n for t in trials if t.name == name) for name in on.asked}
    assert rival_error is None or any(stopped for _, stopped in told)


def test_a_rung_that_is_far_behind_is_foretold_to_be_stopped(context):
    context = against(context, 0.0, dev=200)
    slow = Guesser("slow", 1.0, pause_s=0.02)
    told = outlook(context, variants(slow))
    alone = replace(context, rival=None, folder=context.folder / "other")
    unstopped = outlook(alone, variants(Guesser("as slow", 1.0, pause_s=0.02)))
    assert told is not None and unstopped is not None and told.high_s < unstopped.low_s
    assert slow.asked == LOOK_ROWS


class Clock:
    """Stands where `time` does."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        for name in ("rung.evaluate.time", "rung.rungs.base.time"):
            monkeypatch.setattr(name, self)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


class Together(Guesser):
    """Its engine takes so long for the first row of a batch, and a part of that for each of the others."""

    def __init__(self, clock, name, first_s, part, tokens=(0, 0), **more):
        super().__init__(name, 1.0, **more)
        self.clock, self.first_s, self.part, self.tokens, self.batches = clock, first_s, part, tokens, []

    def answer(self, examples, pool, **more):
        self.clock.now += self.first_s * (1 + self.part * (len(examples) - 1))
        self.batches.append(len(examples))
        prompt, completion = self.tokens
        found = super().answer(examples, pool)
        return [replace(a, prompt_tokens=prompt, completion_tokens=completion) for a in found]

    def memory_mb(self, pool):
        return 1.0


def timed_choice(context, tries) -> float:
    """The seconds that a choice took, with the dev score of what was chosen and the timing of requests."""
    start = time_of(context)
    chosen, _, _ = choose(context, tries)
    found = context.measure(chosen.system, context.dev, "dev")
    if len(found.predictions) == len(context.dev):
        evaluate.timed(found, chosen.system, context.dev, context.bench)
    return time_of(context) - start


def time_of(context) -> float:
    return context.deadline - context.seconds_left


@pytest.mark.parametrize("part", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("deadline", [150.0, 250.0, 600.0, 3000.0])
@pytest.mark.parametrize("growing", [False, True])
def test_a_choice_takes_about_what_was_foretold_however_many_rows_an_engine_answers_at_once(
    context, monkeypatch, part, deadline, growing
):
    clock = Clock(monkeypatch)
    context = against(replace(context, deadline=deadline), 2.0, dev=134)
    seconds = (2.0, 3.0, 4.0, 6.0) if growing else (2.0, 2.0, 2.0, 2.0)
    tries = variants(*(Together(clock, f"v{at}", s, part) for at, s in enumerate(seconds)))
    told = outlook(context, tries)
    assert told is not None
    took = timed_choice(context, tries)
    assert 0.7 * told.seconds <= took <= 1.3 * told.seconds


def test_what_an_engine_answers_many_of_at_once_is_foretold_by_a_fuller_batch(context, monkeypatch):
    clock = Clock(monkeypatch)
    context = against(replace(context, deadline=220.0), 2.0, dev=134)
    first = Together(clock, "first", 2.1, 0.2)
    found = paces(context, variants(first, Together(clock, "second", 3.0, 0.2)))
    assert found[0] is not None and found[0].batch >= 10 and found[0].row_s == pytest.approx(0.42)
    assert clock.now < 0.2 * 220 + 4 * 3.0 and max(first.batches) == found[0].batch


def test_of_the_first_variant_all_rows_up_to_the_first_look_tell_the_pace_where_these_are_asked_anyway(
    context, monkeypatch
):
    first = Together(Clock(monkeypatch), "first", 1.3, 0.4)
    (found,) = paces(replace(context, dev=rows(60), deadline=62.0), variants(first))
    assert found is not None and found.asked == sum(first.batches) == LOOK_ROWS
    assert found.row_s == pytest.approx(0.52)


def test_a_variant_that_there_is_no_time_for_is_not_asked_for_its_pace(context, monkeypatch):
    clock = Clock(monkeypatch)
    context = replace(context, dev=rows(134), deadline=200.0)
    one, two = Together(clock, "one", 2.0, 1.0), Together(clock, "two", 1.0, 1.0)
    found = paces(context, variants(one, two))
    assert two.batches == [] and found[0] is not None and found[1] == replace(found[0], asked=0)


def test_a_rung_that_has_other_variants_by_now_is_foretold_anew(context, monkeypatch):
    clock = Clock(monkeypatch)
    context = replace(context, dev=rows(134), deadline=200.0)
    assert len(paces(context, variants(*(Together(clock, f"drawn {n}", 1.0, 1.0) for n in range(4))))) == 4
    written = variants(Together(clock, "written 0", 1.0, 1.0), Together(clock, "written 1", 1.0, 1.0))
    assert len(paces(context, written)) == 2
    assert closing_s(context, written) > 0


OWN = Pace(alone_s=3.0, row_s=2.0, asked=4, batch=2)
FULL = Pace(alone_s=2.0, row_s=0.5, asked=20, batch=18)


@pytest.mark.parametrize(
    ("ours", "theirs", "own", "row_s"),
    [
        # Three times the prompt, twice the answer: what three times as many tokens take.
        ((300, 20), (100, 10), replace(OWN, alone_s=2.0), 1.5),
        # No more tokens, and a second more alone.
        ((100, 10), (100, 10), OWN, 1.5),
        # Fewer of them, and quicker alone: never quicker than the other.
        ((50, 5), (100, 10), replace(OWN, alone_s=1.0), 0.5),
        ((900, 10), (100, 10), OWN, 2.0),
        # Nothing is known of tokens, or of what one takes.
        ((0, 0), (0, 0), OWN, 2.0),
        ((100, 10), (100, 0), OWN, 2.0),
        # By a few rows beside a long answer those of a batch took nothing: as much as as many tokens take.
        ((100, 10), (100, 10), replace(OWN, row_s=0.0), 0.5),
        ((100, 4), (100, 10), replace(OWN, row_s=0.0), 0.2),
        ((300, 20), (100, 10), replace(OWN, row_s=0.0), 0.5),
        # It was itself told by a batch that is nearly as full.
        ((100, 10), (100, 10), replace(OWN, batch=10), 2.0),
        ((100, 10), (100, 10), replace(OWN, row_s=0.0, batch=10), 0.0),
    ],
)
def test_a_pace_of_few_rows_is_bounded_by_the_fuller_batches_of_another_variant(
    context, monkeypatch, ours, theirs, own, row_s
):
    clock = Clock(monkeypatch)
    one, other = variants(Together(clock, "one", 1.0, 1.0, ours), Together(clock, "other", 1.0, 1.0, theirs))
    for variant in (one, other):
        context.measure(variant.system, context.dev[:10], "some")
    assert bounded(context, one, own, [(other, FULL)]) == replace(own, row_s=pytest.approx(row_s))


def test_single_requests_take_no_less_than_rows_of_a_batch(context, monkeypatch):
    (variant,) = variants(Together(Clock(monkeypatch), "one", 1.0, 1.0))
    short = Pace(alone_s=0.1, row_s=0.5, asked=20, batch=18)
    assert timing_s(context, variant, short) == timed_s(0.5)
    assert timing_s(context, variant, replace(short, alone_s=0.7)) == timed_s(0.7)
    assert timing_s(context, variant, replace(short, typical_s=0.9)) == timed_s(0.9)
    judge: Any = SimpleNamespace(verdicts=SimpleNamespace(each_s=0.3))
    judged = replace(context, bench=replace(context.bench, judge=judge))
    assert timing_s(judged, variant, short) == timed_s(0.1), "a judge is asked of no timed row"


def test_prompts_that_differ_from_row_to_row_by_other_things_bound_no_pace(context, monkeypatch):
    clock = Clock(monkeypatch)
    one, other = variants(*(Together(clock, name, 1.0, 1.0, (100, 10)) for name in ("one", "other")))
    for variant in (one, other):
        context.measure(variant.system, context.dev[:10], "some")
    assert bounded(context, one, OWN, [(other, FULL)]) != OWN
    nearest = ShotSpec(choice="nearest", k=4)
    other.system.spec = other.system.spec.model_copy(update={"shots": nearest})
    assert bounded(context, one, OWN, [(other, FULL)]) == OWN


class OnPaper:
    """Where variants are tried in a test: what is asked for, and what each takes and was foretold to take."""

    def __init__(self, told, truth, known=0):
        self.told, self.truth, self.known, self.wanted = told, truth, known, []

    def in_time(self, step, seconds):
        self.wanted.append((step, seconds))
        return True

    def to_ask(self, variant, rows):
        return max(0, len(rows) - self.known)

    def foretold_s(self, variant):
        return self.told.get(variant.name)

    def attempt(self, variant, rows, what):
        return Tried(variant=variant, value=0.0, row_s=self.truth[variant.name], stopped=False)


@pytest.mark.parametrize(
    ("told", "row_s"),
    [
        ({"a": 2.0, "b": 4.0}, 1.0),  # the first was four times as quick as foretold: so will the other be
        ({"a": 0.25, "b": 0.5}, 1.0),
        ({"a": 2.0, "b": 1.0}, 0.5),  # at least as slow as the last
        ({}, 0.5),
    ],
)
def test_what_a_variant_took_corrects_what_was_foretold_of_the_next(told, row_s):
    tries = variants(Guesser("a", 0.0), Guesser("b", 0.0))
    on = OnPaper(told, {"a": 0.5, "b": 0.5})
    tried(on, tries, range(20), 100, 7.0, [])
    assert on.wanted[0] == ("b", pytest.approx(SLACK * (20 * row_s + 80 * 0.5) + 7.0))
    known = OnPaper(told, {"a": 0.5, "b": 0.5}, known=20)
    tried(known, tries, range(20), 100, 7.0, [])
    assert known.wanted[0] == ("b", pytest.approx(SLACK * 80 * 0.5 + 7.0)), "what is known isn't asked again"


@pytest.mark.parametrize("line", ['{"question": "which?"}', '{"answer": 1}'])
def test_a_settled_line_that_lacks_something_is_named(context, line):
    context.settled("which?", lambda: "this")
    path = context.folder / "settled.jsonl"
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunError, match=r"settled.jsonl': line 1: it lacks '(question|answer)'; remove it"):
        context.settled("which?", lambda: "that")
