"""Calls in flight at an interruption: their provider bills them, so that the cap has to count them."""

import threading
from collections.abc import Callable

import pytest

from rung.engines import endpoint_bills
from rung.engines.endpoint import EndpointEngine
from rung.engines.till import Till
from rung.hosted import hosted_engine_spec
from rung.models.hosted import hosted
from tests.engines.test_till import ask, till_of
from tests.fixtures_hosted import Hosted
from tests.fixtures_serve import eventually

ROWS = [[("user", f"Is it {number}?")] for number in range(20)]


class AfterFirst(threading.Event):
    """Holds back all but the first, until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.first = iter([True])

    def wait(self, timeout: float | None = None) -> bool:
        return next(self.first, False) or super().wait(timeout)


@pytest.fixture
def server():
    with Hosted(lambda text, body: "yes") as found:
        found.gate = AfterFirst()
        yield found
        found.gate.set()


def interrupted(
    server: Hosted, till: Till, then: Callable[[], None] = lambda: None
) -> tuple[EndpointEngine, float]:
    """An engine interrupted after its first answer, and what was paid and put aside just then, in dollars."""
    model = hosted(server.name)
    assert model is not None
    spec = hosted_engine_spec(model)
    engine, due_usd = EndpointEngine(spec, till=till), [0.0]

    def interrupt(done: int, total: int) -> None:
        eventually(lambda: server.in_flight == spec.parallel)
        due_usd.append(till.spent_usd + till._reserved_usd)
        then()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.chat_many(ROWS, max_tokens=8, progress=interrupt)
    return engine, due_usd[-1]


def test_what_is_in_flight_at_an_interruption_counts_as_paid_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_bills, "LATE_S", 0.1)
    till = till_of(server, tmp_path)
    engine, due_usd = interrupted(server, till)
    found = till_of(server, tmp_path)
    assert found.answers == 1 and found.spent_usd == till.spent_usd == pytest.approx(due_usd)
    server.gate.set()
    eventually(lambda: engine._client._client.is_closed)
    after = till_of(server, tmp_path)
    assert (after.spent_usd, after.answers) == (found.spent_usd, 1), "answers that come later change nothing"


def test_answers_that_come_soon_after_an_interruption_are_kept(server, tmp_path):
    till = till_of(server, tmp_path)
    engine, due_usd = interrupted(server, till, then=server.gate.set)
    eventually(lambda: engine._client._client.is_closed)
    found, sent = till_of(server, tmp_path), [body["messages"][-1]["content"] for body in server.seen]
    assert found.answers == len(sent) > 1 and 0 < found.spent_usd < due_usd
    assert till._reserved_usd == pytest.approx(0, abs=1e-12)
    assert [ask(server, found, text).text for text in sent] == ["yes"] * len(sent)
    assert len(server.seen) == len(sent), "none was paid for twice"


def test_who_interrupts_the_wait_too_has_what_is_in_flight_counted(server, tmp_path, monkeypatch):
    def again(condition: threading.Condition, *arguments: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Condition, "wait_for", again)
    _, due_usd = interrupted(server, till_of(server, tmp_path))
    assert till_of(server, tmp_path).spent_usd == pytest.approx(due_usd)
