"""Which model reflects on mistakes, that one of this machine does, and what is made of what it replies."""

import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from rung.errors import ModelError
from rung.models.resolve import resolve
from rung.records import Answer
from rung.rungs import optimise as module
from rung.rungs.optimise import Optimise
from rung.rungs.reflect import REPLIES, _Search, cannot_reflect, no_reflection, reflected, reflector
from rung.rungs.replies import LocalReplies, Reply, replying
from rung.rungs.variants import choose
from rung.spec import Spec
from rung.system import save
from tests.fixtures_climb import label_rows, make_tiny_gguf, opened, write_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def context(tiny, tmp_path):
    with opened(tiny, write_rows(tmp_path / "topics.jsonl", label_rows(80)), tmp_path) as found:
        yield found


def kept(context):
    """The files of answers and how long they are."""
    return {path.name: path.stat().st_size for path in context.bench.store.folder.iterdir()}


def answering(context, system, *, train=False, dev=False) -> None:
    """Keep a System's answers to every row: right ones, or such as can't be read.

    The first dev rows stand alone, as they're asked where a pace is told by them.
    """
    first, second, *others = context.dev
    for rows, right in (([first], dev), ([second], dev), (others, dev), (context.train, train)):
        given = [Answer(text="?") if not right else Answer(text=str(e.output), value=e.output) for e in rows]
        context.bench.store.append(system.digest, list(zip(rows, given, strict=True)), 1.0)


def named(context, teacher):
    """The context of a task with that teacher."""
    return replace(context, task=context.task.model_copy(update={"teacher": str(teacher)}))


def test_a_teacher_that_is_a_system_is_said_to_reflect_on_nothing_and_what_would(context, tmp_path):
    system = save(tmp_path / "s", Spec(rung="prompt", task="t", kind="label", engine="fake"), {})
    given = named(context, system.folder)
    why = no_reflection(given.task)
    assert f"the teacher {system.folder} is a System" in str(why)
    assert "of this machine, can reflect" in str(why)
    assert reflector(given) is None and why in Optimise().build(given).notes
    assert "no model reflects" in str(no_reflection(context.task))
    assert no_reflection(named(context, "smollm2-135m").task) is None


def test_no_model_reflects_on_style_whichever_it_is(context, tiny):
    local = named(context, tiny)
    assert cannot_reflect(local) is None
    styled = replace(local, bench=replace(local.bench, metric="style"))
    assert "style is of all texts together" in str(cannot_reflect(styled))


def test_with_a_teacher_of_this_machine_the_rung_needs_rows_to_reflect_on(context, tiny):
    few = replace(named(context, tiny), train=context.train[:10])
    assert "needs at least 20" in str(Optimise().skip(few))
    assert not few.pool.engines, "nothing is loaded to say so"


def test_how_long_a_search_takes_is_told_by_what_it_begins_with_and_nobody_reflects_for_that(
    context, tmp_path, monkeypatch
):
    def never(self, prompt, *, max_tokens, number=0):
        raise AssertionError("a reply is asked for")

    monkeypatch.setattr(LocalReplies, "reply", never)
    given = named(context, make_tiny_gguf(tmp_path / "mentor.gguf", context=8192))
    told = Optimise().outlook(given)
    assert told is not None and told.by == REPLIES
    assert 0 < told.least_s <= told.low_s < told.seconds < told.high_s
    assert told.high_s > 0.5 * given.seconds_left - 5, "the search may take half of the time"
    before, again = kept(given), Optimise().outlook(given)
    assert kept(given) == before and again is not None and again.least_s == told.least_s
    longer = Optimise(metric_calls=6000).outlook(given)
    assert longer is not None and longer.low_s > told.low_s
    assert given.told("seconds per answer") is None, "that of the candidates is asked when there are some"
    answering(given, module._start(given), dev=True)
    known = Optimise().outlook(given)
    assert known is not None and known.high_s > told.high_s - 5, "no other instruction was asked anything yet"


def test_a_model_of_this_machine_reflects_and_nonsense_gives_the_start_back(context, tmp_path, monkeypatch):
    mentor = make_tiny_gguf(tmp_path / "mentor.gguf", context=8192)
    given = named(context, mentor)
    start = module._start(given)
    answering(given, start, dev=True)
    built = Optimise(metric_calls=45).build(given)
    assert built.system.digest == start.digest and built.spent_usd == 0
    assert not any("ended early" in note for note in built.notes)
    (note,) = [note for note in built.notes if " wrote " in note]
    assert re.match(r"mentor wrote [1-9]\d* instructions .* reading [\d,]{3,} tokens", note)
    assert all(spec.context < 8192 for spec in given.pool.engines), "its engine is closed"

    def never(self, prompt, *, max_tokens, number=0):
        raise AssertionError("a reply that is kept is asked for again")

    monkeypatch.setattr(LocalReplies, "reply", never)
    before, again = kept(given), Optimise(metric_calls=45).build(given)
    assert again.system.digest == start.digest and note in again.notes and kept(given) == before


def test_a_model_of_this_machine_draws_by_seed_and_number_and_leaves_room_for_its_reply(context, tmp_path):
    model = replying(str(make_tiny_gguf(tmp_path / "mentor.gguf", context=400)), context.pool, 3)
    assert model is not None and model.fits("Why?", 1000) and not model.fits("why " * 200, 1000)
    first, other = (model.reply("Why?", max_tokens=1000, number=number) for number in (0, 1))
    assert first == model.reply("Why?", max_tokens=1000) and first.text != other.text
    assert 0 < first.completion_tokens <= 100, "a quarter of what it holds at most"
    assert [spec.parallel for spec in context.pool.engines] == [1], "no memory for several at a time"
    model.close()
    model.close()
    assert not context.pool.engines and model.reply("Why?", max_tokens=1000) == first


def test_a_model_that_writes_nothing_does_not_reflect(context, tiny, monkeypatch):
    found = resolve(str(tiny))
    monkeypatch.setattr("rung.rungs.replies.resolve", lambda name: replace(found, kind="embed"))
    with pytest.raises(ModelError, match="makes sentence vectors and writes nothing"):
        LocalReplies(str(tiny), context.pool, 0).reply("Why?", max_tokens=8)


@dataclass
class Scripted:
    """Replies as it is told, by turns; its prompts may have so many characters, and a reply takes seconds."""

    replies: list[str]
    room: int = 10**6
    clock: dict[str, float] = field(default_factory=lambda: {"now": 0.0})
    reply_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    closed: int = 0
    name: str = "sage"
    known_as: str = "sage"

    def fits(self, prompt, max_tokens):
        return len(prompt) <= self.room

    def reply(self, prompt, *, max_tokens, number=0):
        self.asked.append(prompt)
        self.clock["now"] += self.reply_s
        text = self.replies[(len(self.asked) - 1) % len(self.replies)]
        return Reply(text=text, prompt_tokens=len(prompt), completion_tokens=len(text))

    def close(self):
        self.closed += 1


def test_the_instruction_that_a_reply_holds_is_what_is_tried_and_kept_where_it_is_better(context):
    sage = Scripted(["Let me think.\n```\nGuess.\n```", "```\nName what the text is about.\n```"])
    start = module._start(context)
    search = _Search(context, start, sage)
    answering(context, start)
    answering(context, search.system("Guess."))
    answering(context, search.system("Name what the text is about."), train=True, dev=True)
    found, notes = reflected(context, start, sage, 150)
    told = [one.system.spec.instruction for one in found]
    assert told == [start.spec.instruction, "Name what the text is about."], "Guess. did no better"
    assert str(start.spec.instruction) in sage.asked[0] and "can't be read as a label" in sage.asked[0]
    assert "1 did better on the rows" in notes[0] and notes[0].startswith("sage wrote ") and sage.closed == 1
    chosen, _, _ = choose(context, found, 32, halving=True)
    assert chosen.system.spec.instruction == "Name what the text is about."


def test_a_model_with_little_room_is_shown_less_of_each_row_and_one_with_none_ends_the_search(context):
    long = tuple(replace(e, input=f"{e.input} {'please ' * 200}", context=None) for e in context.train)
    context = replace(context, train=long)
    start = module._start(context)
    answering(context, start)
    sage = Scripted(["nothing in marks"], room=3500)
    reflected(context, start, sage, 40)
    assert sage.asked and all(len(prompt) <= 3500 for prompt in sage.asked)
    assert all(row.count("please") >= 60 for prompt in sage.asked for row in prompt.split("## Input")[1:])
    small = replace(context, folder=context.folder / "small")
    tight = Scripted(["never asked"], room=900)
    _, notes = reflected(small, start, tight, 40)
    assert not tight.asked and "the search ended early: sage has no room for an instruction" in notes[-1]


def test_no_reply_is_begun_that_may_take_the_time_that_is_kept_for_dev(context, monkeypatch):
    start = module._start(context)
    answering(context, start)

    def replies(reply_s: float) -> int:
        sage = Scripted(["```\nGuess.\n```", "```\nTry.\n```"], reply_s=reply_s)
        clock = SimpleNamespace(monotonic=lambda: sage.clock["now"])
        for where in ("base", "reflect"):
            monkeypatch.setattr(f"rung.rungs.{where}.time", clock)
        folder = context.folder / f"replies of {reply_s:g} s"
        reflected(replace(context, folder=folder, deadline=300.0), start, sage, 300)
        return len(sage.asked)

    assert replies(100.0) == 1, "after one 200 s are left, of which 150 are dev's"
    assert replies(40.0) == 3 and replies(1.0) > 3
