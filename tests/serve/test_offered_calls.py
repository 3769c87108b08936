"""Calls that a request is answered with: only of the functions that it offers, and only whole ones."""

import json
from pathlib import Path

import openai
import pytest
from jsonschema import validate

from rung.hosted import hosted_ref
from rung.models.chat import Message, load_chat
from rung.models.hosted import hosted
from rung.models.resolve import resolve
from rung.spec import AnswerSpec, Spec
from rung.system import save
from tests.fixtures_climb import TOPICS, make_tiny_gguf
from tests.fixtures_hosted import KEY, MODEL, Hosted
from tests.fixtures_serve import Server, also, said

PARAMETERS = {
    "type": "object",
    "properties": {"topic": {"enum": list(TOPICS)}, "days": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["topic", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": PARAMETERS}}]
OURS = [{"name": "find", "arguments": {"topic": "login", "days": 1}}]
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Gemma's and Mistral's templates have it."""


def tagged(name: str, inner: str) -> str:
    """A call as FunctionGemma writes it."""
    return f"<start_function_call>call:{name}{{{inner}}}<end_function_call>"


def asked(server, model, question, *, stream=False, **options):
    """(finish reason, words, calls) of one answer, streamed or not."""
    found = server.user.chat.completions.create(
        **{"model": model, "messages": said(question), "tools": TOOLS, "stream": stream, **options}
    )
    if not stream:
        (choice,) = found.choices
        calls, words, finish = choice.message.tool_calls, choice.message.content, choice.finish_reason
    else:
        chunks = [chunk.choices[0] for chunk in found]
        calls = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
        words = "".join(chunk.delta.content or "" for chunk in chunks)
        finish = chunks[-1].finish_reason
    read = [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls or ()]
    return finish, words or "", read


@pytest.fixture(scope="module")
def provider():
    with Hosted(lambda question, body: question.split("\n\n")[-1]) as found:
        yield found


@pytest.fixture(scope="module")
def server(provider, tmp_path_factory):
    """Systems whose model says what it is asked: one of them in tags, one that was never made for calls."""
    model = hosted(provider.name)
    folder: Path = tmp_path_factory.mktemp("calling")
    base = {"rung": "api", "engine": "endpoint", "model": hosted_ref(model, MODEL)}
    for name, kind, written in (
        ("json", "tool_call", "json"),
        ("tags", "tool_call", "tagged"),
        ("text", "text", "json"),
    ):
        answer = AnswerSpec(form="free", max_tokens=64, written=written)
        save(folder / name, Spec(task=name, kind=kind, answer=answer, **base), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_API_KEY", KEY)
        systems = [f"{name}={folder / name}" for name in ("json", "tags", "text")]
        with Server(*systems, home=folder) as found:
            yield found


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("tags", tagged("delete_all", "path:<escape>/<escape>")),
        ("tags", tagged("find", "topic:<escape>login<escape>,days:<escape>x<escape>")),
        ("tags", tagged("find", "topic:<escape>login<escape>,days:1") + tagged("delete_all", "")),
        ("tags", '[{"name":"find","arguments":{"topic":"login","days":1}}]'),
        ("json", '[{"name":"delete_all","arguments":{"path":"/"}}]'),
        ("json", '[{"name":"find","arguments":{"topic":"login","days":"x"}}]'),
        ("text", '[{"name":"delete_all","arguments":{"path":"/"}}]'),
    ],
)
def test_what_calls_no_function_of_the_request_is_text(server, model, text, stream):
    finish, words, calls = asked(server, model, text, stream=stream)
    # In tags it is read, and stands there as JSON.
    assert (finish, calls) == ("stop", []) and (words == text or model == "tags")
    assert words


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("tags", tagged("find", "topic:<escape>login<escape>,days:1")),
        ("json", json.dumps(OURS)),
        ("json", f"```json {json.dumps(OURS)} ```"),
    ],
)
def test_calls_of_the_functions_of_a_request_are_calls(server, model, text, stream):
    assert asked(server, model, text, stream=stream) == ("tool_calls", "", OURS)


def test_a_call_that_was_cut_off_is_left_out_and_the_answer_says_that_it_was_cut(tiny):
    """At each limit the call is the model's own to its last brace, or there is none."""
    options = {"tool_choice": "required", "parallel_tool_calls": False}
    ended = {"length": 0, "tool_calls": 0}
    for limit in range(58, 90, 3):
        finish, words, calls = asked(tiny, "base", "refund order 12", max_tokens=limit, **options)
        assert (finish, words, calls) == asked(
            tiny, "base", "refund order 12", max_tokens=limit, stream=True, **options
        )
        assert len(calls) == (finish == "tool_calls") and words == ""
        for call in calls:
            validate(call["arguments"], PARAMETERS)
        ended[finish] += 1
    assert all(ended.values()), ended


def test_calls_before_the_one_that_was_cut_off_stay(tiny):
    options = {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required"}

    def ended(limit, seed):
        more = {"max_tokens": limit, "temperature": 2, "seed": seed, **options}
        finish, words, calls = asked(tiny, "base", "what time is it", **more)
        assert words == "" and all(call == {"name": "now", "arguments": {}} for call in calls)
        return finish, len(calls)

    seed = next(seed for seed in range(30) if ended(160, seed) == ("tool_calls", 2))
    found = list(dict.fromkeys(ended(limit, seed) for limit in range(46, 90, 4)))
    assert found == [("length", 1), ("tool_calls", 2)]


def test_arguments_may_refer_to_parts_of_their_own_schema(tiny):
    parameters = {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/A"}},
        "required": ["to"],
        "$defs": {"A": {"enum": [1, 2]}},
    }
    now = {"type": "function", "function": {"name": "now"}}
    send = {"type": "function", "function": {"name": "send", "parameters": parameters}}
    options = {"tools": [now, send], "parallel_tool_calls": False, "max_tokens": 120}
    named = {"type": "function", "function": {"name": "send"}}
    finish, _, (call,) = asked(tiny, "base", "send it", tool_choice=named, **options)
    assert (finish, call["name"]) == ("tool_calls", "send")
    validate(call["arguments"], parameters)
    for choice in ("auto", "required"):
        for call in asked(tiny, "base", "send it", tool_choice=choice, **options)[2]:
            validate(call["arguments"], parameters if call["name"] == "send" else {"maxProperties": 0})


def test_what_several_calls_gave_and_what_is_asked_then_is_one_turn_of_the_user(tiny, tmp_path):
    gguf = make_tiny_gguf(tmp_path / "strict.gguf", template=ALTERNATING)
    function = {"name": "find", "arguments": json.dumps(OURS[0]["arguments"])}
    calls = [{"id": f"c{n}", "type": "function", "function": function} for n in (1, 2)]
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": f"{n} found"} for n in (1, 2)]
    turns = [*said("find both"), {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    wanted = [
        Message(role="user", content="find both"),
        Message(role="assistant", content=json.dumps({"calls": OURS * 2}, sort_keys=True)),
        Message(role="user", content="Result: 1 found\n\nResult: 2 found\n\nand now?"),
    ]
    with also(tiny, {"strict": gguf}) as server:
        for messages in (turns, [*turns, *said("and now?")]):
            found = server.user.chat.completions.create(model="strict", messages=messages, max_tokens=3)
        assert found.usage.prompt_tokens == len(load_chat(resolve(str(gguf))).render(wanted))
        server.user.chat.completions.create(model="strict", messages=said("b", ("user", "a")), max_tokens=3)


def test_a_system_of_several_calls_cant_be_held_to_one(server):
    for model in ("json", "tags"):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(server, model, "[]", parallel_tool_calls=False)
        assert caught.value.param == "parallel_tool_calls"
        assert asked(server, model, "[]", parallel_tool_calls=True) == ("stop", "", [])
    assert asked(server, "text", "a", parallel_tool_calls=False) == ("stop", "a", [])


@pytest.mark.parametrize("stream", (False, True))
@pytest.mark.parametrize("more", ({"tool_choice": "none", "parallel_tool_calls": False}, {"tools": []}))
def test_a_system_of_calls_that_may_call_nothing_says_nothing(server, more, stream):
    for model in ("json", "tags"):
        assert asked(server, model, "[]", stream=stream, **more) == ("stop", "", [])
        assert asked(server, model, json.dumps(OURS), stream=stream, **more)[2] == []
    assert asked(server, "text", "[]", stream=stream, **more) == ("stop", "[]", [])


@pytest.mark.parametrize("model", ("base", "words"))
def test_log_probabilities_beside_functions_are_streamed_too(tiny, model):
    options = {"model": model, "messages": said("refund order 12"), "tools": TOOLS, "max_tokens": 40}
    options |= {"logprobs": True, "top_logprobs": 2}
    whole = tiny.user.chat.completions.create(**options).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in tiny.user.chat.completions.create(**options, stream=True)]
    steps = [step for one in chunks if one.logprobs for step in one.logprobs.content]
    assert whole and [step.token for step in steps] == [step.token for step in whole]
    assert all(len(step.top_logprobs) == 2 for step in steps)
