import base64
import json
import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rung.errors import RunError, TaskError
from rung.runs import locked
from rung.serve.keys import LONGEST_S, Keys, add_key, keys_file, remove_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "keys.json"


def test_a_key_that_was_made_is_known_with_its_name_and_role(path):
    key, admin = add_key(path, "ci"), add_key(path, "ana", admin=True)
    keys = Keys.load(path)
    assert [(k.name, k.role) for k in (keys.check(key), keys.check(admin)) if k] == [
        ("ci", "user"),
        ("ana", "admin"),
    ]
    assert [k.name for k in keys.all()] == ["ana", "ci"]


def test_a_key_is_256_random_bits_of_which_nothing_is_stored(path):
    made = [add_key(path, f"k{n}") for n in range(3)]
    assert len(set(made)) == 3
    for key in made:
        assert key.startswith("rung-")
        assert len(base64.urlsafe_b64decode(key.removeprefix("rung-") + "=")) == 32
    written = "".join(file.read_text() for file in path.parent.iterdir())
    assert not any(key[start : start + 12] in written for key in made for start in range(5, len(key) - 12))
    assert not any(key.removeprefix("rung-") in repr(Keys.load(path).all()) for key in made)


def test_only_the_owner_can_read_the_file(path):
    old = os.umask(0)
    try:
        add_key(path, "ci")
        add_key(path, "ana")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


@pytest.mark.parametrize("wrong", ["", "rung-", "x", "half a pair \ud800", "é" * 50, "a" * 100_000])
def test_what_is_no_key_is_let_in_by_none(path, wrong):
    key = add_key(path, "ci")
    keys = Keys.load(path)
    assert keys.check(wrong) is None
    assert keys.check(key + " ") is None and keys.check(key[:-1]) is None and keys.check(key.upper()) is None
    assert keys.check(json.loads(path.read_text())[0]["digest"]) is None
    assert keys.check(key)


def test_without_a_file_there_are_no_keys(path):
    keys = Keys.load(path)
    assert keys.all() == [] and keys.check("rung-x") is None


def test_a_key_ends_when_it_was_said_to(path, monkeypatch):
    key = add_key(path, "ci", expires_s=3600)
    keys = Keys.load(path)
    (stored,) = keys.all()
    assert stored.expires is not None and stored.expires - stored.created == timedelta(hours=1)
    assert keys.check(key)
    assert not stored.expired(stored.expires - timedelta(seconds=1))
    assert stored.expired(stored.expires)
    past = [
        {**json.loads(path.read_text())[0], "expires": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    ]
    path.write_text(json.dumps(past))
    assert keys.check(key) is None and Keys.load(path).check(key) is None


@pytest.mark.parametrize("expires_s", [0, -1, LONGEST_S + 1, float("inf"), float("nan")])
def test_an_end_that_makes_no_sense_is_refused(path, expires_s):
    with pytest.raises(TaskError, match="can't expire after"):
        add_key(path, "ci", expires_s=expires_s)
    assert not path.exists()


def test_a_running_server_sees_new_and_removed_keys(path):
    keys = Keys.load(path)
    first = add_key(path, "first")
    assert keys.check(first)
    second = add_key(path, "second")
    assert keys.check(second) and keys.check(first)
    assert remove_key(path, "first").name == "first"
    assert keys.check(first) is None and keys.check(second)
    path.unlink()
    assert keys.check(second) is None


def test_the_file_is_read_again_only_when_it_changed(path):
    key = add_key(path, "ci")
    keys = Keys.load(path)
    before = keys._read
    assert keys.check(key) and keys.check("no") is None
    assert keys._read is before


@pytest.mark.parametrize("content", ["", "{", "{}", '[{"name": "x"}]', "[1]"])
def test_a_damaged_file_lets_nobody_in_and_is_not_written_over(path, content):
    key = add_key(path, "ci")
    keys = Keys.load(path)
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(RunError, match=r"keys\.json' is damaged"):
            keys.check(key)
    with pytest.raises(RunError, match="mend it, or remove it and make new keys"):
        add_key(path, "ana")
    assert path.read_text() == content


def test_a_date_without_a_zone_is_damage(path):
    add_key(path, "ci")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps([{**whole[0], "expires": "2999-01-01T00:00:00"}]))
    with pytest.raises(RunError, match="is damaged"):
        Keys.load(path)


def test_a_name_is_taken_once_and_free_again_when_its_key_is_removed(path):
    first = add_key(path, "ci")
    with pytest.raises(TaskError, match="there is a key named 'ci'; choose another name"):
        add_key(path, "ci")
    assert Keys.load(path).check(first)
    remove_key(path, "ci")
    second = add_key(path, "ci")
    assert Keys.load(path).check(first) is None and Keys.load(path).check(second)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "é", "a" * 41, "a\n", "../a"])
def test_a_name_is_short_and_plain(path, name):
    with pytest.raises(TaskError, match="can't be the name of a key: up to 40 letters"):
        add_key(path, name)


def test_a_key_that_no_one_made_cannot_be_removed(path):
    add_key(path, "ci")
    with pytest.raises(TaskError, match="no key is named 'cl'; there are: ci"):
        remove_key(path, "cl")


def test_a_key_given_in_place_of_its_name_is_not_repeated(path):
    key = add_key(path, "ci")
    for change in (add_key, remove_key):
        with pytest.raises(TaskError, match="a key itself") as caught:
            change(path, key)
        assert key[5:15] not in str(caught.value)


def test_a_change_waits_for_another_one(path):
    with locked(path.with_name(".keys.json.lock")):
        waiting = threading.Thread(target=add_key, args=(path, "ci"))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive() and not path.exists()
    waiting.join(20)
    assert [key.name for key in Keys.load(path).all()] == ["ci"]


def test_two_processes_that_make_keys_at_once_lose_none(path):
    code = (
        "import sys; from pathlib import Path; from rung.serve.keys import add_key\n"
        "for n in range(30): add_key(Path(sys.argv[1]), f'{sys.argv[2]}{n}')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code, path, letter], env=environment) for letter in ("x", "y")
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(Keys.load(path).all()) == 60


def test_the_keys_of_a_user_lie_in_the_home_of_rung(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    assert keys_file() == tmp_path / "keys.json"
