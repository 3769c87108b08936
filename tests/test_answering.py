import pytest

import rung
from rung.errors import EngineError, TaskError
from rung.models.head import counted, fit_tfidf, head_files
from rung.models.resolve import resolve
from rung.spec import AnswerSpec, Spec
from rung.system import Pool, ref_to, save
from tests.fixtures_climb import make_tiny_gguf

ROWS = [("the parcel is late", "delivery"), ("no parcel came", "delivery"), ("I forgot my password", "login")]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    texts, labels = [text for text, _ in ROWS], [label for _, label in ROWS]
    made = fit_tfidf(counted(texts), labels, 1.0, 0)
    spec = Spec(rung="head", task="t", kind="label", labels=made.labels, engine="head", features="tfidf")
    return save(tmp_path_factory.mktemp("made") / "head", spec, head_files(made)).folder


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    gguf = make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    spec = Spec(
        rung="prompt",
        task="t",
        kind="label",
        labels=("no", "yes"),
        engine="llama",
        model=ref_to(resolve(str(gguf)), str(gguf)),
        style="terse",
        answer=AnswerSpec(form="words"),
    )
    return save(tmp_path_factory.mktemp("made") / "words", spec, {}).folder


def test_a_system_is_called_like_a_function(head):
    with rung.load(head) as answer:
        assert answer("where is my parcel") == "delivery"
        assert answer("my password is gone", context="A mail.") == "login"
        whole = answer.ask("my password is gone")
    assert whole.value == "login" and whole.probability > 0.5
    assert [name for name, _ in whole.options] == ["login", "delivery"]


def test_a_batch_has_an_answer_for_each_row_in_order(head):
    rows = [
        "a password",
        {"input": "the parcel", "output": "passed over"},
        {"input": "x", "context": "parcel"},
    ]
    told = []
    found = rung.load(str(head)).batch(rows, progress=lambda done, total: told.append((done, total)))
    assert [answer.value for answer in found[:2]] == ["login", "delivery"]
    assert len(found) == 3
    assert rung.load(head).batch([]) == []


@pytest.mark.parametrize("row", ["  ", {"context": "alone"}, {"input": 5}, 7, "half a pair \ud800"])
def test_a_row_that_cannot_be_asked_is_named_before_anything_is_asked(head, row):
    with pytest.raises(TaskError, match="^row 2 "):
        rung.load(head).batch(["a password", row])


def test_a_single_text_is_no_row(head):
    with pytest.raises(TaskError, match="^the text is empty"):
        rung.load(head)(" ")


def test_an_engine_starts_once_stops_at_the_end_and_starts_again_when_asked(words):
    with rung.load(words) as answer:
        assert answer("is it?") in ("no", "yes")
        (engine,) = answer._pool.engines.values()
        answer("is it so?")
        assert list(answer._pool.engines.values()) == [engine]
    assert not answer._pool.engines
    assert answer("is it?") in ("no", "yes")
    answer.close()


@pytest.mark.parametrize("broken_off_by", [KeyboardInterrupt, ZeroDivisionError])
def test_after_a_batch_that_was_broken_off_the_next_one_is_answered(words, broken_off_by):
    def progress(done: int, total: int) -> None:
        raise broken_off_by

    rows = ["is it?", "is it so?"]
    with rung.load(words) as answer:
        before = answer.batch(rows)
        with pytest.raises(broken_off_by):
            answer.batch(rows, progress=progress)
        assert [one.value for one in answer.batch(rows)] == [one.value for one in before]
        (engine,) = answer._pool.engines.values()
        assert not engine.closed


def test_a_call_that_breaks_is_an_error_alone_and_counted_in_a_batch(words):
    with Pool() as pool:
        answer = rung.Answerer(rung.System.load(words), pool)
        long = "much too long " * 5000
        with pytest.raises(EngineError, match="could not answer"):
            answer(long)
        fine, broken = answer.batch(["is it?", long])
        assert fine.failure is None and broken.failure is not None
        answer.close()
        assert pool.engines
