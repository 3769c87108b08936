"""Nearest worked examples for rows that are among them: looked up among the others, and searched over so."""

import random
from dataclasses import replace

import pytest

from rung.models.resolve import resolve
from rung.rungs import optimise as module
from rung.rungs.few_shot import _variants
from rung.rungs.left_out import enough_left, half_at_most, leaving_out
from rung.rungs.optimise import Optimise
from rung.rungs.reflect import (
    FEWEST_ROWS,
    _Search,
    can_be_asked,
    reflected,
    reflector,
    rows_to_reflect_on,
)
from rung.rungs.variants import choose
from rung.system import Pool, read_index
from rung.wording import question
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows
from tests.rungs.test_optimise import Mentor, taught

SEARCH = Optimise(metric_calls=150)
NEAREST = "4 nearest examples"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    """A climb whose best prompt so far shows the nearest examples."""
    model = resolve(str(tiny))
    with (
        Pool(models={model.digest: model}, threads=1, parallel=4) as pool,
        opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(80)), tmp_path) as found,
    ):
        found = replace(found, bench=replace(found.bench, pool=pool))
        below = {one.name: one.system for one in _variants(replace(found, folder=tmp_path / "below"))[0]}
        yield replace(found, built={"few_shot": below[NEAREST]})


@pytest.fixture
def mentor():
    found = Mentor()
    yield found
    found.close()


def stored(system):
    """The inputs of its worked examples."""
    return {shot.input for shot in read_index(system.folder)[0]}


def test_rows_that_are_asked_and_their_groups_are_among_no_examples(context):
    system = context.built["few_shot"]
    assert stored(system) == {question(e) for e in context.train}
    groups = [f"group {place // 3}" for place in range(len(context.train))]
    context = replace(
        context, train=tuple(replace(e, group=g) for e, g in zip(context.train, groups, strict=True))
    )
    asked = context.train[:4]
    found = leaving_out(context, system, asked)
    assert stored(found) == {question(e) for e in context.train[6:]}, "the second group, too"
    shots, vectors = read_index(found.folder)
    whole, known = read_index(system.folder)
    by_input = {shot.input: vector.tolist() for shot, vector in zip(whole, known, strict=True)}
    assert [by_input[shot.input] for shot in shots] == vectors.tolist()
    assert found.spec.model_copy(update={"files": {}}) == system.spec.model_copy(update={"files": {}})
    looked_up = [[shot.input for shot in shots] for shots in found._shots(asked, context.pool)]
    assert all(len(shots) == 4 and not {question(e) for e in asked} & set(shots) for shots in looked_up)
    assert all(question(e) in {s.input for s in system._shots([e], context.pool)[0]} for e in asked)
    assert enough_left(context, system, context.train[:-6]), "six are left"
    assert not enough_left(context, system, context.train[:-3]), "fewer than four are"


def test_what_asks_the_same_in_other_letters_is_left_out_with_it(context):
    row, *others = context.train
    twin = replace(row, id="twin", input=f"  {row.input.upper()} ")
    context = replace(context, train=(row, twin, *others))
    below = {one.name: one.system for one in _variants(replace(context, folder=context.folder / "more"))[0]}
    assert question(twin) in stored(below[NEAREST])
    found = stored(leaving_out(context, below[NEAREST], [row]))
    assert found == {question(e) for e in others}


def test_rows_that_are_asked_are_whole_draws_and_half_of_the_others_stay(context):
    def grouped(size):
        return tuple(replace(e, group=f"group {n // size}") for n, e in enumerate(context.train))

    for train in (context.train, grouped(4), grouped(10)):
        given = replace(context, train=train)
        asked = half_at_most(given, train, random.Random(1))
        apart = {e.group or e.id for e in asked}
        assert len(train) // 2 - 10 < len(asked) <= len(train) // 2
        assert not apart & {e.group or e.id for e in train if e not in asked}
        assert asked != half_at_most(given, train, random.Random(2))
    assert half_at_most(replace(context, train=grouped(1000)), context.train, random.Random(1)) == []


def test_one_that_looks_nothing_up_is_asked_as_it_is(context):
    (fixed,) = [
        one.system
        for one in _variants(replace(context, folder=context.folder / "more"))[0]
        if one.system.spec.shots.choice == "fixed"
    ]
    assert leaving_out(context, fixed, context.train) is fixed


def test_a_search_begins_with_nearest_examples_where_they_are_best_and_shows_no_row_itself(
    context, mentor, monkeypatch
):
    context = taught(context, mentor.url)
    evaluate, asked = _Search.evaluate, []

    def watched(self, batch, candidate, capture_traces=False):
        asked.append((self.system(candidate["instruction"]), batch))
        return evaluate(self, batch, candidate, capture_traces)

    monkeypatch.setattr(_Search, "evaluate", watched)
    built = SEARCH.build(context)
    assert len(asked) > 1
    for system, batch in asked:
        assert system.spec.shots.choice == "nearest" and system.spec.shots.k == 4
        assert not stored(system) & {question(e) for e in batch}
    assert (
        "Beside it the model is shown 4 worked examples, the ones most like the input." in mentor.prompts[0]
    )
    chosen = built.system
    assert chosen.spec.rung == "optimise" and built.upon == "few_shot"
    assert stored(chosen) == {question(e) for e in context.train}, "dev is shown all of them"
    count = len(mentor.prompts)
    again = SEARCH.build(taught(context, mentor.url))
    assert len(mentor.prompts) == count and again.system.digest == chosen.digest


def test_an_instruction_that_is_found_goes_to_dev_with_all_examples(context, mentor, monkeypatch):
    context = taught(context, mentor.url)
    found = {}

    def first_found(given, variants, *rest, **more):
        found.update({one.name: one.system for one in variants})
        return choose(given, variants, *rest, **more)

    evaluate = _Search.evaluate

    def better_by_rules(self, batch, candidate, capture_traces=False):
        given = evaluate(self, batch, candidate, capture_traces)
        ruled = float(candidate["instruction"].startswith("Rule"))
        return replace(given, scores=[0.5 * ruled] * len(batch))

    monkeypatch.setattr(_Search, "evaluate", better_by_rules)
    monkeypatch.setattr(module, "choose", first_found)
    built = SEARCH.build(context)
    assert any(one.spec.instruction.startswith("Rule") for one in found.values())
    assert built.system.digest in {one.digest for one in found.values()}
    assert all(stored(one) == {question(e) for e in context.train} for one in found.values())
    assert len({one.digest for one in found.values()}) == len(found)


def test_with_few_rows_a_search_begins_with_what_looks_nothing_up_and_says_so(context, mentor):
    system = context.built["few_shot"]
    learn, validate = rows_to_reflect_on(context, system)
    assert len(learn) + len(validate) == len(context.train) // 2
    assert can_be_asked(context, system) and module._first(context) is system
    few = replace(context, train=context.train[: 2 * FEWEST_ROWS - 1])
    assert not can_be_asked(few, system) and module._first(few) is None
    of_one = replace(context, train=tuple(replace(e, group="all") for e in context.train))
    assert not can_be_asked(of_one, system), "nobody else is left to look at"
    built = SEARCH.build(taught(of_one, mentor.url))
    assert module.NOT_NEAREST in built.notes and built.system.spec.shots.choice == "none"
    assert module.NOT_NEAREST not in SEARCH.build(taught(context, mentor.url)).notes


def test_what_is_looked_up_meanwhile_stays_in_memory_no_longer_than_the_search(context, mentor, monkeypatch):
    context = taught(context, mentor.url)
    start, seen, evaluate = context.built["few_shot"], set(), _Search.evaluate

    def watched(self, *given, **more):
        found = evaluate(self, *given, **more)
        seen.update(context.pool.indexes)
        return found

    monkeypatch.setattr(_Search, "evaluate", watched)
    reflected(context, start, reflector(context), 60)
    assert len(seen - {start.shots_key}) == 1 and set(context.pool.indexes) <= {start.shots_key}
