import pytest

from rung.errors import ModelError
from rung.models.hosted import hosted


@pytest.mark.parametrize(
    "place", ["host:80a", "[::1", "host:99999", "me:sk-secret@host:80a", "host:sk-secret"]
)
def test_an_url_whose_host_or_port_cannot_be_read_is_refused_and_not_shown(place: str) -> None:
    with pytest.raises(ModelError, match="'m' can't be read: check its host and port") as raised:
        hosted(f"openai:m@http://{place}/v1")
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize(("key", "missing"), [("", True), (" \n", True), ("sk-secret", False)])
def test_a_key_of_blanks_is_missing(monkeypatch, key: str, missing: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    found = hosted("openai:m")
    assert found is not None and found.key_missing is missing
