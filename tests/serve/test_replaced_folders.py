"""A System's folder that another one takes while it is served: it answers as itself, or says it can't."""

import asyncio
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from rung.models.resolve import resolve
from rung.records import Example
from rung.serve.answer import asked, reply
from rung.serve.faults import Fault
from rung.serve.limits import Limits
from rung.serve.systems import Systems
from rung.serve.wish import Wish
from rung.spec import AnswerSpec, ShotSpec, Spec
from rung.system import SHOTS_FILE, WEIGHTS_GGUF, Pool, System, copy, ref_to, save
from tests.fixtures_serve import is_engine
from tests.fixtures_ship import make_tuned

TEXTS = ("the wifi is down", "my badge is lost", "when is pay day", "a trip to make")
FREE = {"engine": "llama", "form": "free", "kind": "text", "labels": ()}


def example(text: str) -> Example:
    return Example(id=text, input=text, output=None)


async def said(systems: Systems, name: str) -> list[str]:
    """What is answered to every text."""
    served = systems.find(name)
    assert served is not None
    found = []
    for text in TEXTS:
        question = await asked(systems, served, example(text))
        found.append((await reply(systems, served, question, Wish(max_tokens=8))).text)
    return found


def alone(system: System) -> list[str]:
    with Pool(threads=1, parallel=1) as pool:
        return [one.text for one in system.answer([example(text) for text in TEXTS], pool)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_gguf) -> list[System]:
    folder = tmp_path_factory.mktemp("tuned")
    return [make_tuned(tiny_gguf, folder / str(n), seed=n, **FREE) for n in range(3)]


def engines() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_engine(child)]


@pytest.mark.parametrize("dies", [True, False])
def test_an_adapter_that_was_replaced_is_never_taken_for_the_one_that_was_loaded(tuned, tmp_path, dies):
    one, two, other = tuned
    folder = tmp_path / "winner"
    copy(one, folder)

    async def run() -> None:
        others = {p.pid for p in engines()}
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(folder), "winner")
        await systems.add(str(other.folder), "other")
        assert await said(systems, "winner") == alone(one)
        copy(two, folder)
        assert await said(systems, "winner") == alone(one)
        if dies:
            for engine in engines():
                if engine.pid not in others:
                    os.kill(engine.pid, signal.SIGKILL)
            with pytest.raises(Fault) as caught:
                await said(systems, "winner")
            assert caught.value.status == 503 and "load the System again" in caught.value.message
        assert await said(systems, "other") == alone(other)
        await systems.add(str(folder), "winner")
        assert await said(systems, "winner") == alone(two) != alone(one)
        (host,) = systems.hosts.values()
        assert len(host.adapters) == 2
        await systems.close()

    asyncio.run(run())


def test_whole_weights_that_were_replaced_are_not_loaded(tmp_path, tiny_gguf):
    model = resolve(str(tiny_gguf))
    answer = AnswerSpec(form="free", max_tokens=8)
    spec = Spec(
        rung="sft", task="t", kind="text", engine="llama", model=ref_to(model, str(tiny_gguf)), answer=answer
    )
    folder = tmp_path / "winner"
    save(folder, spec, {WEIGHTS_GGUF: tiny_gguf})

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(folder), "winner")
        before = await said(systems, "winner")
        (host,) = systems.hosts.values()
        await host.sleep()
        away = (folder / WEIGHTS_GGUF).rename(tmp_path / "away.gguf")
        (folder / WEIGHTS_GGUF).write_bytes(away.read_bytes() + b"\0")
        with pytest.raises(Fault) as caught:
            await said(systems, "winner")
        assert "was replaced or changed since its System was loaded" in caught.value.message
        away.rename(folder / WEIGHTS_GGUF)
        assert await said(systems, "winner") == before
        await systems.close()

    asyncio.run(run())


def test_worked_examples_are_those_that_were_loaded(tmp_path, tiny_gguf):
    def told(folder: Path, output: str) -> System:
        spec = Spec(
            rung="few_shot",
            task="t",
            kind="text",
            engine="llama",
            model=ref_to(resolve(str(tiny_gguf)), str(tiny_gguf)),
            shots=ShotSpec(choice="fixed", k=1),
            answer=AnswerSpec(form="free", max_tokens=8),
        )
        return save(folder, spec, {SHOTS_FILE: json.dumps({"input": "so?", "output": output}) + "\n"})

    first, second = told(tmp_path / "first", "no"), told(tmp_path / "second", "yes, of course")
    copy(first, tmp_path / "winner")

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        served = await systems.add(str(tmp_path / "winner"), "winner")
        copy(second, tmp_path / "winner")
        question = await asked(systems, served, example(TEXTS[0]))
        assert [question.prompt] == first.prompts([example(TEXTS[0])], Pool())
        await systems.close()

    asyncio.run(run())


@pytest.mark.parametrize("dies", [True, False])
def test_a_base_that_was_replaced_is_not_loaded_for_the_one_that_is_served(tmp_path, tiny_gguf, dies):
    gguf, kept = tmp_path / "base.gguf", tiny_gguf.read_bytes()
    gguf.write_bytes(kept)
    spec = Spec(
        rung="prompt",
        task="t",
        kind="text",
        engine="llama",
        model=ref_to(resolve(str(gguf)), str(gguf)),
        answer=AnswerSpec(form="free", max_tokens=8),
    )
    save(tmp_path / "system", spec, {})

    def put(data: bytes) -> None:
        """In place of the file, as a download does, and with its size."""
        draft = tmp_path / "draft"
        draft.write_bytes(data)
        draft.replace(gguf)

    async def run() -> None:
        others = {p.pid for p in engines()}
        systems = Systems(Limits(slots=1, threads=1))
        await systems.add(str(tmp_path / "system"), "t")
        before = await said(systems, "t")
        put(kept[:-20_000] + kept[-20_000:][::-1])
        assert await said(systems, "t") == before
        (host,) = systems.hosts.values()
        if dies:
            (child,) = [p for p in engines() if p.pid not in others]
            os.kill(child.pid, signal.SIGKILL)
        else:
            await host.sleep()
        with pytest.raises(Fault) as caught:
            await said(systems, "t")
        assert caught.value.status == 503
        assert "base.gguf' was removed, replaced or changed since its model" in caught.value.message
        put(kept)
        assert await said(systems, "t") == before
        await systems.close()

    asyncio.run(run())
