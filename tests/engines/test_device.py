"""Where models are computed. GPUs are what torch tells of them: how many, how free, how old."""

from types import SimpleNamespace

import pytest
import torch

from rung.climb.machine import describe_machine, versions
from rung.engines import device
from rung.engines.base import EngineSpec
from rung.engines.device import (
    best_device,
    best_dtype,
    describe_gpu,
    in_halves,
    no_room,
    off_gpu,
    roomy_device,
    too_big,
)
from rung.engines.room import GIB
from rung.engines.torch import load_model
from rung.errors import EngineError
from rung.models.processor import multiplies_bf16
from rung.system import Pool
from tests.fixtures_tiny import tiny

FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB of which little"
)
OLD = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that there are GPUs with so many bytes free; `faults` of a number are what it breaks with."""
    device.found.cache_clear()

    def pretend(*free: int, capability=(9, 0), unasked=None, unable=None):
        def asked(name: str) -> tuple[int, int]:
            number = torch.device(name).index
            if fault := (unasked or {}).get(number):
                raise fault
            return free[number], 80 * GIB

        def proved(name: str, dtype: torch.dtype) -> None:
            if fault := (unable or {}).get(torch.device(name).index):
                raise fault

        told = SimpleNamespace(name="NVIDIA H200", total_memory=139 * GIB)
        for name, answer in {
            "is_available": lambda: bool(free),
            "device_count": lambda: len(free),
            "mem_get_info": asked,
            "memory_reserved": lambda name: 0,
            "memory_allocated": lambda name: 0,
            "get_device_capability": lambda name: capability,
            "get_device_properties": lambda name: told,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(device, "prove", proved)

    yield pretend
    device.found.cache_clear()


def test_without_a_gpu_the_processor_computes_in_its_own_type_and_nothing_is_said_of_one(gpus):
    gpus()
    assert best_device() == "cpu" == roomy_device(1)
    assert best_dtype() == (torch.bfloat16 if multiplies_bf16() else torch.float32)
    assert describe_gpu() is None and "GPU" not in describe_machine()
    assert "CUDA" not in dict(versions()) and "bitsandbytes" not in dict(versions())
    assert off_gpu(tiny().to("cpu"), "tiny") is None


def test_of_several_gpus_the_one_with_the_most_free_memory_is_used_all_along(gpus):
    gpus(4 * GIB, 80 * GIB, 40 * GIB)
    assert roomy_device(15 * 10**9) == best_device() == "cuda:1"
    gpus(80 * GIB, 20 * GIB, 40 * GIB)
    assert best_device() == "cuda:1"


def test_of_equal_gpus_the_first_is_used(gpus):
    gpus(40 * GIB, 40 * GIB)
    assert best_device() == "cuda:0"


def test_a_model_that_would_leave_no_room_for_a_batch_is_read_by_the_processor(gpus):
    size = 10 * GIB
    gpus(size + GIB)
    assert roomy_device(size) == "cpu"
    gpus(11 * GIB + GIB)
    assert roomy_device(size) == "cuda:0"
    gpus(GIB)
    assert roomy_device(1) == "cpu"


@pytest.mark.parametrize(
    "broken", [{"unable": {0: OLD}}, {"unasked": {0: RuntimeError("CUDA error: out of memory")}}]
)
def test_a_gpu_that_cannot_be_used_leaves_everything_to_the_processor_and_that_is_said(
    gpus, tmp_path, broken
):
    tiny().to("cpu").save_pretrained(tmp_path)
    gpus(80 * GIB, **broken)
    model = load_model(tmp_path)
    assert model.lm_head.weight.device.type == "cpu" and model.lm_head.weight.dtype == best_dtype()
    assert best_dtype() == (torch.bfloat16 if multiplies_bf16() else torch.float32)
    said = str(off_gpu(model, "tiny"))
    assert said.startswith("no GPU is used: cuda:0 can't be (CUDA error: ") and "\n" not in said
    assert ", no GPU is used: cuda:0 can't be (CUDA error: " in describe_machine()
    assert "CUDA" not in dict(versions())


@pytest.mark.parametrize(
    ("free", "unable", "said"),
    [
        ((), {}, []),
        ((GIB,), {}, ["one: the weights in", "two: the weights in"]),
        ((80 * GIB,), {0: OLD}, ["no GPU is used: cuda:0"]),
    ],
)
def test_each_engine_that_the_processor_runs_in_place_of_a_gpu_is_told_of_once(
    gpus, tmp_path, free, unable, said
):
    for name in ("one", "two"):
        tiny().to("cpu").save_pretrained(tmp_path / name)
    one, two = (EngineSpec(engine="torch", weights=tmp_path / name, context=64) for name in ("one", "two"))
    gpus(*free, unable=unable)
    told: list[str] = []
    with Pool(keep=1, say=told.append) as pool:
        for spec in (one, one, two, one):
            pool.engine(spec)
    assert len(told) == len(said)
    for line, start in zip(told, said, strict=True):
        assert line.removeprefix(f"{tmp_path}/").startswith(start) and "that is slow" in line


def test_a_gpu_that_cannot_be_used_leaves_the_work_to_another(gpus):
    gpus(80 * GIB, 8 * GIB, 40 * GIB, unable={0: OLD}, unasked={2: RuntimeError("busy")})
    assert best_device() == "cuda:1"


def test_a_product_is_what_proves_a_device(monkeypatch):
    device.prove("cpu", torch.float32)

    def refused(*_):
        raise OLD

    monkeypatch.setattr(torch.Tensor, "__matmul__", refused)
    with pytest.raises(RuntimeError, match="no kernel image"):
        device.prove("cpu", torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)]
)
def test_a_gpu_runs_bf16_where_it_has_instructions_for_it(gpus, capability, dtype):
    gpus(GIB, capability=capability)
    assert best_dtype() == dtype


def test_the_report_names_the_gpu_and_what_runs_on_it(gpus, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    gpus(GIB)
    assert describe_machine().endswith(", NVIDIA H200 139 GiB, CUDA 13.0")
    assert dict(versions())["CUDA"] == "13.0" and "bitsandbytes" in dict(versions())


def test_a_model_that_a_gpu_breaks_off_taking_is_read_by_the_processor(gpus, tmp_path, monkeypatch):
    first = tiny().to("cpu")
    first.save_pretrained(tmp_path)
    moves = []
    plain = type(first).to

    def moved(model, *where):
        moves.append(str(where[0]))
        if moves[-1].startswith("cuda"):
            raise FULL
        return plain(model, *where)

    gpus(80 * GIB)
    monkeypatch.setattr(type(first), "to", moved)
    model = load_model(tmp_path)
    assert model.lm_head.weight.device.type == "cpu" and moves == ["cuda:0", "cpu"]
    with pytest.raises(EngineError, match="the memory of cuda:0 is used up"):
        load_model(tmp_path, device="cuda:0")


def test_weights_that_memory_does_not_hold_are_not_loaded(gpus, tmp_path, monkeypatch):
    gpus()
    tiny().to("cpu", torch.float32).save_pretrained(tmp_path)
    read = load_model(tmp_path)
    size = sum(p.numel() * p.element_size() for p in read.parameters())
    monkeypatch.setattr(device, "loadable_bytes", lambda: int(1.06 * size))
    load_model(tmp_path)
    monkeypatch.setattr(device, "loadable_bytes", lambda: size)
    monkeypatch.setattr("rung.engines.torch.AutoModelForCausalLM", None)
    with pytest.raises(
        EngineError, match=r"can't be loaded: its weights in \d+ bits take 0\.0 GiB of memory"
    ):
        load_model(tmp_path)


def test_memory_is_looked_at_where_the_weights_are_to_lie(gpus, monkeypatch):
    monkeypatch.setattr(device, "loadable_bytes", lambda: GIB)
    monkeypatch.setattr(device, "whole_bytes", lambda: GIB)
    gpus(40 * GIB)
    assert no_room(30 * GIB) is None and too_big(15 * GIB) is None
    assert "30.0 GiB of memory and 1.0 are free" in str(no_room(30 * GIB, "cpu"))
    assert "and there are 1.0 with swap" in str(too_big(15 * GIB, "cpu"))
    assert no_room(39 * GIB) is not None and too_big(41 * GIB) is not None


def test_a_batch_that_memory_does_not_hold_is_worked_at_in_halves_in_its_order():
    asked = []

    def work(batch: list[int]) -> list[str]:
        asked.append(len(batch))
        if len(batch) > 2:
            raise FULL
        return [str(one) for one in batch]

    assert in_halves(work, [7, 3, 5, 1, 9]) == ["7", "3", "5", "1", "9"]
    assert asked == [5, 2, 3, 1, 2]


def test_a_row_that_is_too_much_alone_is_told_with_the_way_out():
    def work(batch: list[int]) -> list[int]:
        if 5 in batch:
            raise FULL
        return batch

    with pytest.raises(
        EngineError, match=r"used up \(CUDA out of memory\. Tried to allocate 2\.00 GiB\): .*qlora"
    ):
        in_halves(work, [1, 5, 2])


def test_other_errors_stay_what_they_are():
    def work(batch: list[int]) -> list[int]:
        raise RuntimeError("an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        in_halves(work, [1, 2])
