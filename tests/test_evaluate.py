import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.errors import EngineError, RunError
from rung.evaluate import (
    CHUNK,
    FEWEST_PACED,
    LOOK_ROWS,
    Bench,
    Pace,
    Store,
    answers_of,
    measure,
    nearest_rank,
    pace,
    single_request_times,
    timed,
    timed_s,
)
from rung.records import Answer, Example
from rung.runs import read_jsonl
from rung.system import Pool

ROOT = Path(__file__).parents[1]


class Echo:
    """What a System is to the bench: a digest, answers and memory. It counts what it is asked."""

    digest = "echo"
    is_hosted = False

    def __init__(self, broken=(), dies_at=None):
        self.asked: list[str] = []
        self.broken, self.dies_at = set(broken), dies_at

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        found = []
        for number, example in enumerate(examples, start=1):
            if example.id == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked.append(example.id)
            progress(number, len(examples))
            failure = "generate: refused" if example.id in self.broken else None
            value = None if failure else example.input
            found.append(Answer(text=example.input, value=value, options=(("x", 0.5),), failure=failure))
        return found

    def memory_mb(self, pool):
        return 7.0


def rows(count, wrong=0):
    return [
        Example(id=f"{i:04d}", input="yes", output="no" if i < wrong else "yes", where=f"t:{i}")
        for i in range(count)
    ]


@pytest.fixture
def bench(tmp_path):
    return Bench(pool=Pool(), store=Store(tmp_path / "answers"), metric="accuracy")


def later(bench):
    """The bench of another process on the same folder."""
    return Bench(pool=Pool(), store=Store(bench.store.folder), metric=bench.metric)


def test_a_second_look_at_the_same_rows_asks_nothing_and_says_the_same(bench):
    first, second = Echo(), Echo()
    asked = rows(300, wrong=30)
    before = timed(measure(first, asked, bench, split="dev"), first, asked, bench)
    after = timed(measure(second, asked, later(bench), split="dev"), second, asked, later(bench))
    assert second.asked == []
    assert after == before
    assert (before.score, before.n, before.memory_mb) == (0.9, 300, 7.0)


def test_what_is_looked_up_here_for_a_hosted_model_takes_memory_here(bench):
    hosted = Echo()
    hosted.is_hosted = True
    found = timed(measure(hosted, rows(4), bench, split="dev"), hosted, rows(4), bench)
    assert found.memory_mb == 7.0


def test_only_rows_that_have_no_answer_yet_are_asked(bench):
    answers_of(Echo(), rows(100), bench)
    echo = Echo()
    answers, _ = answers_of(echo, rows(150), bench)
    assert len(answers) == 150
    assert sorted(set(echo.asked)) == [f"{i:04d}" for i in range(100, 150)]


def test_another_system_shares_no_answers(bench):
    answers_of(Echo(), rows(10), bench)
    other = Echo()
    other.digest = "other"
    answers_of(other, rows(10), bench)
    assert set(other.asked) == {row.id for row in rows(10)}


def test_a_kill_loses_the_batch_in_flight_and_no_other(bench):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from rung.evaluate import *; from rung.system import Pool\n"
        "from tests.test_evaluate import Echo, rows\n"
        "store = Store(Path(sys.argv[1]))\n"
        f"echo = Echo(dies_at='{2 * CHUNK + 5:04d}')\n"
        "answers_of(echo, rows(400), Bench(pool=Pool(), store=store, metric='accuracy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bench.store.folder), str(ROOT)], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    echo = Echo()
    answers_of(echo, rows(400), bench)
    assert sorted(set(echo.asked)) == [f"{i:04d}" for i in range(2 * CHUNK, 400)]


def test_half_a_batch_on_disk_is_asked_again_as_a_whole(bench):
    answers_of(Echo(), rows(200), bench)
    path = bench.store.folder / "echo.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    echo = Echo()
    answers_of(echo, rows(200), later(bench))
    assert sorted(set(echo.asked)) == [f"{i:04d}" for i in range(CHUNK, 200)]


def test_a_broken_call_is_counted_beside_the_score_and_asked_again_by_the_next_process_only(bench):
    found = measure(Echo(broken=["0001"]), rows(50), bench, split="dev")
    assert (found.n, found.failures, found.score) == (49, 1, 1.0)
    again = Echo()
    assert measure(again, rows(50), bench, split="dev").failures == 1
    assert again.asked == []
    mended = Echo()
    found = measure(mended, rows(50), later(bench), split="dev")
    assert (found.n, found.failures) == (50, 0)
    assert set(mended.asked) == {"0001"}


class Sure(Echo):
    """A System that knows the probabilities of both labels."""

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        found = super().answer(examples, pool, progress=progress)
        return [replace(a, distribution=() if a.failure else (0.1, 0.9)) for a in found]


def test_distributions_are_kept_apart_from_the_answers_and_come_back(bench):
    measured = measure(Sure(broken=["0003"]), rows(200), bench, split="dev")
    assert all(p.answer.distribution == () for p in measured.predictions)
    assert measure(Sure(), rows(200), later(bench), split="dev").n == 200  # the broken one is asked again
    found = later(bench).store.distributions("echo")
    assert sorted(found) == [row.id for row in rows(200)]
    assert all(share == pytest.approx([0.1, 0.9]) for share in found.values())
    text = (bench.store.folder / "echo.jsonl").read_text()
    assert "raw_probability" not in text and 'distribution"' not in text


def test_a_store_of_a_system_that_knows_none_has_none(bench):
    measure(Echo(), rows(20), bench, split="dev")
    assert bench.store.distributions("echo") == {} == bench.store.distributions("other")
    assert "distributions" not in (bench.store.folder / "echo.jsonl").read_text()


@pytest.mark.parametrize("text", ["AAAA", "not base64!", 7])
def test_a_damaged_distribution_is_named(bench, text):
    measure(Sure(), rows(1), bench, split="dev")
    path = bench.store.folder / "echo.jsonl"
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "distributions": {"0000": text}}) + "\n")
    with pytest.raises(RunError, match="a distribution is damaged"):
        bench.store.distributions("echo")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"wall_s": 1.0}', "it lacks 'answers'"),
        ('{"answers": {"0000": {"text": "yes"}}}', "it lacks 'wall_s'"),
        ('{"wall_s": 1.0, "answers": {"0000": {"value": "yes"}}}', "text"),
        ('{"wall_s": 1.0, "answers": {"0000": 7}}', "int"),
        ('{"wall_s": 1.0, "answers": ["0000"]}', "list"),
    ],
)
def test_a_line_of_answers_that_lacks_something_is_named(bench, line, why):
    measure(Echo(), rows(3), bench, split="dev")
    path = bench.store.folder / "echo.jsonl"
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(RunError, match=rf"echo.jsonl': line 2: .*{why}.*; remove it") as caught:
        bench.store.load("echo")
    assert "\n" not in str(caught.value)
    path.write_text(path.read_text().splitlines()[0] + "\n" + line)
    assert len(bench.store.load("echo")) == 3, "a last line that was cut is left out"


def test_when_every_call_breaks_there_is_no_score(bench):
    with pytest.raises(EngineError, match=r"all 5 calls on dev broke.*t:0.*refused"):
        measure(Echo(broken=[row.id for row in rows(5)]), rows(5), bench, split="dev")


def test_answers_come_back_with_all_their_fields(bench):
    answers_of(Echo(), rows(3), bench)
    kept = Store(bench.store.folder).load("echo")
    assert kept["0000"].answer == Answer(text="yes", value="yes", options=(("x", 0.5),))


def test_progress_counts_what_was_known_and_ends_at_the_total(bench):
    answers_of(Echo(), rows(100), bench)
    seen = []
    answers_of(Echo(), rows(300), bench, lambda done, total: seen.append((done, total)))
    assert seen[0] == (101, 300) and seen[-1] == (300, 300)
    assert seen == sorted(seen)


def test_single_requests_are_timed_on_rows_that_can_be_answered_once_and_kept(bench):
    echo = Echo(broken=["0003"])
    found = timed(measure(echo, rows(60), bench, split="dev"), echo, rows(60), bench)
    alone = echo.asked[61:]
    assert "0003" not in alone and len(alone) == 22
    assert 0 < found.p50_s <= found.p95_s
    assert bench.store.timing_path("echo", [e for e in rows(21) if e.id != "0003"]).exists()


def test_a_handful_of_rows_can_be_timed(bench):
    p50, p95, memory = single_request_times(Echo(), rows(1), bench)
    assert p50 == p95 > 0 and memory == 7.0


@pytest.mark.parametrize(
    ("count", "share", "rank"), [(1, 0.95, 1), (2, 0.5, 1), (12, 0.95, 12), (20, 0.95, 19), (100, 0.95, 95)]
)
def test_a_percentile_is_a_time_that_was_seen(count, share, rank):
    assert nearest_rank([float(i) for i in range(count, 0, -1)], share) == rank


def test_no_more_rows_are_asked_once_they_are_enough(bench):
    echo, seen = Echo(), []

    def enough(examples, answers):
        seen.append((len(examples), [a.value for a in answers] == [e.input for e in examples]))
        return len(examples) >= 2 * LOOK_ROWS

    found = measure(echo, rows(100), bench, split="dev", enough=enough)
    assert seen == [(LOOK_ROWS, True), (2 * LOOK_ROWS, True)]
    assert (found.n, len(found.predictions), len(set(echo.asked))) == (64, 64, 64)
    again = Echo()
    assert measure(again, rows(100), later(bench), split="dev", enough=enough) == found
    assert again.asked == [] and len(seen) == 4


def test_whether_rows_are_enough_is_not_asked_of_all_of_them(bench):
    found = measure(Echo(), rows(LOOK_ROWS), bench, split="dev", enough=lambda examples, answers: 1 / 0)
    assert found.n == LOOK_ROWS


def test_a_pace_is_told_by_rows_whose_answers_are_kept(bench):
    echo = Echo()
    found = pace(echo, rows(50), bench, 1000.0)
    assert found.asked == len(echo.asked) == LOOK_ROWS
    answers_of(echo, rows(50), bench)
    assert len(echo.asked) == 50
    with pytest.raises(ValueError, match="needs 4 rows, not 3"):
        pace(Echo(), rows(3), bench, 1.0)


def test_a_pace_that_is_known_from_before_is_not_taken_again(bench, tmp_path, monkeypatch):
    seconds = [9, 5, *[2] * 48]
    first = pace(Slow(monkeypatch, seconds), rows(50), bench, 30.0)
    assert (first.asked, first.alone_s, first.row_s) == (6, 5, 1)
    again = Slow(monkeypatch, [0] * 50)
    assert pace(again, rows(50), later(bench), 1000.0) == first and again.asked == []
    answers_of(Slow(monkeypatch, seconds), rows(50)[:40], later(bench))
    more = pace(again, rows(50), later(bench), 1000.0)
    assert (more.asked, more.alone_s, more.batch) == (40, 5, 34)
    assert more.row_s == pytest.approx((34 * 2 - 5) / 33), "by now a fuller batch is known, which tells more"
    torn = read_jsonl(tmp_path / "answers" / "echo.jsonl")[:2]
    (tmp_path / "answers" / "echo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in torn))
    assert pace(Slow(monkeypatch, seconds), rows(50), later(bench), 0.0).asked == FEWEST_PACED


def test_a_pace_of_calls_that_broke_is_taken_again(bench):
    pace(Echo(broken=["0002"]), rows(50), bench, 1000.0)
    mended = Echo()
    pace(mended, rows(50), later(bench), 1000.0)
    assert len(mended.asked) == LOOK_ROWS


class Slow(Echo):
    """Takes what its rows are said to take, one after the other, or all at once: as long as the longest."""

    def __init__(self, monkeypatch, seconds, *, at_once=False, digest="echo"):
        super().__init__()
        self.digest = digest
        self.seconds, self.at_once, self.now = seconds, at_once, 0.0
        monkeypatch.setattr("rung.evaluate.time", SimpleNamespace(perf_counter=lambda: self.now))

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        taken = [self.seconds[int(example.id)] for example in examples]
        self.now += max(taken) if self.at_once else sum(taken)
        return super().answer(examples, pool, progress=progress)


def test_a_row_takes_no_longer_than_those_of_a_batch_did_on_average(bench, monkeypatch):
    short_alone = pace(Slow(monkeypatch, [9, 5, 24, 8]), rows(50), bench, 0.0)
    assert (short_alone.alone_s, short_alone.row_s) == (5, 16)
    long_alone = pace(Slow(monkeypatch, [9, 30, 10, 8], digest="long"), rows(50), bench, 0.0)
    assert (long_alone.alone_s, long_alone.row_s) == (30, 0)
    alike = pace(Slow(monkeypatch, [9, 5, 5, 5], digest="alike"), rows(50), bench, 0.0)
    assert (alike.alone_s, alike.row_s) == (5, 5)
    at_once = pace(Slow(monkeypatch, [9, 5, 5, 5], at_once=True, digest="once"), rows(50), bench, 0.0)
    assert (at_once.alone_s, at_once.row_s) == (5, 0)


class Together(Slow):
    """An engine whose batch takes what one answer takes, and some more for each of the others."""

    def __init__(self, monkeypatch, first_s, more_s, digest="together"):
        super().__init__(monkeypatch, {}, digest=digest)
        self.first_s, self.more_s, self.batches = first_s, more_s, []

    def answer(self, examples, pool, *, progress=lambda done, total: None):
        self.now += self.first_s + self.more_s * (len(examples) - 1)
        self.batches.append(len(examples))
        return Echo.answer(self, examples, pool, progress=progress)


def test_where_a_batch_leaves_time_a_fuller_one_tells_the_pace(bench, monkeypatch):
    many = Together(monkeypatch, 2.0, 0.1)
    found = pace(many, rows(50), bench, 16.0)
    # Six rows would take what is left one by one; by what they took, there's time for 22 more.
    assert many.batches == [1, 1, 6, 22] and (found.asked, found.batch) == (30, 22)
    assert (found.alone_s, found.row_s) == pytest.approx((2.0, 0.1))
    one_by_one = Together(monkeypatch, 2.0, 2.0, digest="slow")
    assert pace(one_by_one, rows(50), bench, 16.0).asked == 8 and one_by_one.batches == [1, 1, 6]


def test_rows_that_are_going_to_be_asked_in_any_case_tell_the_pace(bench, monkeypatch):
    seen = []

    def in_any_case(found):
        seen.append(found)
        return True

    many = Together(monkeypatch, 2.0, 0.5)
    found = pace(many, rows(50), bench, 0.0, in_any_case)
    assert many.batches == [1, 1, 2, 28] and (found.asked, found.batch) == (LOOK_ROWS, 28)
    assert [(one.asked, one.batch) for one in seen] == [(4, 2), (32, 28)]
    few = Together(monkeypatch, 2.0, 0.5, digest="few")
    assert pace(few, rows(50), bench, 0.0).asked == FEWEST_PACED


@pytest.mark.parametrize(("tokens", "times"), [([9, 20, 80, 90], 2.4875), ([9, 99, 10, 10], 1), ([0] * 4, 1)])
def test_an_answer_of_the_usual_length_takes_longer_alone_than_a_short_one(bench, monkeypatch, tokens, times):
    class Writer(Slow):
        def answer(self, examples, pool, **more):
            given = super().answer(examples, pool, **more)
            return [
                replace(a, completion_tokens=tokens[int(e.id)]) for a, e in zip(given, examples, strict=True)
            ]

    found = pace(Writer(monkeypatch, [9, 5, 5, 5]), rows(50), bench, 0.0)
    assert (found.alone_s, found.typical_s) == (5, pytest.approx(5 * times))


@given(first_s=st.floats(0.01, 20), part=st.floats(0, 1), most_s=st.floats(0, 200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pace_takes_no_longer_than_it_may_beyond_four_rows(first_s, part, most_s, monkeypatch, tmp_path):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        bench = Bench(pool=Pool(), store=Store(Path(folder)), metric="accuracy")
        many = Together(monkeypatch, first_s, part * first_s)
        found = pace(many, rows(50), bench, most_s)
    assert many.now <= max(most_s, 4 * first_s) + 1e-6
    assert FEWEST_PACED <= found.asked == sum(many.batches) <= LOOK_ROWS
    assert found.row_s == pytest.approx(part * first_s, abs=1e-6)


class Twin(Echo):
    """The same System under another name."""

    digest = "twin"


def test_a_system_that_is_the_same_as_another_has_its_answers_and_its_times(bench):
    echo, twin = Echo(broken=["0003"]), Twin()
    found = timed(measure(echo, rows(40), bench, split="dev"), echo, rows(40), bench)
    bench.store.same("twin", "echo")
    again = timed(measure(twin, rows(40), bench, split="dev"), twin, rows(40), bench)
    assert replace(again, system="echo") == found and twin.asked == []
    bench.store.same("third", "twin")
    assert bench.store.name("third") == "echo"
    measure(twin, rows(50), bench, split="dev")
    assert len(twin.asked) == 10 and len(bench.store.load("echo")) == 50


def test_a_damaged_name_of_another_system_is_said_to_be_so(bench):
    bench.store.same("twin", "echo")
    (bench.store.folder / "twin.same").write_text("../../etc")
    with pytest.raises(RunError, match="names no System"):
        bench.store.load("twin")


def test_the_times_of_other_rows_are_taken_anew(bench, monkeypatch):
    short, long = rows(40), [replace(row, id=f"9{row.id}") for row in rows(40)]
    seconds = dict.fromkeys(range(40), 1) | {int(row.id): 10 for row in long}
    echo = Slow(monkeypatch, seconds)
    first = timed(measure(echo, short, bench, split="dev"), echo, short, bench)
    second = timed(measure(echo, long, bench, split="dev"), echo, long, bench)
    assert (first.p50_s, first.p95_s, second.p50_s, second.p95_s) == (1, 1, 10, 10)
    asked = len(echo.asked)
    again = timed(measure(echo, short, later(bench), split="dev"), echo, short, later(bench))
    assert again == first and len(echo.asked) == asked


def test_the_times_of_another_machine_are_taken_anew(bench, monkeypatch):
    echo = Echo()
    first = timed(measure(echo, rows(30), bench, split="dev"), echo, rows(30), bench)
    asked = len(echo.asked)
    monkeypatch.setattr("rung.engines.machine.processor", lambda: "another")
    found = measure(echo, rows(30), bench, split="dev")
    assert timed(found, echo, rows(30), bench, first) == first and len(echo.asked) == asked
    timed(found, echo, rows(30), bench)
    assert len(echo.asked) == asked + 22


def test_times_that_are_forgotten_are_taken_anew_and_answers_stay(bench):
    echo = Echo()
    timed(measure(echo, rows(30), bench, split="dev"), echo, rows(30), bench)
    asked = len(echo.asked)
    bench.store.forget_times()
    timed(measure(echo, rows(30), bench, split="dev"), echo, rows(30), bench)
    assert len(echo.asked) == asked + 22
    Store(bench.store.folder / "none yet").forget_times()


def test_small_batches_do_not_count_in_the_seconds_per_answer(bench):
    echo = Echo()
    bench.store.append("echo", [(rows(1)[0], Answer(text="yes", value="yes"))], 1000.0)
    assert measure(echo, rows(40), bench, split="dev").seconds_per_answer < 1.0


def test_seconds_are_foretold_by_batches():
    found = Pace(alone_s=3.0, row_s=0.5, asked=4)
    assert found.seconds(65, 32) == pytest.approx(2 * (3 + 31 * 0.5) + 3)
    assert found.seconds(0, 32) == found.seconds(-5, 32) == 0
    assert timed_s(0.1) == pytest.approx(2.2) and timed_s(10.0) == pytest.approx(70.0)
