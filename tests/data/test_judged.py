from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.judged import with_undesirable
from rung.data.splits import question, split
from rung.records import Example, Splits

QUESTIONS = [
    f"How do I {verb} the {thing} that I bought {when}?"
    for verb in ("return", "mend")
    for thing in ("lamp", "chair", "blue teapot")
    for when in ("yesterday", "in the sale", "from the other shop")
]


def example(number: int, answer: str, group: str | None = None) -> Example:
    text = QUESTIONS[number]
    return Example(id=f"{number}", input=text, output=answer, group=group, where=f"rows.jsonl:{number}")


def parts(*, test=(), dev=(), train=(), removed=()) -> Splits:
    return Splits(
        train=tuple(train),
        dev=tuple(dev),
        test=tuple(test),
        test_given=True,
        digest="d",
        removed=tuple(removed),
    )


numbers = st.lists(st.integers(0, len(QUESTIONS) - 1), unique=True, max_size=6)
bad_rows = st.lists(
    st.builds(example, st.integers(0, len(QUESTIONS) - 1), st.sampled_from("ab")), max_size=10
)


@settings(deadline=None)
@given(numbers, bad_rows, st.integers(0, 3))
def test_what_is_learned_from_asks_nothing_that_dev_or_the_test_asks(placed, bad, seed):
    rows = [example(number, "good") for number in placed]
    made = parts(test=rows[:2], dev=rows[2:4], train=rows[4:])
    found = with_undesirable(made, bad, seed)
    asked = {
        name: {question(e) for e in part}
        for name, part in (("test", made.test), ("dev", made.dev), ("train", made.train))
    }
    assert not {question(e) for e in found.undesirable} & (asked["test"] | asked["dev"])
    assert not {question(e) for e in found.dev_undesirable} & (asked["test"] | asked["train"])
    assert not {question(e) for e in found.undesirable} & {question(e) for e in found.dev_undesirable}
    # None is lost but those of the test.
    assert len(found.undesirable) + len(found.dev_undesirable) == sum(
        question(e) not in asked["test"] and not near(e, made.test) for e in bad
    )
    assert (found.train, found.dev, found.test) == (made.train, made.dev, made.test)


def near(row: Example, others) -> bool:
    """By another way than the code's: the share of 5-letter pieces that two texts have in common."""

    def pieces(text: str) -> set[str]:
        plain = question(Example(id="", input=text, output=""))[0]
        return {plain[at : at + 5] for at in range(len(plain) - 4)}

    own = pieces(row.input)
    return any(len(own & pieces(e.input)) > 0.8 * len(own | pieces(e.input)) for e in others)


@settings(deadline=None)
@given(bad_rows, st.randoms())
def test_the_order_of_the_file_changes_nothing(bad, dice):
    made = parts(dev=[example(0, "good")], train=[example(1, "good")])
    shuffled = list(bad)
    dice.shuffle(shuffled)
    one, other = with_undesirable(made, bad, 0), with_undesirable(made, shuffled, 0)
    assert [(e.id, e.output) for e in one.undesirable] == [(e.id, e.output) for e in other.undesirable]
    assert one.digest == other.digest


def test_a_group_and_a_version_of_a_question_keep_an_answer_on_their_side():
    text = (
        "My parcel was to arrive on Monday and it is Thursday now; the courier says that it never left the "
        "shop, where can I see what became of it?"
    )
    of = [Example(id=name, input=f"{name}?", output="good", group=name) for name in ("dev", "test", "train")]
    version = Example(id="v", input=text, output="good")
    made = parts(dev=[of[0]], test=[of[1], version], train=[of[2]])
    bad = [
        *(Example(id=f"b-{e.id}", input=f"other: {e.group}", output="bad", group=e.group) for e in of),
        Example(id="near", input=text.replace("Monday", "Tuesday"), output="bad"),
    ]
    found = with_undesirable(made, bad, 0)
    assert [e.id for e in found.dev_undesirable] == ["b-dev"]
    assert [e.id for e in found.undesirable] == ["b-train"]
    removed = parts(train=[of[2]], dev=[of[0]], removed=[version])
    kept = with_undesirable(removed, bad[3:], 0)
    assert not kept.undesirable and not kept.dev_undesirable


def test_about_a_fifth_of_the_answers_that_no_part_knows_is_kept_for_dev():
    bad = [Example(id=f"{n}", input=f"{n * 7919} is what I asked, {n}", output="bad") for n in range(400)]
    found = with_undesirable(parts(train=[example(0, "good")]), bad, 0)
    assert 50 <= len(found.dev_undesirable) <= 110
    assert len(found.dev_undesirable) + len(found.undesirable) == 400


def test_a_run_is_another_one_where_a_rejected_or_an_undesirable_answer_is():
    rows = [replace(example(number, "good"), rejected="bad") for number in range(12)]
    other = [replace(rows[0], rejected="worse"), *rows[1:]]
    plain = [replace(row, rejected=None) for row in rows]
    digests = {split(each, test=None, seed=0, stratify=False).digest for each in (rows, other, plain)}
    assert len(digests) == 3
    made = parts(train=[example(0, "good")])
    ones = {with_undesirable(made, [example(1, answer)], 0).digest for answer in ("bad", "worse")}
    assert len(ones | {made.digest}) == 3
