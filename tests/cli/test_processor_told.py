"""What the commands say where a GPU is too small: the processor computes, or its memory was used up."""

import asyncio
import json

import pytest
import torch

from rung.cli.main import run
from rung.engines import device
from rung.engines.device import Found, best_dtype
from rung.errors import EngineError
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from tests.fixtures_climb import label_rows, write_rows
from tests.fixtures_ship import LABELS, make_gguf, make_tuned

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")
NO_ROOM = "don't fit the free memory of the GPU (cuda:0)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def gguf(folder):
    return make_gguf(folder / "base.gguf", kind="q8_0")


@pytest.fixture(scope="module")
def systems(folder, gguf):
    """Two Systems tuned on one model, which torch answers for."""
    return [make_tuned(gguf, folder / name, form="words", seed=seed) for seed, name in enumerate("ab")]


@pytest.fixture(scope="module")
def rows(folder):
    return write_rows(folder / "rows.jsonl", label_rows(160))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def full_gpu(monkeypatch):
    """As where there is a GPU whose memory is taken."""
    there = Found(gpu="cuda:0", dtype=best_dtype())
    monkeypatch.setattr(device, "found", lambda: there)
    monkeypatch.setattr(device, "free_bytes", lambda name: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name=None: (0, 2**36))
    monkeypatch.setattr(device, "describe_gpu", lambda: None)


@pytest.fixture
def used_up(monkeypatch):
    """As where the GPU's memory runs out once a model lies there."""

    def full(model):
        raise FULL

    monkeypatch.setattr("rung.engines.torch.require_plain", full)


def commands(systems, rows, out):
    a, b = (str(system.folder) for system in systems)
    return {
        "ask": ("ask", a, "the wifi is down"),
        "compare": ("compare", a, b, "--rows", str(rows), "--out", str(out / "compared")),
        "export": ("export", a, "--to", "peft", "--rows", str(rows), "--out", str(out / "new"), "--force"),
        "serve": ("serve", a, "--port", "0"),
    }


def told(text: str) -> list[str]:
    """Of which engines it is said that the GPU has no room for them."""
    return [line.split(": the weights in ")[0] for line in text.splitlines() if NO_ROOM in line]


def test_a_question_that_the_processor_answers_for_want_of_room_is_told_of_beside_the_answer(
    systems, full_gpu, capsys
):
    assert run(("ask", str(systems[0].folder), "the wifi is down")) == 0
    said = capsys.readouterr()
    assert said.out.strip() in LABELS
    assert told(said.err) == [str(systems[0].folder / "adapter")]


def test_each_side_of_a_comparison_is_told_of(systems, rows, full_gpu, tmp_path, capsys):
    assert run(commands(systems, rows, tmp_path)["compare"]) == 0
    assert told(capsys.readouterr().err) == [str(system.folder / "adapter") for system in systems]


def test_a_system_and_its_export_are_told_of(systems, rows, full_gpu, tmp_path, capsys):
    assert run(commands(systems, rows, tmp_path)["export"]) == 0
    first, second = told(capsys.readouterr().err)
    assert first == str(systems[0].folder / "adapter") and second != first


def test_a_climb_tells_of_the_model_that_it_races(gguf, rows, full_gpu, tmp_path, capsys):
    asked = ("climb", str(rows), "--models", str(gguf), "--rungs", "prompt", "--budget", "20m")
    assert run((*asked, "--out", str(tmp_path / "run"))) == 0
    assert told(capsys.readouterr().err) == ["base"]


def test_the_server_tells_of_a_system_that_it_loads_and_not_again_of_its_other_name(systems, full_gpu):
    said: list[str] = []

    async def serve() -> None:
        served = Systems(Limits(threads=1), said.append)
        for system, name in zip([*systems, systems[0]], ("one", "two", "three"), strict=True):
            await served.add(str(system.folder), name)
        await served.close()

    asyncio.run(serve())
    assert told("\n".join(said)) == [str(system.folder / "adapter") for system in systems]


def test_the_servers_log_is_where_it_tells_that(systems, full_gpu, capsys):
    assert run(("serve", str(systems[0].folder), "nowhere", "--port", "0")) == 2
    said = capsys.readouterr()
    assert told(said.out) == [str(systems[0].folder / "adapter")] and "'nowhere'" in said.err


def test_without_a_gpu_nothing_is_told(systems, monkeypatch, capsys):
    monkeypatch.setattr(device, "found", Found)
    assert run(("ask", str(systems[0].folder), "the wifi is down", "--json")) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["answer"] in LABELS and said.err == ""


@pytest.mark.parametrize("command", ["ask", "compare", "export", "serve"])
def test_memory_that_is_used_up_ends_a_command_in_one_line_with_the_way_out(
    systems, rows, used_up, tmp_path, capsys, command
):
    assert run(commands(systems, rows, tmp_path)[command]) == 2
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith(
        "error: the GPU's memory is used up (CUDA out of memory. Tried to allocate 2.00 GiB): shorter rows "
        "or a smaller model need less; CUDA_VISIBLE_DEVICES names another GPU"
    )
    assert "Traceback" not in said.err and said.err.count("error:") == 1
    assert not (tmp_path / "new").exists()


def test_a_server_that_runs_refuses_a_system_for_which_memory_is_used_up(systems, used_up):
    async def serve() -> None:
        served = Systems(Limits(threads=1))
        with pytest.raises(EngineError, match="the GPU's memory is used up"):
            await served.add(str(systems[0].folder), "one")
        assert served.names() == [] and not served.pool.engines
        await served.close()

    asyncio.run(serve())


def test_a_system_whose_first_answer_memory_does_not_hold_leaves_no_weights_in_a_server(systems, monkeypatch):
    def answer(self, rows, pool, **more):
        self.open(pool)
        raise FULL

    async def serve() -> None:
        served = Systems(Limits(threads=1))
        with pytest.raises(EngineError, match="the GPU's memory is used up"):
            await served.add(str(systems[0].folder), "one")
        assert served.names() == [] and not served.pool.engines
        await served.close()

    monkeypatch.setattr("rung.system.System.answer", answer)
    asyncio.run(serve())


def test_another_fault_of_torch_stays_a_fault(systems, monkeypatch):
    def broken(model):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("rung.engines.torch.require_plain", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(("ask", str(systems[0].folder), "the wifi is down"))
