import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.checks.base import Subject
from rung.checks.preference import cohens_d, copies, preferences
from rung.records import Example, Finding, Json, Splits
from rung.task import DataFiles, Output, Task


def found(pairs: Sequence[tuple[Json, str | None]], prompt: str = "What is it?") -> list[Finding]:
    rows = tuple(
        Example(id=str(n), input=prompt, output=chosen, rejected=rejected, where=f"rows.jsonl:{n}")
        for n, (chosen, rejected) in enumerate(pairs, start=1)
    )
    made = Splits(train=rows, dev=(), test=(), test_given=False, digest="")
    task = Task(data=DataFiles(train=Path("rows.jsonl")), output=Output(kind="text"))
    outcome = preferences(Subject(task=task, splits=made))
    assert isinstance(outcome, list)
    return outcome


def judged(
    desirable: Sequence[str], undesirable: Sequence[str], prompt: str = "What is it?"
) -> list[Finding]:
    """The findings on answers judged one by one, of which some were put into the test."""
    sides = [
        tuple(
            Example(id=f"{side}{n}", input=prompt, output=answer, where=f"rows.jsonl:{n}")
            for n, answer in enumerate(answers)
        )
        for side, answers in (("d", desirable), ("u", undesirable))
    ]
    half = len(sides[0]) // 2
    made = Splits(train=sides[0][half:], dev=(), test=sides[0][:half], test_given=False, digest="")
    task = Task(data=DataFiles(train=Path("rows.jsonl")), output=Output(kind="text"))
    outcome = preferences(Subject(task=task, splits=made, undesirable=sides[1]))
    assert isinstance(outcome, list)
    return outcome


@pytest.mark.parametrize(
    ("desirable", "undesirable", "severity", "said"),
    [
        (50, 50, None, ""),
        (80, 20, None, ""),
        (20, 80, None, ""),
        (81, 19, "warn", "19.0% are undesirable"),
        (19, 81, "warn", "19.0% are desirable"),
        (95, 5, "warn", "5.0% are undesirable"),
        (96, 4, "block", "4.0% are undesirable"),
        (4, 96, "block", "4.0% are desirable"),
        (10, 0, "block", "10 desirable answers beside 0 undesirable ones: none is undesirable"),
    ],
)
def test_hardly_any_answers_of_one_judgement_warn_or_block(
    desirable: int, undesirable: int, severity: str | None, said: str
) -> None:
    messages = judged(["yes"] * desirable, ["no!"] * undesirable)
    assert [one.severity for one in messages] == ([severity] if severity else [])
    assert all(said in one.message for one in messages)
    assert all(("--accept preferences" in one.message) is (severity == "block") for one in messages)


def test_desirable_answers_that_are_longer_or_copy_the_prompt_are_named() -> None:
    dice = random.Random(0)
    shorter, longer = ([f"{n:02}" * dice.randint(a, a + 9) for n in range(20)] for a in (5, 50))
    (one,) = judged(longer, shorter)
    assert one.severity == "block"
    assert "desirable answers are longer than undesirable ones" in one.message
    assert "add answers of like length" in one.message
    same = [f"{PROMPT} {n}" for n in range(10)]
    (one,) = judged(same, same, PROMPT)
    assert "desirable answers with 40 characters and more of their prompt: 10 rows" in one.message


def of_lengths(*lengths: tuple[int, int]) -> list[tuple[Json, str | None]]:
    return [("a" * chosen, "b" * rejected) for chosen, rejected in lengths]


EVEN = of_lengths((10, 10), (20, 20), (30, 30), (40, 40))


def test_rows_without_a_rejected_answer_and_pairs_of_like_length_are_silent() -> None:
    assert found([("a", None), ("bbbbbbbbbbbb", None)]) == []
    assert found(EVEN) == []


@pytest.mark.parametrize("same", [("yes", "yes"), ("a  b\n", "a b"), ({"a": 1}, '{"a": 1}')])
def test_one_pair_of_equal_answers_blocks(same: tuple[Json, str]) -> None:
    (one,) = found([*EVEN * 10, same])
    assert (one.severity, one.rows) == ("block", ("rows.jsonl:41",))
    assert "chosen and rejected answers that are equal: 1 row, such as rows.jsonl:41" in one.message


@pytest.mark.parametrize(
    ("longer", "severity"), [(0, None), (3, None), (4, "warn"), (10, "warn"), (11, "block"), (40, "block")]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_answers_that_differ_in_length_warn_or_block(longer: int, severity: str | None, sign: int) -> None:
    # The spread of 100, 110, 120, 130 is √(500/3) = 12.9: .3 of it is 3.9, .8 of it 10.3.
    lengths = [(100 + 10 * n + (longer if sign > 0 else 0), 100 + 10 * n) for n in range(4)]
    pairs = of_lengths(*(pair if sign > 0 else (pair[0], pair[1] + longer) for pair in lengths))
    messages = found(pairs)
    assert [one.severity for one in messages] == ([severity] if severity else [])
    if severity:
        assert f"are {'longer' if sign > 0 else 'shorter'} than rejected ones" in messages[0].message
        assert f"d {sign * longer / 12.91:+.2f})" in messages[0].message


def test_cohens_d_is_that_of_a_worked_example() -> None:
    assert cohens_d([2, 4, 6], [1, 3, 5]) == 0.5
    assert cohens_d([1], [9]) == 0
    assert cohens_d([3, 3], [3, 3]) == 0
    assert cohens_d([2, 2], [3, 3]) == float("-inf")


PROMPT = "Please read the following letter with care and say in one word what it is about."


@pytest.mark.parametrize(("copying", "blocked"), [(1, False), (2, True)])
def test_prompts_repeated_in_a_tenth_of_the_answers_block(copying: int, blocked: bool) -> None:
    own = [
        (f"{n:02} A word of its own, and others beside it to fill it up.", f"{n:02} b" * 13)
        for n in range(20)
    ]
    copied = [(f"You said: {PROMPT[5:50]}", "b" * 55)] * copying
    outcome = [one for one in found([*own[: 20 - copying], *copied], PROMPT) if "their prompt" in one.message]
    assert [one.severity for one in outcome] == (["block"] if blocked else [])
    if blocked:
        assert "2 rows (10.0%), such as rows.jsonl:19" in outcome[0].message


def test_forty_characters_are_a_copy_and_thirty_nine_are_none() -> None:
    for start in range(len(PROMPT) - 40):
        assert copies(PROMPT, f"<{PROMPT[start : start + 40]}>")
        assert not copies(PROMPT, f"<{PROMPT[start : start + 39]}>")


@given(st.text(alphabet="ab", max_size=60), st.text(alphabet="ab", max_size=60), st.integers(1, 5))
def test_a_copy_is_found_exactly_where_a_plain_search_finds_one(text: str, answer: str, half: int) -> None:
    plain = any(answer[at : at + 2 * half] in text for at in range(len(answer) - 2 * half + 1))
    assert copies(text, answer, 2 * half) == plain


def test_long_texts_are_compared_quickly() -> None:
    dice = random.Random(0)
    text, answer = ("".join(dice.choices("abcdefgh ", k=500_000)) for _ in range(2))
    assert not copies(text, answer)
    assert copies(text, answer + text[77_777:77_817])
