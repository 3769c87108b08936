import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from rung.engines.base import Request
from rung.engines.llama import LlamaEngine
from rung.engines.llama_process import Child
from rung.errors import EngineError
from tests.fixtures_models import llama, llama_spec

__all__ = ["llama"]
pytestmark = pytest.mark.models

PROMPT = (504, 3575, 282, 4649, 314)
CHATTER = (1, 4093, 198, 5345, 260, 3575, 282, 4649, 2, 198, 1, 520, 9531, 198)


def short_requests(count: int) -> list[Request]:
    return [Request(prompt=(*PROMPT, 1000 + number), max_tokens=8) for number in range(count)]


def wait_until(condition, limit_s: float = 20.0) -> bool:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def expected(llama) -> list[tuple[int, ...]]:
    """What a child answers to which nothing happens."""
    return [c.tokens for c in llama.generate(short_requests(24))]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_is_killed_or_stands_still_in_the_middle_costs_no_answer(blow, expected):
    engine = LlamaEngine(llama_spec(), request_limit_s=60, still_s=1.2)
    struck = []

    def strike_once(done: int, total: int) -> None:
        if done == 8 and not struck:
            struck.append(engine.pid)
            os.kill(engine.pid, blow)

    found = engine.generate(short_requests(24), progress=strike_once)
    assert struck
    assert engine.pid != struck[0]
    assert [c.failure for c in found] == [None] * 24
    # Rounding depends on which requests share a step, so a near tie may fall the other way.
    assert sum(a.tokens == b for a, b in zip(found, expected, strict=True)) >= 22
    engine.close()


def test_a_child_that_nobody_asks_or_that_works_for_long_is_left_alone():
    engine = LlamaEngine(llama_spec(parallel=1, context=1024), still_s=1.0)
    pid = engine.pid
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 40}
    slow = Request(prompt=PROMPT, max_tokens=150, schema=schema)
    for asked, pause_s in ((slow, 1.3), (Request(prompt=PROMPT, max_tokens=40), 0.0)):
        assert engine.generate([asked])[0].failure is None
        time.sleep(pause_s)
    assert engine.pid == pid
    engine.close()


def test_a_child_that_dies_twice_ends_the_batch_with_its_last_words():
    engine = LlamaEngine(llama_spec(parallel=1))
    stop = threading.Event()

    def keep_killing() -> None:
        while not stop.wait(0.05):
            try:
                os.kill(engine.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        with pytest.raises(EngineError, match="exit status -9"):
            engine.generate(short_requests(200))
    finally:
        stop.set()
        killer.join()
        engine.close()


def test_a_restart_that_fails_is_tried_once_for_all_that_were_in_flight_and_again_by_a_later_batch(
    monkeypatch,
):
    engine, tries = LlamaEngine(llama_spec(parallel=8)), []

    def refuse() -> Child:
        tries.append(threading.current_thread())
        time.sleep(0.2)
        raise EngineError(f"no memory for another child, {len(tries)}")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_start", refuse)
        os.kill(engine.pid, signal.SIGSTOP)
        faults: list[BaseException] = []

        def ask() -> None:
            try:
                engine.generate(short_requests(8))
            except EngineError as fault:
                faults.append(fault)

        asker = threading.Thread(target=ask)
        asker.start()
        assert wait_until(lambda: engine._child._asking == 8)
        os.kill(engine.pid, signal.SIGKILL)
        asker.join(60)
        assert len(tries) == 1 and "another child, 1" in str(faults[0])
        with pytest.raises(EngineError, match="another child, 2"):
            engine.generate(short_requests(1))
    assert engine.generate(short_requests(1))[0].failure is None
    engine.close()


def test_a_request_over_its_time_limit_fails_alone():
    engine = LlamaEngine(llama_spec(parallel=2, context=2048), request_limit_s=2.0)
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    slow = Request(prompt=PROMPT, max_tokens=2000, schema=schema)
    late, fine = engine.generate([slow, Request(prompt=PROMPT, max_tokens=1)])
    assert late.failure is not None
    assert "2 s" in late.failure
    assert fine.failure is None
    engine.close()


def test_a_refused_request_is_a_failure_and_the_others_are_answered(llama):
    broken, fine = llama.generate(
        [Request(prompt=(10**7,), max_tokens=2), Request(prompt=PROMPT, max_tokens=2)]
    )
    assert broken.failure is not None
    assert "400" in broken.failure
    assert fine.failure is None
    (empty,) = llama.choose([()], [(1,), (2,)])
    assert empty.failure == "choose: the prompt is empty"
    with pytest.raises(EngineError, match="prompt 1"):
        llama.next_logprobs([PROMPT, ()], [1])


def test_an_unenforceable_schema_is_an_error_before_anything_runs(llama):
    requests = [
        Request(prompt=PROMPT, max_tokens=2),
        Request(prompt=PROMPT, max_tokens=2, schema={"type": "array", "uniqueItems": True}),
    ]
    with pytest.raises(EngineError, match="#: .*uniqueItems"):
        llama.generate(requests)


def test_constrained_json_has_no_free_white_space_and_no_unnamed_keys(llama):
    schema = {
        "type": "object",
        "properties": {"b": {"type": "string", "maxLength": 8}, "a": {"type": "integer", "maximum": 99}},
        "required": ["b", "a"],
    }
    (completion,) = llama.generate([Request(prompt=CHATTER, max_tokens=60, schema=schema)])
    answer = json.loads(completion.text)
    assert completion.text == json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
    assert list(answer) == ["b", "a"]
    assert not completion.truncated


def test_the_models_own_end_of_turn_ends_an_answer(llama):
    (completion,) = llama.generate([Request(prompt=CHATTER, max_tokens=60, stop_ids=(2,))])
    assert not completion.truncated
    assert 2 not in completion.tokens
    assert completion.text


def test_restricted_probabilities_agree_with_the_whole_vocabulary(llama):
    ids = [253, 260, 7042, 40000, 48000]
    (row,) = llama.next_logprobs([PROMPT], ids)
    (whole,) = llama.next_logprobs([PROMPT], range(49152))
    assert row == pytest.approx([whole[i] for i in ids], abs=1e-3)
    assert math.fsum(map(math.exp, whole)) == pytest.approx(1.0, abs=1e-3)


def test_candidates_that_start_inside_a_character_are_weighed_like_any_other(llama):
    bytes_of_parrot, word = (10813, 116, 246), (7042,)
    (choice,) = llama.choose([PROMPT], [bytes_of_parrot, (10813, 115), word])
    (row,) = llama.next_logprobs([PROMPT], [10813, 7042])
    total = math.log(math.exp(row[0]) + math.exp(row[1]))
    assert choice.index == 2
    assert choice.logprobs[2] == pytest.approx(row[1] - total, abs=1e-3)
    (halves,) = llama.choose([PROMPT], [(10813,), (5549,)])
    (raw,) = llama.next_logprobs([PROMPT], [10813, 5549])
    assert halves.logprobs[0] - halves.logprobs[1] == pytest.approx(raw[0] - raw[1], abs=1e-3)


def test_a_search_uses_the_cache_of_its_own_prompt(llama):
    prompt = tuple(range(1000, 1200))
    (choice,) = llama.choose([prompt], [(260, 253, 2), (260, 260, 2), (253, 2)])
    assert choice.evaluated_tokens < len(prompt) + 20


def test_many_threads_may_ask_at_once(llama):
    expected = [c.tokens for c in llama.generate(short_requests(6))]
    found: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        found[number] = llama.generate([short_requests(6)[number]])[0].tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(6)] == expected


def test_another_user_of_the_machine_cannot_ask_without_the_key():
    child = Child(llama_spec(), request_limit_s=10)
    body = {"prompt": [1], "n_predict": 1}
    assert httpx.URL(child.address).host == "127.0.0.1"
    assert httpx.post(f"{child.address}/completion", json=body).status_code == 401
    assert child.client.post("/completion", json=body).status_code == 200
    assert child.key not in " ".join(psutil.Process(child.pid).cmdline())
    child.close()


def test_a_connection_on_which_a_thread_waits_is_not_closed_under_it():
    # Its socket's number may be another file's by then, and what comes there be taken for the answer.
    child = Child(llama_spec(), request_limit_s=10)
    with child.asked() as client, child.asked():
        child.close()
        assert not psutil.pid_exists(child.pid)
        assert not client.is_closed
    assert client.is_closed
    with pytest.raises(httpx.ConnectError, match="gone"), child.asked():
        pass


def test_memory_is_that_of_the_child(llama):
    assert 50 < llama.memory_mb() < 2000
    assert llama.memory_mb() == pytest.approx(psutil.Process(llama.pid).memory_info().rss / 2**20, rel=0.2)


def test_closing_ends_the_child():
    engine = LlamaEngine(llama_spec())
    pid = engine.pid
    engine.close()
    assert not psutil.pid_exists(pid)
    assert engine.memory_mb() == 0.0


def test_closing_does_not_wait_for_a_child_that_is_being_started(monkeypatch):
    engine = LlamaEngine(llama_spec())
    started, go_on = threading.Event(), threading.Event()
    made: list[Child] = []

    def slow(*arguments, **named):
        started.set()
        assert go_on.wait(60)
        made.append(Child(*arguments, **named))
        return made[0]

    monkeypatch.setattr("rung.engines.llama.Child", slow)
    os.kill(engine.pid, signal.SIGKILL)
    faults: list[BaseException] = []

    def ask():
        try:
            engine.generate(short_requests(1))
        except EngineError as fault:
            faults.append(fault)

    asker = threading.Thread(target=ask)
    asker.start()
    assert started.wait(20)
    engine.close()
    go_on.set()
    asker.join(60)
    assert "was closed while it answered" in str(faults[0])
    assert not psutil.pid_exists(made[0].pid)


def test_a_start_that_is_wanted_no_more_ends_with_its_process(tmp_path, monkeypatch):
    silent = tmp_path / "silent.py"
    silent.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("rung.engines.llama_process.llama_child", SimpleNamespace(__file__=str(silent)))
    unwanted, before = threading.Event(), set(psutil.Process().children())
    threading.Timer(0.5, unwanted.set).start()
    began = time.monotonic()
    with pytest.raises(EngineError, match="ended while it loaded"):
        Child(llama_spec(), request_limit_s=10, unwanted=unwanted)
    assert 0.4 < time.monotonic() - began < 5
    assert set(psutil.Process().children()) <= before


def test_a_file_that_is_no_model_is_an_error_with_llamas_own_words(tmp_path):
    path = tmp_path / "junk.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(EngineError, match=r"(?s)junk\.gguf.*complete GGUF"):
        LlamaEngine(llama_spec(gguf=path))
    with pytest.raises(EngineError, match="no such file"):
        LlamaEngine(llama_spec(gguf=tmp_path / "none.gguf"))


PARENT = """
import sys
from rung.engines.llama import LlamaEngine
from rung.engines.base import Request
from tests.fixtures_models import llama_spec
engine = LlamaEngine(llama_spec(context=4096))
sys.stdout.write(f"{engine.pid}\\n")
sys.stdout.flush()
schema = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
engine.generate([Request(prompt=(504, 1000 + i), max_tokens=4000, schema=schema) for i in range(50)])
"""


def start_parent() -> tuple[subprocess.Popen, int]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's job in the background ignores it, and so would all that is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_child_does_not_outlive_its_parent(ending):
    parent, pid = start_parent()
    assert psutil.pid_exists(pid)
    time.sleep(0.5)
    parent.send_signal(ending)
    try:
        _, errors = parent.communicate(timeout=20)
    finally:
        parent.kill()
    assert wait_until(lambda: not psutil.pid_exists(pid))
    assert parent.returncode != 0
    if ending == signal.SIGINT:
        assert errors.decode().rstrip().endswith("KeyboardInterrupt")


def test_a_child_outlives_the_thread_that_started_it():
    engines: list[LlamaEngine] = []
    thread = threading.Thread(target=lambda: engines.append(LlamaEngine(llama_spec())))
    thread.start()
    thread.join()
    pid = engines[0].pid
    assert engines[0].generate(short_requests(2))[1].failure is None
    assert engines[0].pid == pid
    engines[0].close()
