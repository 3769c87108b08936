"""What reinforcement decides, against a learner whose scores and draws are known."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engines.base import Completion, Request
from rung.errors import TrainingError
from rung.records import Answer, Example
from rung.rungs import reward_gate as gates
from rung.rungs.coursing import LOOKS, PROBE_STEPS, Course
from rung.rungs.reinforcing import FEWEST_STEPS, RATE, _Begun, _reinforce
from rung.rungs.reward_gate import Gate, gate
from rung.rungs.rewards import CHECKED, no_reward, reward
from rung.rungs.rollouts import (
    EVEN_STEPS,
    GROUP,
    ZERO_STEPS,
    Group,
    Prompts,
    lesson_of,
    red_flag,
    yield_of,
)
from rung.rungs.tune import BEST_FOLDER, Arm, Plan
from rung.scoring.scorers import SCORERS
from rung.task.tables import Query, Tables
from rung.training.batches import Row

STEPS = 60
DEV = list(range(40))
ARM = Arm(form="free", rate=RATE)
GATE = Gate(prompts=100, reward=0.4, mixed=0.5, asked_s=1.0)
SPEC: Any = None


@dataclass
class Learner:
    """Stands where `Tune` does: dev values by step (0.5 at the start), and the step at which it breaks."""

    values: dict[int, float] = field(default_factory=dict)
    breaks: int = 10**6
    late: int = 10**6
    losses: dict[int, float | None] = field(default_factory=dict)

    def __post_init__(self):
        self.context: Any = SimpleNamespace(
            dev=DEV, bench=SimpleNamespace(metric="exact"), seconds_left=100.0
        )
        self.plan = Plan(folder=Path("nowhere"), budget_s=1.0, reserve_s=1.0, seed=0)
        self.records: list[dict] = []
        self.kept: list[int] = []
        self.decays: set[tuple[int, int]] = set()

    def run(self, arm, until, decay):
        step = sum(r["kind"] == "rollout" for r in self.records)
        self.decays.add(decay)
        for number in range(step, until):
            drawn = {"reward": number / 100, "mixed": 0.5, "tokens": 9.0, "cut": 0.0}
            self.note({"kind": "rollout", "arm": arm.name, "step": number, **drawn})
            if number == self.breaks:
                raise TrainingError("no answer earned anything")
        return [SimpleNamespace(loss=self.losses.get(number, 1.0)) for number in range(step, until)]

    def find(self, **wanted):
        return next((r for r in self.records if all(r.get(k) == v for k, v in wanted.items())), None)

    def note(self, record):
        if record["kind"] == "late":
            record["late"] = record["step"] >= self.late
        self.records.append(record)
        return record

    def score(self, arm, step, rows):
        value = self.values.get(step, 0.4) if step else 0.5
        found = {"arm": arm.name, "step": step, "n": len(rows), "score": value, "value": value}
        return self.note({"kind": "score", "loss": 1.0, "verbatim": value / 2, **found})

    def keep(self, arm, step):
        self.kept.append(step)

    @property
    def scored(self) -> list[int]:
        return [r["step"] for r in self.records if r["kind"] == "score"]


def reinforced(learner: Learner, rows=DEV):
    course = Course(steps=STEPS, fewest=FEWEST_STEPS, allowed=300, rows=rows, tuning_s=1.0, closing_s=1.0)
    given = Prompts(spec=SPEC, examples=[], rows=[Row(prompt=(1,), answer=(2,))] * 80, left_out=0)
    begun: Any = _Begun(state=learner, given=given, arm=ARM, gate=GATE, course=course)  # type: ignore[arg-type]
    return _reinforce(begun, course)


def test_the_start_is_kept_where_no_step_is_better_a_tie_included():
    learner = Learner(values={step: 0.5 for step in (10, 20, 30, 40, 50, 60)})
    outcome = reinforced(learner)
    assert outcome.adapter is None and not learner.kept
    assert learner.scored == [0, 10, 20, 30, 40, 50, 60]
    assert outcome.passes == STEPS * 8 / 80


@pytest.mark.parametrize("best", [10, 20, 30, 60])
def test_the_best_step_is_kept_and_told(best):
    learner = Learner(values=dict.fromkeys(range(10, 70, 10), 0.5) | {20: 0.55} | {best: 0.6})
    outcome = reinforced(learner)
    assert outcome.adapter == Path("nowhere") / BEST_FOLDER
    assert learner.kept[-1] == best
    assert f"{ARM.name}, {best} steps of 8 × 8 answers from sft's adapter on" in outcome.what
    assert f"dev exact .500 at the start and .600 after {best} steps" in outcome.found[-1]
    assert "word for word as the row 25 % and 30 %" in outcome.found[-1]
    assert learner.decays == {(30, 60)}


@given(st.dictionaries(st.sampled_from([10, 20, 30, 40, 50, 60]), st.floats(0, 1)))
def test_whatever_the_scores_what_is_kept_is_better_than_the_start_and_all_others(values):
    learner = Learner(values=values)
    outcome = reinforced(learner)
    scores = {step: values.get(step, 0.4) for step in learner.scored[1:]}
    if max(scores.values()) <= 0.5:
        assert outcome.adapter is None
    else:
        assert scores[learner.kept[-1]] == max(scores.values())


def test_a_course_that_is_worse_than_the_start_three_times_in_a_row_ends():
    learner = Learner(values={10: 0.4, 20: 0.49, 30: 0.6, 40: 0.49, 50: 0.49, 60: 0.48})
    assert not any("stopped" in note for note in reinforced(learner).notes)
    assert learner.scored == [0, 10, 20, 30, 40, 50, 60]
    learner = Learner(values={10: 0.6, 20: 0.49, 30: 0.48, 40: 0.47, 50: 0.9})
    outcome = reinforced(learner)
    assert learner.scored == [0, 10, 20, 30, 40] and learner.kept == [10]
    assert any("stopped after 40 steps: dev was worse than at the start 3 times" in n for n in outcome.notes)


def test_a_course_that_breaks_or_runs_out_of_time_leaves_what_was_best_before():
    learner = Learner(values={10: 0.6}, breaks=14)
    outcome = reinforced(learner)
    assert learner.kept == [10] and outcome.adapter is not None
    assert "ended early: no answer earned anything" in outcome.notes
    assert "of 15 steps: mean reward 0.045, then 0.095" in outcome.found[1]
    learner = Learner(values={10: 0.6}, late=30)
    assert "ended before step 30, for want of time" in reinforced(learner).notes
    assert learner.scored == [0, 10, 20]


def test_steps_that_drew_nothing_are_left_out_of_a_stretchs_loss():
    better = dict.fromkeys(range(10, 70, 10), 0.6)
    learner = Learner(
        values=better, losses=dict.fromkeys(range(5), None) | dict.fromkeys(range(10, 20), None)
    )
    reinforced(learner)
    told = {r["step"]: r["loss"] for r in learner.records if r["kind"] == "stretch"}
    assert told == dict.fromkeys((10, 30, 40, 50, 60), 1.0)


def test_the_gates_figures_and_a_part_of_dev_are_told():
    outcome = reinforced(Learner(), rows=DEV[:30])
    assert outcome.found[0].startswith("of 100 training prompts with 8 answers each 50 % had answers with ")
    assert "scored on 30 of 40 dev rows on the way" in outcome.notes


@given(st.integers(FEWEST_STEPS, 300))
def test_the_stops_come_after_the_timed_steps_and_end_with_the_last_one(steps):
    course = Course(steps=steps, fewest=FEWEST_STEPS, allowed=300, rows=[], tuning_s=0.0, closing_s=0.0)
    assert course.stops[-1] == steps and len(course.stops) == LOOKS
    assert all(PROBE_STEPS <= stop <= steps for stop in course.stops)


def test_too_few_steps_are_not_begun():
    few = Course(
        steps=9, fewest=FEWEST_STEPS, allowed=300, rows=[], tuning_s=0.0, closing_s=0.0, missing_s=245.0
    )
    assert few.refusal is not None and few.refusal.startswith("9 steps fit the time")
    assert "about 4 m 05 s more are needed" in few.refusal
    kept = few.refusal
    of_inputs = replace(few, allowed=9).refusal
    assert "raise --budget" in kept and of_inputs is not None and "budget" not in of_inputs
    assert of_inputs.startswith("the inputs are enough for 9 steps, and fewer than 10 teach next to nothing")
    assert (
        Course(steps=10, fewest=FEWEST_STEPS, allowed=300, rows=[], tuning_s=0.0, closing_s=0.0).refusal
        is None
    )


@pytest.mark.parametrize(
    ("mean", "mixed", "said"),
    [
        (0.05, 0.3, None),
        (0.9, 0.3, None),
        (0.049, 0.5, "under 0.05 right answers are too rare"),
        (0.901, 0.5, "over 0.9 there's next to nothing left"),
        (0.4, 0.299, "under 30 % too many answers earn what the others"),
    ],
)
def test_the_gate_opens_where_rewards_are_neither_rare_nor_certain_and_often_unlike(mean, mixed, said):
    found = Gate(prompts=100, reward=mean, mixed=mixed, asked_s=1.0).refusal
    if said is None:
        assert found is None
    else:
        assert found is not None and said in found and f"the mean reward was {mean:.3f}" in found


class Asked:
    """Stands where `Tune` does for the gate: a journal, and prompts that take so many seconds each."""

    def __init__(self, monkeypatch, each_s: float, budget_s: float = 1000.0):
        self.plan = Plan(folder=Path("nowhere"), budget_s=budget_s, reserve_s=1.0, seed=0)
        self.records: list[dict] = []
        self.asked: list[int] = []
        self.clock = 0.0
        silent = SimpleNamespace(begin=lambda *a: 1, advance=lambda *a: None, end=lambda *a: None)
        self.context: Any = SimpleNamespace(reporter=silent)
        monkeypatch.setattr(gates.time, "perf_counter", lambda: self.clock)

        def drawn(state, given, items, place):
            self.asked += items
            self.clock += each_s * len(items)
            return [group(*[float(i < 2 + item % 2) for i in range(GROUP)]) for item in items]

        monkeypatch.setattr(gates, "drawn_groups", drawn)

    find = Learner.find

    def trainer(self, arm):
        pass

    def note(self, record):
        self.records.append(record)
        return record


def group(*rewards: float, drawn=None, **changes) -> Group:
    texts = drawn or [(at,) for at in range(len(rewards))]
    completions = tuple(
        Completion(text="", tokens=one, logprob=0.0, prompt_tokens=1, latency_s=0.0, drawn=one, **changes)
        for one in texts
    )
    request = Request(prompt=(7, 8), max_tokens=9)
    return Group(requests=(request,) * len(rewards), completions=completions, rewards=rewards)


@pytest.mark.parametrize(("each_s", "prompts"), [(0.1, 100), (3.0, 60), (10.0, 30), (16.0, 30), (17.0, 10)])
def test_the_gate_asks_fewer_prompts_where_time_is_short_but_thirty_at_least(monkeypatch, each_s, prompts):
    state: Any = Asked(monkeypatch, each_s)
    given = Prompts(spec=SPEC, examples=[], rows=[Row(prompt=(1,), answer=(2,))] * 240, left_out=0)
    found = gate(state, ARM, given)
    assert found.prompts == prompts == len(set(state.asked))
    assert (found.refusal is not None) == (prompts < 30)
    assert found.mixed == 1.0 and 0.25 < found.reward < 0.375
    again = gate(state, ARM, given)
    assert again == found and len(state.asked) == prompts


def test_a_set_with_fewer_rows_than_the_gate_would_ask_is_asked_whole(monkeypatch):
    state: Any = Asked(monkeypatch, 0.1)
    given = Prompts(spec=SPEC, examples=[], rows=[Row(prompt=(1,), answer=(2,))] * 47, left_out=0)
    assert gate(state, ARM, given).prompts == 47
    few: Any = Asked(monkeypatch, 0.1)
    found = gate(few, ARM, replace(given, rows=given.rows[:29]))
    assert found.refusal == "29 training prompts can be answered; at least 30 are needed"


def steps(*given: tuple[float, float]) -> list[dict]:
    return [{"reward": mean, "mixed": mixed} for mean, mixed in given]


def test_a_course_without_any_reward_or_with_too_few_unlike_ones_is_flagged():
    assert red_flag(steps(*[(0.0, 0.5)] * (ZERO_STEPS - 1))) is None
    assert "no answer earned anything in 20 steps" in str(red_flag(steps(*[(0.0, 0.5)] * ZERO_STEPS)))
    assert red_flag(steps((0.1, 0.5), *[(0.0, 0.5)] * (ZERO_STEPS - 1))) is None
    assert red_flag(steps(*[(0.5, 0.0)] * (EVEN_STEPS - 1))) is None
    assert red_flag(steps(*[(0.5, 0.25)] * EVEN_STEPS)) is None
    assert "in 87.5 % of the groups" in str(red_flag(steps(*[(0.5, 0.125)] * EVEN_STEPS)))
    assert red_flag(steps(*[(0.5, 0.0)] * 5, *[(0.5, 0.5)] * 5)) is None


ENGINE: Any = SimpleNamespace(let_through=lambda request, tokens: None)


def test_only_groups_with_unlike_rewards_teach_by_the_tokens_that_were_drawn():
    state: Any = SimpleNamespace(engine=ENGINE)
    even = group(1.0, 1.0)
    broken = group(1.0, 0.0, failure="it died")
    whole = group(1.0, 0.0, 0.0, 0.0, drawn=[(5, 0), (6, 0), (6, 0), (9, 0)])
    cut = group(1.0, 0.0, truncated=True)
    closed = replace(cut.completions[0], tokens=(0, 99))
    found = lesson_of(state, [even, broken, whole, replace(cut, completions=(closed, *cut.completions[1:]))])
    answers = [(one.row.answer, one.count) for one in found]
    assert answers == [((5, 0), 1), ((6, 0), 2), ((9, 0), 1), ((0,), 1), ((1,), 1)]
    assert all(one.row.prompt == (7, 8) for one in found)
    assert found[0].advantage == pytest.approx(0.75 / (0.5 + 1e-4))
    assert sum(one.count * one.advantage for one in found) == pytest.approx(0.0)


def test_a_yield_is_that_of_the_groups_in_which_no_call_broke():
    found = yield_of([group(1.0, 0.0), group(1.0, 1.0), group(0.0, 0.0, failure="it died")])
    assert (found.groups, found.reward, found.mixed, found.tokens, found.cut) == (2, 0.75, 0.5, 1.0, 0.0)
    with pytest.raises(TrainingError, match="no answer could be drawn to the training prompts: it died"):
        yield_of([group(1.0, 0.0, failure="it died")])


def test_a_reward_is_the_rows_own_score_and_nothing_for_what_cannot_be_read():
    row = Example(id="a", input="", output={"a": 1, "b": 2})
    assert reward(Answer(text="", value={"a": 1, "b": 3}), row, "field_f1") == 0.5
    assert reward(Answer(text="", value={"a": 1, "b": 3}), row, "exact") == 0.0
    assert reward(Answer(text="?", value=None), row, "field_f1") == 0.0
    none = Example(id="a", input="", output=[])
    assert reward(Answer(text="[]", value=[]), none, "tool_call") == 1.0
    assert reward(Answer(text="?", value=None), none, "tool_call") == 0.0
    number = Example(id="a", input="", output=3)
    assert reward(Answer(text="", value=3.0), number, "mae") == 1.0
    assert reward(Answer(text="", value=3.1), number, "mae") == 0.0


@pytest.mark.parametrize(
    ("query", "earned"),
    [
        ("SELECT b FROM t WHERE a > 1", 1.0),
        ("select b from t where not a <= 1 order by b", 1.0),
        ("SELECT b FROM t", 0.0),
        ("SELECT c FROM t WHERE a > 1", 0.0),
        ("SELECT b FROM t WHERE", 0.0),
        ("DROP TABLE t", 0.0),
    ],
)
def test_a_query_earns_what_it_gives_when_it_is_run(query, earned):
    statements = ("CREATE TABLE t (a INT, b TEXT, c INT)", "INSERT INTO t VALUES (1, 'x', 7), (2, 'y', 8)")
    wanted = Query("SELECT b FROM t WHERE a > 1", Tables(statements=statements))
    row = Example(id="a", input="which?", output=wanted)
    assert reward(Answer(text=query, value=query), row, "execution") == earned


def test_calls_earn_something_only_where_function_and_arguments_are_right():
    call: dict[str, Any] = {"name": "find", "arguments": {"topic": "login", "most": 3}}
    row = Example(id="a", input="", output=[call])
    for made, earned in (
        ([call], 1.0),
        ([{"name": "find", "arguments": {"most": 3, "topic": "login"}}], 1.0),
        ([{"name": "find", "arguments": {"topic": "login"}}], 0.0),
        ([{"name": "ask", "arguments": call["arguments"]}], 0.0),
        ([call, call], 0.0),
        ([], 0.0),
    ):
        assert reward(Answer(text="", value=made), row, "tool_call") == earned, made


def test_what_nothing_can_check_has_no_reward():
    assert {metric for metric in SCORERS if no_reward(metric, "text") is None} == CHECKED.keys()
    said = no_reward("rouge_l", "text")
    assert said is not None and "the metric rouge_l can't tell of one answer alone" in said
    label = no_reward("accuracy", "label")
    assert label is not None and "the answer is a label" in label
