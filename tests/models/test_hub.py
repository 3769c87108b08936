import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

WAITING = """
import json, os, signal, sys, traceback
import rung.models.resolve
from huggingface_hub import HfApi, snapshot_download
for name in [*sys.modules]:
    if name.partition(".")[0] == "huggingface_hub":
        del sys.modules[name]
for line in sys.stdin:
    asked = json.loads(line)
    if (child := os.fork()) == 0:
        signal.alarm(60)
        os.environ.update(asked["places"])
        os.dup2(os.open(asked["said"], os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = ["-c", *asked["given"]]
        try:
            exec(asked["script"], {"__name__": "__main__"})
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(1, b"%d\\n" % status)
"""
"""A program that has loaded what all scripts need, and runs each in a process of its own, with other places.
The hub's library alone is loaded there anew: it reads them at its import."""
ASK = """
import sys
from rung.errors import ModelError
from rung.models.resolve import resolve
try:
    model = resolve(sys.argv[1])
    print("FOUND", model.name, model.licence, (model.gguf or model.folder).name, model.parameters)
except ModelError as error:
    print("REFUSED", type(error).__name__, error)
"""
NEWEST = ASK.replace("resolve(sys.argv[1])", "resolve(sys.argv[1], newest=True)")
DIGEST = 'print("DIGEST", model.digest)\n'
"""After a script that found a model."""
MADE_ON = """
import sys
from pathlib import Path
from rung.errors import RungError
from rung.models.refs import model_of
from rung.spec import ModelRef
source, digest = sys.argv[1].split(" ")
ref = ModelRef(name="m", source=source, digest=digest, licence="mit")
try:
    model = model_of(ref, Path("a-system"))
    place = (model.gguf or model.folder).is_relative_to(sys.argv[2])
    print("FOUND", model.licence, model.digest == digest, place)
except RungError as error:
    print("REFUSED", type(error).__name__, error)
"""
HERE = """
import sys
from rung.models.resolve import at_hand
model = at_hand(sys.argv[1])
print("HERE" if model else "ABSENT", model and model.name)
"""
SHA = "a" * 40
OFFERED = "smollm2-360m"
OFFERED_REPOSITORY = "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF"
OFFERED_FILE = "smollm2-360m-instruct-q8_0.gguf"


class Hub(ThreadingHTTPServer):
    """The part of the hub's HTTP interface that a download uses, over files held in memory."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[str]
    commit: str = SHA

    def change(self, name: str, file: str) -> None:
        """What its makers do to a repository: a file gets other bytes, in a new commit."""
        self.repositories[name][file] = changed(file, self.repositories[name][file])
        self.commit = chr(ord(self.commit[0]) + 1) * 40


def changed(file: str, data: bytes) -> bytes:
    """Other bytes that can be read as well."""
    return data + b" " if file.endswith("json") else data[:-1] + bytes([(data[-1] + 1) % 256])


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.server.repositories.get("/".join(parts[2:4]))
            if files is None:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            if "tree" in parts:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in files.items()
                ]
                self.answer(200, json.dumps(tree).encode())
                return
            info = {"id": "/".join(parts[2:4]), "sha": self.server.commit, "cardData": {"license": "mit"}}
            info["siblings"] = [{"rfilename": name} for name in files]
            self.answer(200, json.dumps(info).encode())
            return
        name = "/".join(parts[4:])
        data = self.server.repositories.get("/".join(parts[:2]), {}).get(name)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self.server.asked.append(name)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": self.server.commit}
        self.answer(200, data, headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tiny_gguf) -> Iterator[Hub]:
    import numpy as np
    from safetensors.numpy import save

    gguf = tiny_gguf().read_bytes()
    config = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).encode()
    server = Hub(("127.0.0.1", 0), Handler)
    server.asked = []
    server.repositories = {
        "org/tensors": {
            "model.safetensors": save({"w": np.zeros((2, 3), np.float32)}),
            "config.json": config,
            "tokenizer.json": b"{}",
            "pytorch_model.bin": b"\x80\x04.",
            "model.gguf": gguf,
        },
        "org/shards": {
            "model-00001-of-00002.safetensors": save({"v": np.zeros((2, 3), np.float32)}),
            "model-00002-of-00002.safetensors": save({"w": np.zeros((4, 5), np.float32)}),
            "model.safetensors.index.json": json.dumps(
                {"weight_map": {n: f"model-0000{i}-of-00002.safetensors" for i, n in ((1, "v"), (2, "w"))}}
            ).encode(),
            "config.json": config,
            "tokenizer.json": b"{}",
        },
        "org/ggufs": {"a.gguf": gguf, "b.gguf": gguf},
        OFFERED_REPOSITORY: {OFFERED_FILE: gguf},
        "org/pickles": {"pytorch_model.bin": b"\x80\x04.", "config.json": config},
    }
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@cache
def waiting() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    waiting().communicate(timeout=20)


def ask(hub: Hub | None, name: str, home: Path, script: str = ASK, *more: str) -> str:
    url = f"http://127.0.0.1:{hub.server_port}" if hub else "http://127.0.0.1:9"
    places = {"HF_HOME": str(home), "RUNG_CACHE": str(home / "rung")}
    places |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}
    said = home / "said"
    said.unlink(missing_ok=True)
    request = {"script": script, "given": [name, *more], "places": places, "said": str(said)}
    program = waiting()
    assert program.stdin is not None and program.stdout is not None
    program.stdin.write(json.dumps(request).encode() + b"\n")
    program.stdin.flush()
    assert program.stdout.readline() == b"0\n"
    return said.read_text()


def test_safetensors_are_preferred_and_pickles_never_asked_for(hub: Hub, tmp_path: Path) -> None:
    for name in ("org/tensors", "hf:org/tensors"):
        assert f"FOUND {name} mit {SHA} 6" in ask(hub, name, tmp_path)
    assert set(hub.asked) == {"model.safetensors", "config.json", "tokenizer.json"}


def test_weights_in_another_format_beside_those_that_are_read_are_not_brought(
    hub: Hub, tmp_path: Path
) -> None:
    for name in ("org/tensors", "org/shards"):
        files = hub.repositories[name]
        files["consolidated.safetensors"] = b"all of it again"
        hub.asked.clear()
        assert f"FOUND {name}" in ask(hub, name, tmp_path)
        assert "consolidated.safetensors" not in hub.asked
        assert {one for one in files if one.startswith("model") and "gguf" not in one} <= set(hub.asked)
        assert f"FOUND {name}" in ask(None, name, tmp_path)
        assert f"HERE {name}" in ask(None, name, tmp_path, HERE)


def test_an_index_that_is_none_is_told_by_name_once_all_is_brought(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/shards"]["model.safetensors.index.json"] = b"[]"
    said = ask(hub, "org/shards", tmp_path)
    assert said.startswith("REFUSED ModelError") and "model.safetensors.index.json" in said
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= set(hub.asked)


def test_a_named_gguf_is_brought_alone(hub: Hub, tmp_path: Path) -> None:
    assert "FOUND org/ggufs:b.gguf mit b.gguf" in ask(hub, "org/ggufs:b.gguf", tmp_path)
    assert set(hub.asked) == {"b.gguf"}


def test_a_model_brought_before_is_found_without_a_connection(hub: Hub, tmp_path: Path) -> None:
    assert "FOUND" in ask(hub, "org/tensors", tmp_path)
    assert "FOUND org/tensors" in ask(None, "org/tensors", tmp_path)


@pytest.mark.parametrize("name", ["org/tensors", "org/ggufs:b.gguf"])
def test_a_model_brought_before_is_at_hand_and_nothing_is_asked_for_it(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    assert "ABSENT" in ask(hub, name, tmp_path, HERE) and not hub.asked
    assert "FOUND" in ask(hub, name, tmp_path)
    assert f"HERE {name}" in ask(None, name, tmp_path, HERE)
    for path in [*tmp_path.rglob("model.safetensors"), *tmp_path.rglob("b.gguf")]:
        path.unlink()
    assert "ABSENT" in ask(None, name, tmp_path, HERE)


@pytest.mark.parametrize(
    ("brought", "lost", "asked", "message"),
    [
        ("org/ggufs:b.gguf", None, "org/ggufs:a.gguf", "can't reach the hub for 'org/ggufs'"),
        ("org/tensors", "model.safetensors", "org/tensors", "can't reach the hub for 'org/tensors'"),
        (
            "org/shards",
            "model-00002-of-00002.safetensors",
            "org/shards",
            "lacks 1 of 2 files of weights that 'model.safetensors.index.json' names "
            "(model-00002-of-00002.safetensors)",
        ),
    ],
)
def test_of_a_model_brought_in_part_it_is_said_what_to_bring_without_a_connection(
    hub: Hub, tmp_path: Path, brought: str, lost: str | None, asked: str, message: str
) -> None:
    assert "FOUND" in ask(hub, brought, tmp_path)
    for path in tmp_path.rglob(lost) if lost else ():
        path.unlink()
    for listing in tmp_path.rglob("trees"):
        shutil.rmtree(listing)  # older versions of huggingface_hub keep no list of a repository's files
    said = ask(None, asked, tmp_path)
    assert said.startswith("REFUSED WeightsError") and message in said and "connect" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/ggufs", "org/ggufs:FILE: a.gguf, b.gguf"),
        ("org/ggufs:c.gguf", "has no file 'c.gguf'"),
        ("org/pickles", "pickled weights are never loaded"),
        ("org/nothing", "no model 'org/nothing'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_way_out(
    hub: Hub, tmp_path: Path, name: str, message: str
) -> None:
    said = ask(hub, name, tmp_path)
    assert said.startswith("REFUSED ModelError") and message in said
    assert not hub.asked


def digest_of(hub: Hub | None, name: str, home: Path, script: str = ASK) -> str:
    """The digest of what a name stands for; its licence is always that of the hub's page."""
    said = ask(hub, name, home, script + DIGEST)
    assert f"FOUND {name} mit" in said
    return said.split()[-1]


@pytest.mark.parametrize(("name", "file"), [("org/tensors", "config.json"), ("org/ggufs:b.gguf", "b.gguf")])
def test_a_hub_id_stands_for_what_it_brought_first_until_the_newest_is_asked_for(
    hub: Hub, tmp_path: Path, name: str, file: str
) -> None:
    first = digest_of(hub, name, tmp_path)
    hub.change(name.partition(":")[0], file)
    hub.asked.clear()
    assert digest_of(hub, name, tmp_path) == first == digest_of(None, name, tmp_path) and not hub.asked
    assert digest_of(hub, f"hf:{name}", tmp_path) == first
    second = digest_of(hub, name, tmp_path, NEWEST)
    assert second != first and digest_of(hub, name, tmp_path) == second
    shutil.rmtree(tmp_path / "hub")
    hub.change(name.partition(":")[0], file)
    assert digest_of(hub, name, tmp_path) not in (first, second), "what is gone can't be stood for"
    assert "HERE" in ask(None, name, tmp_path, HERE)


@pytest.mark.parametrize(
    ("name", "file"),
    [("org/tensors", "config.json"), ("org/tensors", "model.safetensors"), ("org/ggufs:b.gguf", "b.gguf")],
)
def test_a_system_is_answered_with_the_weights_that_it_was_made_on_whatever_the_hub_has_now(
    hub: Hub, tmp_path: Path, name: str, file: str
) -> None:
    made_on = digest_of(hub, name, tmp_path)
    repository = name.partition(":")[0]
    hub.change(repository, file)
    digest_of(hub, name, tmp_path, NEWEST)
    snapshots = tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots"
    assert {path.name for path in snapshots.iterdir()} == {"a" * 40, "b" * 40}
    place = str(snapshots / ("a" * 40))
    for server in (hub, None):
        assert "FOUND mit True True" in ask(server, f"{name} {made_on}", tmp_path, MADE_ON, place)
    blob = (snapshots / ("a" * 40) / file).resolve()
    blob.write_bytes(changed(file, blob.read_bytes()))
    said = ask(hub, f"{name} {made_on}", tmp_path, MADE_ON, place)
    assert "REFUSED SystemFolderError" in said and "restore the old weights or climb again" in said


def test_an_offered_model_that_its_makers_changed_stays_what_was_fetched_first(
    hub: Hub, tmp_path: Path
) -> None:
    first = ask(hub, OFFERED, tmp_path, ASK + DIGEST)
    assert f"FOUND {OFFERED} apache-2.0" in first
    hub.change(OFFERED_REPOSITORY, OFFERED_FILE)
    for script in (ASK, NEWEST):
        assert ask(hub, OFFERED, tmp_path, script + DIGEST) == first
    assert f"HERE {OFFERED}" in ask(None, OFFERED, tmp_path, HERE)
    kept = tmp_path / "rung" / "hub_digests.json"
    trusted = kept.read_text()
    kept.unlink()
    second = ask(hub, OFFERED, tmp_path, ASK + DIGEST)
    assert f"FOUND {OFFERED} apache-2.0" in second and second != first
    place = str(tmp_path / "hub")
    assert "FOUND" in ask(hub, f"{OFFERED} {first.split()[-1]}", tmp_path, MADE_ON, place), "both are there"
    kept.write_text(trusted)
    shutil.rmtree(tmp_path / "hub")
    assert "REFUSED DigestError" in ask(hub, OFFERED, tmp_path)
    assert "ABSENT" in ask(None, OFFERED, tmp_path, HERE)


def test_where_it_cannot_be_kept_what_a_hub_id_stands_for_the_hub_is_asked_again(
    hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "rung" / ".hub_digests.json.lock").mkdir(parents=True)
    first = digest_of(hub, "org/tensors", tmp_path)
    hub.change("org/tensors", "config.json")
    assert digest_of(hub, "org/tensors", tmp_path) != first


def test_an_unreachable_hub_is_named(tmp_path: Path) -> None:
    assert "WeightsError can't reach the hub for 'org/model'" in ask(None, "org/model", tmp_path)
