"""Where fine-tuning doesn't win the first sentence says so, and why."""

import re
from dataclasses import replace

import pytest
from climb_fixture import measurement, one_rung_climb, synthetic_climb

from rung.climb.ending import UNTESTED
from rung.records.judged import Judged
from rung.report.plain import REASONS, in_plain_words


def with_result(climb, rung, **changes):
    found = tuple(replace(r, **changes) if r.rung == rung else r for r in climb.results)
    return replace(climb, results=found)


def shipping(climb, rung, **changes):
    return replace(climb, decision=replace(climb.decision, chosen=rung, **changes))


def first(climb):
    """The first sentence."""
    return re.split(r"(?<=\.) (?=[A-Z])", in_plain_words(climb))[0]


def cut(climb):
    return with_result(climb, "sft", cut_short=True, passes=0.41)


def under_the_floor(climb):
    assert climb.constant is not None
    return replace(climb, constant=replace(climb.constant, score=0.92, gain=0.01, beaten=False))


@pytest.mark.parametrize(
    ("climb", "loses", "why"),
    [
        (shipping(synthetic_climb(), "head"), "Fine-tuning doesn't pay here", REASONS["head"]),
        (
            shipping(cut(synthetic_climb()), "head"),
            "Fine-tuning doesn't pay here in the time it had",
            "isn't clearly better than a small linear model (head); training ended after 41 % of a pass",
        ),
        (
            shipping(with_result(synthetic_climb(), "sft", over_limits=("p95 9 ms is over 5 ms",)), "head"),
            "Fine-tuning doesn't win here",
            "over the limits that were set (p95 9 ms is over 5 ms)",
        ),
        (
            under_the_floor(shipping(synthetic_climb(), "head")),
            "Fine-tuning isn't shown to pay here",
            "what would ship isn't shown to do the job: always giving one and the same answer",
        ),
        (
            under_the_floor(cut(synthetic_climb())),
            "Fine-tuning isn't shown to pay here",
            "on 93, which may be chance on these rows; training ended after 41 % of a pass through its rows, "
            "and more time may change that.",
        ),
        (
            under_the_floor(shipping(with_result(synthetic_climb(), "sft", over_limits=("memory",)), "head")),
            "Fine-tuning doesn't win here",
            "the tuned model is over the limits that were set, and what would ship isn't shown",
        ),
        (
            under_the_floor(shipping(synthetic_climb(), "head", kind="undecided", best="sft", rows_needed=9)),
            "Whether fine-tuning pays can't be told yet",
            "which may be chance; labelling about 9 more test rows",
        ),
        (
            shipping(synthetic_climb(), "head", kind="undecided", best="few_shot", rows_needed=412),
            "Fine-tuning isn't shown to pay here",
            REASONS["few_shot"],
        ),
        (
            with_result(
                shipping(synthetic_climb(), "head", kind="undecided", best="few_shot", rows_needed=412),
                "sft",
                over_limits=("memory",),
            ),
            "Fine-tuning doesn't win here",
            "over the limits that were set (memory)",
        ),
    ],
)
def test_the_first_sentence_says_that_fine_tuning_does_not_win_and_why(climb, loses, why):
    assert first(climb).startswith(loses)
    assert why in first(climb)


def test_where_two_ways_without_training_are_open_the_rows_that_would_tell_are_said_behind():
    climb = shipping(synthetic_climb(), "head", kind="undecided", best="few_shot", rows_needed=412)
    said = in_plain_words(climb).removeprefix(first(climb))
    assert said.startswith(" Which way to take instead can't be told yet; labelling about 420 more test rows")


def test_a_tune_whose_calls_broke_is_not_said_to_bring_no_more():
    broken = measurement("sft", "test", 360, 0.95, failures=40)
    climb = shipping(with_result(synthetic_climb(), "sft", test=broken), "head")
    assert first(climb) == "Fine-tuning doesn't pay here: too many of the tuned model's calls broke."


def test_facts_that_are_lacking_are_the_reason_in_too_little_time_also():
    climb = cut(synthetic_climb())
    prompt = next(r for r in climb.results if r.rung == "prompt")
    found = replace(prompt, rung="retrieval", gap="knowledge", test=None)
    said = first(shipping(replace(climb, results=(*climb.results, found)), "retrieval"))
    assert said == (
        "Fine-tuning doesn't pay here in the time it had: what the model lacks is facts, and these are found "
        "rather than learned; training ended after 41 % of a pass through its rows, and more time may change "
        "that."
    )


def test_an_open_verdict_says_what_keeps_it_open():
    climb = shipping(synthetic_climb(), "head", kind="undecided", best="sft", rows_needed=None)
    assert first(climb).endswith("but all rows are of one group or question, and one alone shows no gain.")
    apart = replace(climb, decision=replace(climb.decision, comparisons=()))
    assert first(apart).endswith("but too few rows were answered by both to compare them.")
    untested = with_result(climb, "sft", test=None, notes=(f"{UNTESTED}the server broke",))
    assert first(untested).endswith("but the tuned model has no test score.")


def test_a_judge_that_nobody_checked_is_why_nothing_can_be_told():
    judged = Judged(model="m", digest="d", pairs=9, steady=9, broken=0, paid_usd=0.0)
    both = shipping(synthetic_climb(), "head", kind="undecided", best="head", rows_needed=None)
    assert in_plain_words(replace(both, judged=judged)) == (
        "Whether fine-tuning pays can't be told yet; first people have to check the judge."
    )


def test_without_a_verdict_the_reason_is_said():
    none = one_rung_climb()
    start = "Whether fine-tuning pays can't be told from these rows: "
    few = "nothing inside the limits answered the 50 rows that a verdict needs."
    assert in_plain_words(none) == f"{start}{few}"
    short = in_plain_words(replace(none, n_test=40))
    assert short == f"{start}a verdict needs 50 test rows, and there are 40."
    over = with_result(none, "prompt", over_limits=("memory",))
    assert in_plain_words(over) == f"{start}nothing that was tried is inside the limits that were set."
    assert in_plain_words(replace(none, results=())) == f"{start}nothing that was tried has a score."
    broke = with_result(none, "prompt", notes=(f"{UNTESTED}the server broke",))
    picked = replace(broke, dev_decision=replace(none.dev_decision, chosen="prompt"))
    assert in_plain_words(picked) == (
        f"{start}an instruction alone (prompt), the choice on dev, has no test score."
    )
