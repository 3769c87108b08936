"""Who may ask: API keys, and without them this machine alone."""

import json
import time

import openai
import pytest

from rung.serve.keys import add_key, remove_key
from tests.fixtures_serve import LABELS, Server, eventually, said

HELLO = said("my invoice is late")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, tiny_systems):
    """(server, keys by name) of a server that asks for API keys."""
    home = tmp_path_factory.mktemp("home")
    path = home / "keys.json"
    keys = {
        "user": add_key(path, "user"),
        "admin": add_key(path, "admin", admin=True),
        "brief": add_key(path, "brief", expires_s=0.01),
    }
    time.sleep(0.05)
    with Server(f"desk={tiny_systems['desk'].folder}", home=home) as server:
        yield server, keys


def ask(server, key):
    with server.client(api_key=key) as client:
        return client.chat.completions.create(model="desk", messages=HELLO).choices[0].message.content


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_known_key_is_let_in(keyed):
    server, keys = keyed
    assert ask(server, keys["user"]) in LABELS and ask(server, keys["admin"]) in LABELS
    # The scheme's name has no case.
    assert server.get("/v1/models", headers={"authorization": f"bEaReR {keys['user']}"}).status_code == 200
    assert "API keys are asked for" in server.said


def test_an_unknown_or_expired_key_is_not(keyed):
    server, keys = keyed
    for key in ("rung-x", keys["user"][:-1], keys["user"] + "x", keys["brief"], "ä", "x" * 5000):
        response = server.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode("latin-1")})
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert key not in response.text
    with pytest.raises(openai.AuthenticationError, match="isn't known here, or has expired") as caught:
        ask(server, keys["brief"])
    assert caught.value.code == "invalid_api_key"


def test_without_a_key_nothing_is_told_but_that_the_server_is_there(keyed):
    server, _ = keyed
    assert server.get("/healthz").status_code == 200 and server.get("/readyz").status_code == 200
    for path in ("/v1/models", "/v1/systems", "/metrics", "/docs", "/openapi.json", "/nothing", "/healthz/"):
        assert server.get(path).status_code == 401, path
    for scheme in ("", "Basic dTpw", "Bearer", "rung-x"):
        assert server.get("/v1/models", headers={"Authorization": scheme}).status_code == 401
    assert server.post("/v1/chat/completions", content=b"{" * 10).status_code == 401


def test_systems_are_changed_with_an_administrators_key_alone(keyed, tiny_systems):
    server, keys = keyed
    body = {"system": str(tiny_systems["desk"].folder), "name": "second"}
    refused = server.post("/v1/systems", json=body, headers=bearer(keys["user"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
    assert server.delete("/v1/systems/desk", headers=bearer(keys["user"])).status_code == 403
    with server.client(api_key=keys["user"]) as client, pytest.raises(openai.PermissionDeniedError):
        client.post("/systems", cast_to=object, body=body)
    assert server.post("/v1/systems", json=body, headers=bearer(keys["admin"])).status_code == 201
    assert server.get("/v1/models/second", headers=bearer(keys["user"])).status_code == 200
    assert server.delete("/v1/systems/second", headers=bearer(keys["admin"])).status_code == 200


def test_keys_are_made_and_taken_back_while_the_server_runs(keyed):
    server, keys = keyed
    path = server.home / "keys.json"
    made = add_key(path, "later")
    assert ask(server, made) in LABELS
    remove_key(path, "later")
    with pytest.raises(openai.AuthenticationError):
        ask(server, made)
    assert ask(server, keys["user"]) in LABELS


def test_keys_that_cant_be_read_let_nobody_in_and_harm_nothing(keyed):
    server, keys = keyed
    path = server.home / "keys.json"
    good = path.read_bytes()
    path.write_bytes(b"{damaged")
    try:
        response = server.get("/v1/models", headers=bearer(keys["user"]))
        assert response.status_code == 503 and str(path) not in response.text
    finally:
        path.write_bytes(good)
    assert ask(server, keys["user"]) in LABELS


def test_keys_never_stand_in_the_log(keyed):
    server, keys = keyed
    server.get("/v1/models", headers=bearer(keys["user"]))
    assert not any(key in server.said for key in keys.values())


def test_with_keys_the_server_may_be_called_by_any_name(keyed):
    server, keys = keyed
    headers = {"Host": "models.example.org", "Origin": "https://app.example.org", **bearer(keys["user"])}
    assert server.get("/v1/models", headers=headers).status_code == 200


def test_without_keys_the_server_answers_to_this_machines_names_alone(tiny):
    port = tiny.address.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost", f"LOCALHOST:{port}"):
        assert tiny.get("/v1/models", headers={"Host": host}).status_code == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "",
        "[",
        "127.0.0.1.nip.io",
    ):
        response = tiny.get("/v1/models", headers={"Host": host})
        assert response.status_code == 403, host
        assert response.json()["error"]["code"] == "host_not_allowed"


def test_without_keys_a_page_of_another_site_may_not_ask(tiny):
    port = tiny.address.rpartition(":")[2]
    body = json.dumps({"model": "desk", "messages": HELLO})
    for origin in ("http://evil.example", "null", "", "http://[", "file://", f"http://evil.example:{port}"):
        for kind in ("application/json", "text/plain"):
            response = tiny.post(
                "/v1/chat/completions", content=body, headers={"Origin": origin, "Content-Type": kind}
            )
            assert response.status_code == 403, origin
            assert response.json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in response.headers
    own = {"Origin": tiny.address, "Content-Type": "application/json"}
    assert tiny.post("/v1/chat/completions", content=body, headers=own).status_code == 200


def test_refusals_are_counted(keyed):
    server, keys = keyed

    def count():
        text = server.get("/metrics", headers=bearer(keys["user"])).text
        lines = [
            li for li in text.splitlines() if 'status="401"' in li and li.startswith("rung_requests_total")
        ]
        return sum(float(line.split()[-1]) for line in lines)

    before = count()
    server.post("/v1/chat/completions", json={})
    eventually(lambda: count() == before + 1)
