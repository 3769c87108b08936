"""Requests that can't be answered: in OpenAI's form, and without harm to those that come after."""

import asyncio
import json
import socket
import time

import openai
import pytest

from tests.fixtures_climb import make_tiny_gguf
from tests.fixtures_serve import LABELS, Server, eventually, gathered, make_nearest, said

HELLO = said("my invoice is late")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def tight(tmp_path_factory, tiny_systems):
    """A server with little time, few places and small bodies, on a model that writes 2,000 tokens."""
    home = tmp_path_factory.mktemp("home")
    gguf = make_tiny_gguf(home / "long.gguf", context=2048)
    limits = ("--slots", "1", "--queue", "100", "--request-limit", "1.5s", "--body-limit", "3000")
    with Server(f"desk={tiny_systems['desk'].folder}", f"base={gguf}", *limits, home=home) as server:
        yield server


@pytest.fixture(autouse=True)
def _goes_on(request):
    """After each test the servers that it used still answer."""
    yield
    for name in ("tiny", "tight"):
        if name in request.fixturenames:
            server = request.getfixturevalue(name)
            found = server.user.chat.completions.create(model="desk", messages=HELLO)
            assert found.choices[0].message.content in LABELS


def fault(response, status):
    """The error of a response, whose form is always the same."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (key, error), *more = response.json().items()
    assert key == "error" and not more
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return error


def chat(server, **body):
    return server.post("/v1/chat/completions", json={"model": "base", "messages": HELLO, **body})


def test_an_unknown_model_is_not_found_and_those_there_are_are_named(tiny):
    for asked in (
        lambda: tiny.user.chat.completions.create(model="nobody", messages=HELLO),
        lambda: tiny.user.chat.completions.create(model="nobody", messages=HELLO, stream=True),
        lambda: tiny.user.completions.create(model="nobody", prompt="a"),
    ):
        with pytest.raises(openai.NotFoundError, match=r"'nobody'.*base, codes, desk") as caught:
            asked()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert caught.value.type == "invalid_request_error"


def test_an_unknown_field_is_refused_by_name(tiny):
    with pytest.raises(openai.BadRequestError, match="`best_guess` isn't supported here") as caught:
        tiny.user.chat.completions.create(model="desk", messages=HELLO, extra_body={"best_guess": 1})
    assert caught.value.param == "best_guess"
    error = fault(chat(tiny, stream_options={"include_everything": True}), 400)
    assert error["param"] == "stream_options.include_everything"


def test_fields_that_set_nothing_are_passed_over(tiny):
    for nothing in ({"best_guess": None, "functions": None}, {"prompt_cache_retention": "24h"}):
        assert tiny.user.chat.completions.create(model="desk", messages=HELLO, extra_body=nothing).choices
    assert chat(tiny, prompt_cache_options={"mode": "auto"}, audio=None).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 3),
        ("temperature", "warm"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("n", 0),
        ("n", 1000),
        ("n", 1.5),
        ("max_tokens", 0),
        ("max_completion_tokens", -4),
        ("seed", 2**70),
        ("seed", "x"),
        ("stop", 3),
        ("stop", ["a"] * 5),
        ("stream", "maybe"),
        ("logprobs", 3),
        ("top_logprobs", 30),
        ("top_logprobs", 3),
        ("frequency_penalty", 1),
        ("presence_penalty", -0.5),
        ("logit_bias", {"5": 1}),
        ("response_format", "json"),
        ("response_format", {"type": "yaml"}),
        ("tools", {}),
        ("modalities", ["audio"]),
        ("model", 3),
        ("model", None),
    ],
)
def test_a_value_that_cant_be_is_refused_by_its_fields_name(tiny, field, value):
    error = fault(chat(tiny, **{field: value}), 400)
    assert field in error["message"]


def test_names_that_clients_send_are_no_labels_of_the_counters(tiny):
    for path, body in (
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/decisions", {"input": "a", "questions": []}),
    ):
        tiny.post(path, json={"model": "sent-by-a-client", **body})
        tiny.get(f"{path}/sent-by-a-client")
    assert "sent-by-a-client" not in tiny.get("/metrics").text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(tiny, value):
    for field in ("temperature", "top_p", "seed", "max_tokens"):
        body = json.dumps({"model": "base", "messages": HELLO})[:-1] + f', "{field}": {value}}}'
        fault(tiny.post("/v1/chat/completions", content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([], "messages"),
        ("hello", "messages"),
        (["hello"], "messages"),
        (said(""), "empty"),
        (said(" \n"), "empty"),
        ([{"role": "system", "content": "a"}], "user"),
        ([*HELLO, {"role": "assistant", "content": "b"}], "end"),
        ([{"role": "wizard", "content": "b"}], "wizard"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": 3}], "content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}], "image"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "input_audio"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, *HELLO],
            "arguments",
        ),
    ],
)
def test_messages_that_ask_nothing_are_refused(tiny, messages, word):
    for model in ("desk", "base", "text"):
        assert word in fault(chat(tiny, model=model, messages=messages), 400)["message"]


def test_half_a_surrogate_pair_is_refused_and_said_back_without_harm(tiny):
    odd = "\\ud83d"
    for body in (
        f'{{"model": "{odd}", "messages": [{{"role": "user", "content": "a"}}]}}',
        f'{{"model": "base", "messages": [{{"role": "user", "content": "{odd}"}}]}}',
        f'{{"model": "desk", "messages": [{{"role": "user", "content": "{odd}"}}]}}',
        f'{{"model": "base", "messages": [{{"role": "{odd}", "content": "a"}}]}}',
        f'{{"model": "base", "{odd}": 1, "messages": [{{"role": "user", "content": "a"}}]}}',
        f'{{"model": "base", "stop": "{odd}", "messages": [{{"role": "user", "content": "a"}}]}}',
    ):
        response = tiny.post("/v1/chat/completions", content=body, headers=JSON)
        fault(response, 400)
    completion = f'{{"model": "base", "prompt": "{odd}"}}'
    fault(tiny.post("/v1/completions", content=completion, headers=JSON), 400)


@pytest.mark.parametrize("model", ("base", "words", "json", "text"))
def test_a_prompt_that_is_too_long_is_refused_with_openais_code(tiny, model):
    with pytest.raises(openai.BadRequestError, match="tokens and the context holds 512") as caught:
        tiny.user.chat.completions.create(model=model, messages=said("parcel " * 600))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        tiny.user.completions.create(model=model, prompt="parcel " * 600)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 2000 + b"]" * 2000])
def test_a_body_that_is_no_json_object_is_refused(tiny, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/systems"):
        fault(tiny.post(path, content=body, headers=JSON), 400)


def test_nesting_without_end_is_refused(tiny):
    for depth in (200, 5000, 20_000):
        deep = '{"a":' * depth + "1" + "}" * depth
        for field in ("metadata", "logit_bias", "tools", "response_format", "messages"):
            body = f'{{"model": "base", "messages": [{{"role": "user", "content": "a"}}], "{field}": {deep}}}'
            response = tiny.post("/v1/chat/completions", content=body, headers=JSON)
            assert response.status_code == 400 or field == "metadata", response.text
        schema = f'{{"type": "json_schema", "json_schema": {{"schema": {deep}}}}}'
        body = f'{{"model": "base", "messages": {json.dumps(HELLO)}, "response_format": {schema}}}'
        assert tiny.post("/v1/chat/completions", content=body, headers=JSON).status_code in (200, 400)
        deep = '{"items":' * depth + "{}" + "}" * depth
        tool = f'{{"type": "function", "function": {{"name": "f", "parameters": {deep}}}}}'
        body = f'{{"model": "base", "messages": {json.dumps(HELLO)}, "tools": [{tool}]}}'
        assert tiny.post("/v1/chat/completions", content=body, headers=JSON).status_code == 400


@pytest.mark.parametrize(
    "kind", ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", None)
)
def test_json_is_read_only_where_it_is_called_so(tiny, kind):
    """A page of another site can send the other types without being asked for leave."""
    body = json.dumps({"model": "desk", "messages": HELLO}).encode()
    error = fault(
        tiny.post("/v1/chat/completions", content=body, headers={"content-type": kind} if kind else {}), 400
    )
    assert "application/json" in error["message"]


def test_a_wrong_method_and_an_unknown_path_are_said(tiny):
    with tiny.http() as client:
        wrong = client.get("/v1/chat/completions")
        assert "POST" in wrong.headers["allow"] and "GET" in fault(wrong, 405)["message"]
        fault(client.delete("/v1/models"), 405)
        assert client.put("/v1/systems").headers["allow"] == "GET, POST"
        assert "/v1/nothing" in fault(client.get("/v1/nothing"), 404)["message"]
        fault(client.post("/v1/responses", json={}), 404)
        fault(client.get("/v1/models/"), 404)
        fault(client.delete("/v1/systems/nobody"), 404)


def test_a_large_body_is_refused_by_its_length_and_while_it_comes(tight):
    large = json.dumps({"model": "desk", "messages": said("a" * 4000)}).encode()

    def in_pieces():
        for start in range(0, len(large), 500):
            yield large[start : start + 500]

    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/systems"):
        assert "3,000 bytes" in fault(tight.post(path, content=large, headers=JSON), 413)["message"]
        assert "3,000 bytes" in fault(tight.post(path, content=in_pieces(), headers=JSON), 413)["message"]
    # On the same connection, whose next request comes after the body that nobody read.
    with tight.http() as client:
        for _ in range(3):
            fault(client.post("/v1/chat/completions", content=large, headers=JSON), 413)
            assert client.get("/healthz").status_code == 200


def test_a_body_that_never_ends_is_cut_off(tight):
    host, _, port = tight.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        answer = b""
        sent = 0
        raw.settimeout(0.05)
        try:
            while sent < 10_000_000:
                raw.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
                sent += 1024
                try:
                    answer += raw.recv(65536)
                    break
                except TimeoutError:
                    continue
        except OSError:
            pass
    assert sent < 1_000_000
    assert answer.startswith(b"HTTP/1.1 413")


def test_where_too_many_wait_one_is_told_to_try_again(tight):
    async def together():
        async with tight.async_client() as client:
            return await gathered(
                [
                    client.chat.completions.create(
                        model="base", messages=HELLO, n=16, temperature=1, max_tokens=2, seed=seed
                    )
                    for seed in range(10)
                ]
            )

    found = asyncio.run(together())
    refused = [one for one in found if isinstance(one, openai.RateLimitError)]
    answered = [one for one in found if not isinstance(one, Exception)]
    assert refused and answered and len(refused) + len(answered) == len(found)
    for error in refused:
        assert error.code == "rate_limit_exceeded" and error.type == "rate_limit_error"
        assert int(error.response.headers["retry-after"]) >= 1
    eventually(lambda: tight.gauge("rung_running") + tight.gauge("rung_waiting") == 0)


@pytest.mark.models
def test_heads_and_neighbours_are_refused_too_where_too_many_wait(tmp_path, tiny_systems):
    """What the one thread for them can't take at once."""
    near = make_nearest(tmp_path / "near", tiny_systems["words"])
    systems = (f"desk={tiny_systems['desk'].folder}", f"near={near.folder}", "minilm-l6")
    with Server(*systems, "--queue", "2", home=tmp_path) as server:

        async def together(ask):
            async with server.async_client() as client:
                return await gathered([ask(client, place) for place in range(30)])

        for ask in (
            lambda client, n: client.chat.completions.create(model="desk", messages=said(f"invoice {n}")),
            lambda client, n: client.chat.completions.create(model="near", messages=said(f"invoice {n}")),
            lambda client, n: client.embeddings.create(model="minilm-l6", input=f"invoice {n}"),
        ):
            found = asyncio.run(together(ask))
            refused = [one for one in found if isinstance(one, Exception)]
            assert 0 < len(refused) < len(found)
            assert {type(one) for one in refused} == {openai.RateLimitError}


def test_a_client_that_retries_is_answered_in_the_end(tight):
    async def together():
        async with tight.async_client(max_retries=8) as client:
            calls = [
                client.chat.completions.create(
                    model="base", messages=HELLO, n=16, temperature=1, max_tokens=20, seed=seed
                )
                for seed in range(9)
            ]
            return await gathered(calls)

    assert all(len(found.choices) == 16 for found in asyncio.run(together()))


def ask_too_much(server, **options):
    """Six requests, that together take longer than one may; what they come to."""

    async def one(client, seed):
        pieces = []
        try:
            found = await client.chat.completions.create(
                model="base", messages=HELLO, n=16, temperature=1, seed=seed, max_tokens=1900, **options
            )
            if options:
                async for piece in found:
                    pieces.append(piece)
        except openai.APIError as error:
            return pieces, error
        return pieces, None

    async def together():
        async with server.async_client() as client:
            return await gathered([one(client, seed) for seed in range(6)])

    start = time.monotonic()
    found = asyncio.run(together())
    assert time.monotonic() - start < 5
    eventually(lambda: server.gauge("rung_running") + server.gauge("rung_waiting") == 0, within_s=3)
    return found


def test_an_answer_that_takes_too_long_is_given_up(tight):
    errors = [error for _, error in ask_too_much(tight) if error is not None]
    assert errors
    for error in errors:
        assert isinstance(error, openai.InternalServerError) and error.status_code == 504
        assert error.code == "timeout" and "no answer within 1.5 s" in error.message
    # One at most waited for no other.
    assert sum("x-should-retry" in error.response.headers for error in errors) <= 1


def test_a_client_does_not_ask_again_what_takes_too_long_by_itself(tight):
    eventually(lambda: tight.gauge("rung_running") + tight.gauge("rung_waiting") == 0)
    before = tight.gauge("rung_requests_total")
    with tight.client(max_retries=2) as client, pytest.raises(openai.InternalServerError, match="within 1.5"):
        prompts = [f"order {n}" for n in range(100)]
        client.completions.create(model="base", prompt=prompts, temperature=1, seed=1, max_tokens=1900)
    assert tight.gauge("rung_requests_total") == before + 1


def test_a_stream_that_takes_too_long_ends_with_the_error(tight):
    broken = [(pieces, error) for pieces, error in ask_too_much(tight, stream=True) if error is not None]
    assert any(pieces for pieces, _ in broken)
    for pieces, error in broken:
        assert "no answer within 1.5 s" in error.message
        # Once there are pieces the status has been sent: then the error is an event.
        assert isinstance(error, openai.InternalServerError) == (not pieces)


def test_errors_are_counted_by_their_status(tight):
    fault(chat(tight, model="desk", messages=said("")), 400)
    text = tight.get("/metrics").text
    statuses = {
        line.split('status="')[1][:3] for line in text.splitlines() if line.startswith("rung_requests_total")
    }
    assert {"200", "400", "429", "504"} <= statuses
