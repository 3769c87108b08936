"""The race of the engines, over Systems whose answers take as long as they are told: no model, no clock."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rung.engines import device
from rung.engines.torch import TorchEngine
from rung.errors import EngineError, ModelError
from rung.evaluate import Store
from rung.rungs import probe
from rung.rungs.probe import LLAMA, MOST_BY_TYPE, RACE_ROWS, RETYPED, TORCH, race


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(probe, "time", CLOCK)
    monkeypatch.setattr(probe, "room_to_retype", lambda model, wanted: True)


class Runner:
    """Answers take `alone_s` each, or `batch_s` in all where that is more; `broken` ones of them break."""

    def __init__(self, alone_s: float = 0.0, batch_s: float = 0.0, broken: int = 0, error: str = "") -> None:
        self.alone_s, self.batch_s, self.broken, self.error = alone_s, batch_s, broken, error
        self.digest = f"{alone_s}-{batch_s}-{broken}"
        self.asked: list[int] = []
        self.engine: object = None

    def model(self, pool):
        return SimpleNamespace(parameters=1_000_000)

    def open(self, pool):
        return self.engine

    def answer(self, rows, pool):
        if self.error:
            raise EngineError(self.error)
        self.asked.append(len(rows))
        CLOCK.now += max(0.001, self.batch_s, self.alone_s * len(rows))
        return [SimpleNamespace(failure="broke" if i < self.broken else None) for i in range(len(rows))]


class Placed(TorchEngine):
    """A torch engine without a model, that computes on a device."""

    def __init__(self, place: str) -> None:
        self.place = torch.device(place)

    @property
    def device(self) -> torch.device:
        return self.place


def raced_backends(
    llama: Runner,
    torch: Runner,
    retyped: Runner | None = None,
    *,
    rows: int = 20,
    store: Store | None = None,
):
    with tempfile.TemporaryDirectory() as folder:
        context = SimpleNamespace(
            dev=[SimpleNamespace(id=str(i)) for i in range(rows)],
            too_long=set(),
            pool=None,
            model=None,
            reporter=SimpleNamespace(begin=lambda *told: 0, end=lambda bar: None),
            settled=lambda name, made: json.loads(json.dumps(made())),
            bench=SimpleNamespace(store=store or Store(Path(folder))),
        )
        systems = {LLAMA: llama, TORCH: torch} | ({} if retyped is None else {RETYPED[0]: retyped})
        return race(context, "it", systems)  # type: ignore[arg-type]


def raced(llama: Runner, torch: Runner, rows: int = 20, store: Store | None = None):
    backend, note = raced_backends(llama, torch, rows=rows, store=store)
    assert backend.weight_type is None
    return backend.engine, note


def test_an_engine_that_takes_no_longer_for_several_at_once_is_asked_for_several():
    llama, torch = Runner(alone_s=0.02), Runner(batch_s=0.04)
    engine, note = raced(llama, torch)
    assert engine == "torch"
    assert note == "engine torch: llama 20 ms and torch 7 ms per answer"
    assert llama.asked == torch.asked == [1, RACE_ROWS]


def test_where_answers_are_slow_both_engines_are_asked_the_same_fewer_rows(monkeypatch):
    monkeypatch.setattr(probe, "RACE_S", 0.16)
    llama, torch = Runner(alone_s=0.05), Runner(alone_s=0.2)
    assert raced(llama, torch)[0] == "llama"
    assert llama.asked == torch.asked == [1, 3]
    slow = Runner(alone_s=0.3)
    assert raced(slow, torch)[0] == "torch"
    assert slow.asked == [1, 1]


def test_systems_race_once_whatever_settles_it_later(tmp_path):
    llama, torch, store = Runner(alone_s=0.02), Runner(batch_s=0.04), Store(tmp_path)
    first = raced(llama, torch, store=store)
    assert raced(llama, Runner(error="it isn't asked"), store=store) == first
    assert len(llama.asked) == 2
    other = Runner(alone_s=0.01)
    assert raced(other, torch, store=store)[1] != first[1] and other.asked, "another System"


@pytest.mark.parametrize("fault", [{"error": "the memory is used up"}, {"broken": 1}])
def test_what_may_be_a_fault_of_the_moment_decides_no_later_race(tmp_path, fault):
    llama, store = Runner(alone_s=0.02), Store(tmp_path)
    assert raced(llama, Runner(**fault), store=store)[0] == "llama"
    assert raced(llama, Runner(batch_s=0.04), store=store)[0] == "torch"
    assert raced(llama, Runner(error="it isn't asked"), store=store)[0] == "torch"


@pytest.mark.parametrize(("place", "later"), [("cpu", "torch"), ("meta", "llama")])
def test_nor_does_a_race_that_torch_ran_on_the_processor_though_there_is_a_gpu(
    tmp_path, monkeypatch, place, later
):
    monkeypatch.setattr(device, "describe_gpu", lambda: "a GPU that another program may fill")
    llama, slow, store = Runner(alone_s=0.02), Runner(alone_s=0.5), Store(tmp_path)
    slow.engine = Placed(place)
    assert raced(llama, slow, store=store)[0] == "llama"
    assert raced(llama, Runner(batch_s=0.04), store=store)[0] == later


def test_an_engine_that_cannot_be_looked_at_after_its_race_has_not_lost_it(tmp_path, monkeypatch):
    class Closed(Runner):
        def open(self, pool):
            raise EngineError("another program took the memory")

    monkeypatch.setattr(device, "describe_gpu", lambda: "a GPU that another program may fill")
    llama, store = Runner(alone_s=0.02), Store(tmp_path)
    assert raced(llama, Closed(batch_s=0.04), store=store)[0] == "torch"
    assert raced(llama, Runner(alone_s=0.5), store=store)[0] == "llama", "where it computes wasn't known"


def test_systems_race_again_on_another_machine(tmp_path, monkeypatch):
    llama, store = Runner(alone_s=0.02), Store(tmp_path)
    assert raced(llama, Runner(alone_s=0.5), store=store)[0] == "llama"
    monkeypatch.setattr("rung.engines.machine.processor", lambda: "another")
    assert raced(llama, Runner(batch_s=0.04), store=store)[0] == "torch"


def test_llama_has_to_be_clearly_slower():
    assert raced(Runner(alone_s=1.2), Runner(alone_s=1.0))[0] == "llama"
    assert raced(Runner(alone_s=1.3), Runner(alone_s=1.0))[0] == "torch"


def test_an_engine_that_breaks_more_answers_has_lost():
    engine, note = raced(Runner(broken=1), Runner(alone_s=0.01))
    assert (engine, note) == ("torch", "engine torch: fewer of its answers broke")


def test_an_engine_that_cannot_run_the_model_has_lost_and_its_error_is_told():
    assert raced(Runner(error="no  such\narchitecture"), Runner()) == (
        "torch",
        "engine torch: llama can't run it (no such architecture)",
    )
    with pytest.raises(EngineError, match="no engine can run the model: llama: a; torch: b"):
        raced(Runner(error="a"), Runner(error="b"))


def test_an_engine_whose_memory_runs_out_has_lost_and_that_is_told():
    class Full(Runner):
        def answer(self, rows, pool):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    engine, note = raced(Runner(), Full())
    assert engine == "llama" and "torch can't run it (the GPU's memory is used up (CUDA out" in note


def test_weights_that_the_machine_can_never_hold_are_not_made_for_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "whole_bytes", lambda: 1_000_000)
    llama, other, store = Runner(), Runner(), Store(tmp_path)
    engine, note = raced(llama, other, store=store)
    assert engine == "llama" and "torch can't run it (its weights in " in note
    assert llama.asked and not other.asked
    assert raced(Runner(error="it isn't asked"), other, store=store) == (engine, note), "nor another time"


def test_a_race_needs_one_row():
    llama = Runner()
    raced(llama, Runner(), rows=1)
    assert llama.asked == [1, 1]


def test_another_type_of_weights_wins_where_it_is_clearly_faster_than_the_files_own():
    llama, torch, retyped = Runner(alone_s=0.5), Runner(alone_s=0.6), Runner(alone_s=0.3)
    backend, note = raced_backends(llama, torch, retyped)
    assert backend == RETYPED[0] == ("llama", "q8_0")
    assert note == "engine llama in q8_0: llama 500 ms, torch 600 ms and llama in q8_0 300 ms per answer"
    assert retyped.asked == [1, RACE_ROWS]
    assert raced_backends(llama, torch, Runner(alone_s=0.45))[0] == LLAMA
    assert raced_backends(llama, Runner(alone_s=0.25), Runner(alone_s=0.3))[0] == RETYPED[0]
    assert raced_backends(llama, Runner(alone_s=0.22), Runner(alone_s=0.3))[0] == TORCH
    assert raced_backends(llama, Runner(alone_s=0.3), Runner(alone_s=0.45))[0] == TORCH


def test_it_is_not_tried_where_torch_is_far_ahead_or_llama_cpp_cannot_run_the_model():
    retyped = Runner(error="it isn't asked")
    ahead = Runner(alone_s=0.1)
    backend, note = raced_backends(Runner(alone_s=0.1 * MOST_BY_TYPE + 0.01), ahead, retyped)
    assert (backend, "q8_0" in note) == (TORCH, False)
    backend, note = raced_backends(Runner(error="no such architecture"), ahead, retyped)
    assert (backend, note) == (TORCH, "engine torch: llama can't run it (no such architecture)")


def test_a_file_that_cannot_be_made_loses_this_race_and_no_later_one(tmp_path):
    llama, torch, store = Runner(alone_s=0.5), Runner(alone_s=0.6), Store(tmp_path)
    backend, note = raced_backends(llama, torch, Runner(error="the disk is full"), store=store)
    assert backend == LLAMA
    assert note == (
        "engine llama: llama 500 ms and torch 600 ms per answer; "
        "llama in q8_0 can't run it (the disk is full)"
    )
    assert raced_backends(llama, torch, Runner(alone_s=0.3), store=store)[0] == RETYPED[0]


def test_it_is_not_tried_where_the_disk_has_no_room_for_its_file(monkeypatch):
    monkeypatch.setattr(probe, "room_to_retype", lambda model, wanted: False)
    backend, note = raced_backends(Runner(alone_s=0.5), Runner(alone_s=0.6), Runner(error="it isn't asked"))
    assert (backend, note) == (LLAMA, "engine llama: llama 500 ms and torch 600 ms per answer")


def test_a_file_that_can_never_be_read_in_another_type_loses_for_good(tmp_path):
    class Unreadable(Runner):
        def answer(self, rows, pool):
            raise ModelError("weights of type 199")

    llama, torch, store = Runner(alone_s=0.5), Runner(alone_s=0.6), Store(tmp_path)
    first = raced_backends(llama, torch, Unreadable(), store=store)
    assert first[0] == LLAMA and "llama in q8_0 can't run it (weights of type 199)" in first[1]
    assert raced_backends(llama, torch, Runner(alone_s=0.1), store=store) == first


def test_answers_that_broke_are_told_where_they_decide():
    llama, torch = Runner(alone_s=0.5), Runner(alone_s=0.3)
    backend, note = raced_backends(llama, torch, Runner(alone_s=0.42, broken=1))
    assert backend == TORCH and note.startswith("engine torch: llama 500 ms, torch 300 ms and llama in q8_0 ")
    backend, note = raced_backends(llama, torch, Runner(alone_s=0.2, broken=1))
    assert (backend, note) == (TORCH, "engine torch: fewer of its answers broke")


def test_a_race_that_torch_can_never_run_lasts_unless_another_fault_may_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "whole_bytes", lambda: 1_000_000)
    llama, torch, store = Runner(alone_s=0.5), Runner(), Store(tmp_path)
    full = raced_backends(llama, torch, Runner(error="the disk is full"), store=store)
    assert full[0] == LLAMA and "torch can't run it (its weights in " in full[1]
    later = raced_backends(llama, torch, Runner(alone_s=0.3), store=store)
    assert later[0] == RETYPED[0]
    assert raced_backends(llama, torch, Runner(error="it isn't asked"), store=store) == later


def test_the_type_is_kept_with_the_outcome_and_a_race_without_it_decides_no_race_with_it(tmp_path):
    llama, torch, store = Runner(alone_s=0.5), Runner(alone_s=0.6), Store(tmp_path)
    assert raced(llama, torch, store=store)[0] == "llama"
    first = raced_backends(llama, torch, Runner(alone_s=0.3), store=store)
    assert first[0] == RETYPED[0]
    assert raced_backends(llama, torch, Runner(error="it isn't asked"), store=store) == first
    assert raced(llama, torch, store=store)[0] == "llama"


def test_an_outcome_of_a_run_that_knew_no_types_is_read():
    context = SimpleNamespace(
        reporter=SimpleNamespace(begin=lambda *told: 0, end=lambda bar: None),
        settled=lambda name, made: ["torch", "engine torch: it was faster"],
    )
    assert race(context, "it", {}) == (TORCH, "engine torch: it was faster")  # type: ignore[arg-type]
