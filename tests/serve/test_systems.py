"""Systems that come and go while a server answers, and tags that are followed."""

import asyncio
import json
import threading

import openai
import pytest

from rung.engines import start
from rung.engines.base import Engine
from rung.records import Calibration, CalibrationMap
from rung.registry import load_system, point, read_tag, system_folder
from rung.serve import run as running
from rung.serve import shapes
from rung.serve.limits import Limits
from rung.serve.systems import Served, Systems
from rung.spec import AnswerSpec, StepsSpec
from rung.system import System, keep_calibration, save
from tests.fixtures_climb import label_rows, make_tiny_gguf
from tests.fixtures_serve import LABELS, Server, eventually, make_head, said

THINK = StepsSpec(kind="think", max_tokens=8, close="Now the answer.")
REASONED = StepsSpec(kind="think", samples=3, temperature=0.7, max_tokens=8, close="Now the answer.")
REPAIR = StepsSpec(kind="repair", max_tokens=8, close="{fault}: again.")
TEXTS = [r["input"] for r in label_rows(8, seed=3)]


def names(server):
    return sorted(model.id for model in server.user.models.list())


@pytest.fixture
def changing(tiny):
    """The server that a test changes, and leaves as it was."""
    before = names(tiny)
    yield tiny
    for name in set(names(tiny)) - set(before):
        tiny.delete(f"/v1/systems/{name}")
    assert names(tiny) == before
    eventually(lambda: len(tiny.children()) == 1)


def load(server, **body):
    return server.post("/v1/systems", json=body)


def answer(server, model, text=TEXTS[0]):
    return server.user.chat.completions.create(model=model, messages=said(text), max_tokens=8)


def test_models_are_listed_and_found(tiny, tiny_systems):
    assert names(tiny) == sorted([*tiny_systems, "base"])
    found = tiny.user.models.retrieve("desk")
    assert (found.id, found.object, found.owned_by) == ("desk", "model", "rung")
    assert found.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError, match="there are: .*desk"):
        tiny.user.models.retrieve("nobody")


def test_systems_tell_what_they_are_made_of(tiny, tiny_systems):
    listed = {item["name"]: item for item in tiny.get("/v1/systems").json()["data"]}
    assert sorted(listed) == sorted([*tiny_systems, "base"])
    for name, system in tiny_systems.items():
        found = listed[name]
        assert (found["digest"], found["kind"]) == (system.digest, system.spec.kind)
        assert found["rung"] == system.spec.rung and found["task"] == system.spec.task
    assert listed["desk"]["base"] is None and sorted(listed["desk"]["labels"]) == sorted(LABELS)
    assert listed["json"]["base"]["name"] == "tiny" and listed["json"]["schema"]["type"] == "object"


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("desk", {}, True),
        ("codes", {}, True),
        ("words", {}, True),
        ("words", {"steps": THINK}, True),
        ("words", {"steps": REASONED}, False),
        ("words", {"steps": REPAIR}, False),
        ("words", {"engine": "endpoint", "answer": AnswerSpec(form="schema")}, False),
        ("json", {}, False),
        ("json", {"steps": THINK}, False),
        ("text", {}, False),
    ],
)
def test_a_system_says_whether_its_answers_are_labels_with_probabilities(name, changes, told, tiny_systems):
    made = tiny_systems[name]
    served = Served(
        name=name,
        system=System(made.folder, made.spec.model_copy(update=changes)),
        model=None,
        chat=None,
        host=None,
        adapter=None,
        adapter_mb=0,
        options=None,
    )
    assert shapes.system(served)["probabilities"] is told


def test_a_system_is_loaded_asked_and_unloaded(changing, tiny_systems):
    before = names(changing)
    made = load(changing, system=str(tiny_systems["words"].folder), name="fresh")
    assert made.status_code == 201 and made.json()["digest"] == tiny_systems["words"].digest
    assert "fresh" in names(changing)
    assert answer(changing, "fresh").choices[0].message.content in LABELS
    gone = changing.delete("/v1/systems/fresh")
    assert gone.json() == {"name": "fresh", "object": "system", "deleted": True}
    assert changing.delete("/v1/systems/fresh").status_code == 404
    with pytest.raises(openai.NotFoundError):
        answer(changing, "fresh")
    assert names(changing) == before


def test_without_a_name_a_system_has_its_tasks_and_a_second_one_another(changing, tiny_systems, tmp_path):
    spec = tiny_systems["words"].spec.model_copy(update={"task": "topics"})
    folder = str(save(tmp_path / "topics", spec, {}).folder)
    made = [load(changing, system=folder).json()["name"] for _ in range(3)]
    assert made == ["topics", "topics-prompt", "topics-prompt-2"]
    for name in made:
        assert changing.delete(f"/v1/systems/{name}").status_code == 200


@pytest.mark.parametrize("given", ("nowhere", "/etc", "smollm2-13b", "a\x00b", "x" * 4096, "\ud800"))
def test_what_cant_be_loaded_is_said_and_changes_nothing(changing, given):
    before = names(changing)
    said_of_it = changing.post(
        "/v1/systems", content=json.dumps({"system": given}), headers={"content-type": "application/json"}
    )
    assert said_of_it.status_code == 400
    assert said_of_it.json()["error"]["code"] in ("system_not_loaded", None)
    assert names(changing) == before


@pytest.mark.parametrize("name", ("", "a/b", ".a", "a b", "ä", "x" * 200))
def test_a_name_that_no_request_could_use_is_refused(changing, tiny_systems, name):
    found = load(changing, system=str(tiny_systems["words"].folder), name=name)
    assert found.status_code == 400 and found.json()["error"]["param"] == "name"


def test_no_request_is_lost_while_systems_come_and_go(changing, tiny_systems):
    """One after another is loaded and unloaded, also under a name that is being asked."""
    folders = [str(tiny_systems[form].folder) for form in ("words", "codes")]
    done = asyncio.Event()

    async def keep_asking(client, model):
        found = []
        while not done.is_set():
            made = await client.chat.completions.create(model=model, messages=said(TEXTS[0]), max_tokens=30)
            found.append(made.choices[0].message.content)
        return found

    async def change(server):
        await asyncio.to_thread(load, server, system=folders[0], name="moving")
        for turn in range(6):
            await asyncio.to_thread(load, server, system=folders[turn % 2], name="moving")
            await asyncio.to_thread(load, server, system=folders[1], name="passing")
            await asyncio.to_thread(server.delete, "/v1/systems/passing")
        done.set()

    async def both():
        async with changing.async_client() as client:
            asking = [asyncio.ensure_future(keep_asking(client, m)) for m in ("desk", "base", "desk", "base")]
            await asyncio.to_thread(load, changing, system=folders[0], name="moving")
            asking.append(asyncio.ensure_future(keep_asking(client, "moving")))
            try:
                await change(changing)
            finally:
                done.set()
            return await asyncio.gather(*asking)

    found = asyncio.run(both())
    assert all(len(texts) >= 3 for texts in found)
    assert set(found[0]) == set(found[2]) and len(set(found[0])) == 1
    assert set(found[4]) <= set(LABELS)
    changing.delete("/v1/systems/moving")


def test_a_request_in_flight_is_answered_though_its_system_is_unloaded(changing, tmp_path):
    # Other weights than those that stay, so that their process ends too.
    load(changing, system=str(make_tiny_gguf(tmp_path / "other.gguf", context=400)), name="leaving")
    assert len(changing.children()) == 2

    async def ask_and_unload():
        async with changing.async_client() as client:
            asked = [
                asyncio.ensure_future(
                    client.completions.create(
                        model="leaving", prompt=text, n=8, temperature=1, max_tokens=300
                    )
                )
                for text in TEXTS[:4]
            ]
            await asyncio.to_thread(
                eventually, lambda: changing.gauge("rung_running") + changing.gauge("rung_waiting") > 8
            )
            assert (await asyncio.to_thread(changing.delete, "/v1/systems/leaving")).status_code == 200
            return await asyncio.gather(*asked)

    assert all(len(found.choices) == 8 for found in asyncio.run(ask_and_unload()))
    eventually(lambda: len(changing.children()) == 1)


QUICK = "from rung.cli.main import main; from rung.serve import run; run.TAGS_S = 0.1; main()"


def tag(system: System, text: str) -> None:
    point(system, read_tag(text), source="test", origin="made by a test")


@pytest.fixture(scope="module")
def tagging(tmp_path_factory, tiny_systems):
    """A server of two tags that looks for what they mean 20 times as often; tags are made in its home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(home))
        tag(tiny_systems["desk"], "helpdesk:1")
        with Server("helpdesk", "helpdesk:1", home=home, program=("-c", QUICK)) as server:
            yield server


def test_a_tag_is_served_and_followed_when_it_comes_to_mean_another_system(tagging, tmp_path, tiny_systems):
    server, other = tagging, make_head(tmp_path / "other", seed=11)
    assert names(server) == ["helpdesk:1", "helpdesk:latest"]
    for name in ("helpdesk", "helpdesk:latest", "helpdesk:1"):
        assert answer(server, name).system_fingerprint.endswith(tiny_systems["desk"].digest)
    tag(other, "helpdesk:2")
    eventually(lambda: answer(server, "helpdesk").system_fingerprint.endswith(other.digest))
    assert answer(server, "helpdesk:1").system_fingerprint.endswith(tiny_systems["desk"].digest)
    assert any("helpdesk:latest was tagged anew" in line for line in server.lines)
    text = label_rows(60, seed=0)[0]["input"]
    assert answer(server, "helpdesk", text).choices[0].message.content in LABELS
    server.post("/v1/systems", json={"system": "helpdesk:2"})
    assert names(server) == ["helpdesk:1", "helpdesk:2", "helpdesk:latest"]


def test_a_system_that_is_named_by_its_digest_stays_and_a_tag_that_cant_be_served_is_said_once(
    tmp_path, monkeypatch, tiny_systems
):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    desk, other = tiny_systems["desk"], make_head(tmp_path / "other", seed=11)
    tag(desk, "helpdesk:1")
    tag(other, "helpdesk:2")

    async def run() -> None:
        systems = Systems(Limits(threads=1))
        await systems.add(f"helpdesk@{desk.digest}", "pinned")
        await systems.add("helpdesk")
        broken = make_head(tmp_path / "broken", seed=12)
        tag(broken, "helpdesk:3")
        for path in system_folder(broken.digest).glob("*.safetensors"):
            path.write_bytes(b"")
        (line,) = await followed(systems)
        assert "helpdesk:latest stays as it was" in line
        assert [await followed(systems) for _ in range(3)] == [[], [], []]
        served = {one.name: one.system.digest for one in systems}
        assert served == {"helpdesk:latest": other.digest, "pinned": desk.digest}
        await systems.close()

    asyncio.run(run())


def test_a_tag_is_followed_when_the_same_system_is_tagged_with_another_calibration(tagging, tmp_path):
    server = tagging

    def calibrated(temperature: float, name: str) -> None:
        system = make_head(tmp_path / "made" / name)
        found = CalibrationMap(method="temperature", temperature=temperature)
        keep_calibration(system, Calibration(map=found, rows=9, rows_digest="d", every_label=True, note=""))
        tag(system, f"{name}:1")
        tag(system, "desk")

    def sure(name: str) -> float:
        question = {"type": "noul", "instructions": "?"}
        body = {"model": name, "state": TEXTS[0], "questions": {LABELS[0]: question}}
        return server.post("/v1/systemone", json=body).json()["answers"][LABELS[0]]["noul"]

    calibrated(1.0, "mild")
    assert [load(server, system=name).status_code for name in ("desk", "mild")] == [201, 201]
    try:
        before = sure("desk")
        assert sure("mild") == before
        calibrated(9.0, "bold")
        eventually(lambda: sure("desk") != before)
        assert sure("mild") == before
    finally:
        for name in ("desk:latest", "mild:latest"):
            server.delete(f"/v1/systems/{name}")


async def following(tmp_path, monkeypatch, names: tuple[str, ...]) -> Systems:
    """Tags that are served, each of which means another System now."""
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    systems = Systems(Limits(threads=1))
    for seed in (0, 11):
        made = make_head(tmp_path / f"made-{seed}", seed=seed)
        for name in names:
            tag(made, f"{name}:{seed}")
            if seed == 0:
                await systems.add(name)
    return systems


async def followed(systems: Systems) -> list[str]:
    """What is said of the tags, each followed once."""
    said_of_each = await asyncio.gather(*[systems.follow(served) for served in systems])
    return [line for line in said_of_each if line is not None]


def test_a_system_that_breaks_whatever_the_reason_keeps_no_other_tag_from_being_followed(
    tmp_path, monkeypatch
):
    async def run() -> None:
        systems = await following(tmp_path, monkeypatch, ("first", "second"))

        def broken(given: str):
            if given.startswith("first"):
                raise RuntimeError("out of memory")
            return load_system(given)

        monkeypatch.setattr("rung.serve.systems.load_system", broken)
        stays, moves = await followed(systems)
        assert "first:latest stays as it was" in stays and "out of memory" in stays
        assert "second:latest was tagged anew" in moves
        assert await followed(systems) == []
        await systems.close()

    asyncio.run(run())


def test_a_tag_that_is_unloaded_while_its_new_system_loads_stays_so(tmp_path, monkeypatch):
    async def run() -> None:
        systems = await following(tmp_path, monkeypatch, ("first",))
        loads, go_on = threading.Event(), threading.Event()

        def slow(given: str):
            loads.set()
            assert go_on.wait(60)
            return load_system(given)

        monkeypatch.setattr("rung.serve.systems.load_system", slow)
        follows = asyncio.ensure_future(followed(systems))
        assert await asyncio.to_thread(loads.wait, 10)
        try:
            async with asyncio.timeout(10):
                assert await systems.remove("first:latest")
        finally:
            go_on.set()
        assert await follows == [] and systems.names() == []
        assert not systems.pool.heads
        await systems.close()

    asyncio.run(run())


def test_of_tags_that_move_together_one_new_system_at_a_time_stands_beside_what_it_replaces(
    tmp_path, monkeypatch
):
    async def run() -> None:
        systems, seen = await following(tmp_path, monkeypatch, ("first", "second", "third")), list[str]()
        answers, drops = System.answer, systems._drop

        def answer(system, rows, pool):
            seen.append("warmed up")
            return answers(system, rows, pool)

        async def drop(old):
            await drops(old)
            seen.append("dropped")

        monkeypatch.setattr(System, "answer", answer)
        monkeypatch.setattr(systems, "_drop", drop)
        assert len(await followed(systems)) == 3
        assert seen == ["warmed up", "dropped"] * 3
        await systems.close()

    asyncio.run(run())


def test_of_two_tags_that_come_to_mean_a_system_of_several_calls_one_starts_its_engine(
    tmp_path, monkeypatch, tiny_systems
):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "home"))
    spec = tiny_systems["words"].spec.model_copy(update={"steps": THINK, "rung": "workflow"})
    thinks = save(tmp_path / "thinks", spec, {})
    started: list[Engine] = []

    def counted(*arguments):
        started.append(start(*arguments))
        return started[-1]

    async def run() -> None:
        systems = Systems(Limits(slots=1, threads=1))
        for text in ("one:1", "two:1"):
            tag(tiny_systems["desk"], text)
            await systems.add(text)
            tag(thinks, text)
        monkeypatch.setattr("rung.system.start", counted)
        assert len(await followed(systems)) == 2
        assert {served.system.digest for served in systems} == {thinks.digest}
        assert started == list(systems.pool.engines.values())
        await systems.close()

    asyncio.run(run())


@pytest.mark.parametrize("rolled_back", [True, False])
def test_a_tag_that_was_refused_is_followed_again_once_it_is_tagged_again(tmp_path, monkeypatch, rolled_back):
    def move(seed: int) -> None:
        tag(System.load(tmp_path / f"made-{seed}"), "first")

    async def run() -> None:
        systems, breaks = await following(tmp_path, monkeypatch, ("first",)), True

        def broken(given: str):
            if breaks:
                raise RuntimeError("out of memory")
            return load_system(given)

        monkeypatch.setattr("rung.serve.systems.load_system", broken)
        (line,) = await followed(systems)
        assert "first:latest stays as it was" in line and await followed(systems) == []
        if rolled_back:
            move(0)
            assert await followed(systems) == []
        move(11)
        (line,) = await followed(systems)
        assert "first:latest stays as it was" in line and await followed(systems) == []
        if rolled_back:
            move(0)
        move(11)
        breaks = False
        (line,) = await followed(systems)
        assert "first:latest was tagged anew" in line and await followed(systems) == []
        await systems.close()

    asyncio.run(run())


@pytest.mark.parametrize("read", ["before", "after"])
def test_a_tag_that_is_rolled_back_while_its_new_system_loads_is_served_as_it_was(
    tmp_path, monkeypatch, read
):
    async def run() -> None:
        systems = await following(tmp_path, monkeypatch, ("first",))
        there = systems.find("first")
        assert there is not None
        loads, go_on = threading.Event(), threading.Event()

        def slow(given: str):
            early = load_system(given) if read == "before" else None
            loads.set()
            assert go_on.wait(60)
            return early or load_system(given)

        monkeypatch.setattr("rung.serve.systems.load_system", slow)
        follows = asyncio.ensure_future(systems.follow(there))
        assert await asyncio.to_thread(loads.wait, 10)
        old = System.load(tmp_path / "made-0")
        tag(old, "first")
        go_on.set()
        assert await follows is None
        assert systems.find("first") is there and list(systems.pool.heads) == [old.digest]
        assert await followed(systems) == []
        await systems.close()

    asyncio.run(run())


def test_a_tag_whose_system_is_long_in_loading_keeps_no_other_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "TAGS_S", 0.01)

    async def run() -> None:
        systems = await following(tmp_path, monkeypatch, ("first", "second"))
        go_on, lines = threading.Event(), list[str]()

        def slow(given: str):
            assert not given.startswith("first") or go_on.wait(60)
            return load_system(given)

        async def said_soon(name: str) -> None:
            async with asyncio.timeout(20):
                while not any(f"{name}:latest was tagged anew" in line for line in lines):
                    await asyncio.sleep(0.01)

        monkeypatch.setattr("rung.serve.systems.load_system", slow)
        follows = asyncio.ensure_future(running._follow(systems, lines.append))
        try:
            await said_soon("second")
            assert len(lines) == 1
        finally:
            go_on.set()
        await said_soon("first")
        assert len(lines) == 2
        follows.cancel()
        await asyncio.gather(follows, return_exceptions=True)
        await systems.close()

    asyncio.run(run())
