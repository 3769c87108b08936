"""What is sent of an answer that was written in the model's own words: the value that was read and scored."""

import asyncio
import json
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Literal, cast

import pytest
from pydantic import ValidationError

from rung.data.conversations import Beside, conversation
from rung.data.conversations import asked as read_question
from rung.models.chat import Message, load_chat
from rung.models.resolve import resolve
from rung.records import Answer, Example
from rung.serve.answer import Asked, Wish, _of_answer, _request, turns_asked
from rung.serve.systems import Served
from rung.serve.tools import offered
from rung.serve.wire import ChatRequest, CompletionRequest
from rung.spec import AnswerSpec, Spec, StepsSpec
from rung.system import save
from tests.fixtures_serve import also, said

CALLS = [{"name": "find", "arguments": {"x": 1}}]


def free(tiny_systems, kind, written: Literal["json", "tagged"] = "json"):
    answer = AnswerSpec(form="free", max_tokens=24, written=written)
    return tiny_systems["text"].spec.model_copy(update={"kind": kind, "answer": answer})


def of_other_forms(spec: Spec) -> tuple[Spec, Spec]:
    """Systems that are held to a form, and whose draft, or whose hosted model, isn't."""
    held = AnswerSpec(form="calls" if spec.kind == "tool_call" else "schema", max_tokens=24)
    steps = StepsSpec(kind="repair", max_tokens=24, close="{fault}")
    repaired = spec.model_copy(update={"answer": held, "steps": steps})
    return repaired, spec.model_copy(update={"answer": held, "engine": "endpoint"})


@pytest.mark.parametrize(
    ("kind", "text", "value", "sent"),
    [
        ("tool_call", f"```json\n{json.dumps(CALLS)}\n```", CALLS, '[{"name":"find","arguments":{"x":1}}]'),
        ("tool_call", json.dumps(CALLS), CALLS, json.dumps(CALLS)),
        ("tool_call", "None fits: []", [], "[]"),
        ("json", 'So: {"a": 1}.', {"a": 1}, '{"a":1}'),
        ("number", "It is 1,000.", 1000, "1000"),
        ("number", "4.50", 4.5, "4.50"),
        ("number", "Who knows?", None, "Who knows?"),
        ("text", " as it is ", "as it is", " as it is "),
    ],
)
def test_the_value_is_sent_where_the_text_is_more_than_that(tiny_systems, kind, text, value, sent):
    spec = free(tiny_systems, kind)
    for one in (spec, *of_other_forms(spec)):
        found = _of_answer(Answer(text=text, value=value), one, Wish())
        assert found.text == sent and found.may_hold_calls
    wished = _of_answer(Answer(text=text, value=value), spec, Wish(schema={"type": "object"}))
    assert wished.text == text


def test_nothing_is_streamed_before_the_value_is_read(tiny, tiny_systems, tmp_path):
    forms = {"number": free(tiny_systems, "number"), "tags": free(tiny_systems, "tool_call", "tagged")}
    with also(tiny, {name: save(tmp_path / name, spec, {}).folder for name, spec in forms.items()}) as server:
        for name in forms:
            asked = {"model": name, "messages": said("order 12")}
            whole = server.user.chat.completions.create(**asked).choices[0].message.content
            with server.user.chat.completions.create(**asked, stream=True) as chunks:
                parts = [part for chunk in chunks if (part := chunk.choices[0].delta.content)]
            assert parts == [whole] * bool(whole)


def test_a_text_that_is_gone_on_with_ends_at_no_stop_of_a_template(tiny_systems, tiny_gguf):
    chat = replace(load_chat(resolve(str(tiny_gguf))), plain=True)
    served = cast(Served, SimpleNamespace(spec=free(tiny_systems, "text"), chat=chat))
    example = Example(id="asked", input="", output=None)
    for continued, stops in ((True, ("x",)), (False, (*chat.stop_strings(), "x"))):
        question = Asked(example=example, prompt=(1,), continued=continued)
        assert _request(served, question, Wish(stop=("x",))).stop == stops
    assert "\n\n" in chat.stop_strings()


def test_functions_stand_in_a_prompt_as_in_a_row_of_the_same():
    function = {"description": None, "parameters": {"type": "object"}, "name": "find"}
    turns, tools = said("where is it"), [{"function": function, "type": "function"}]
    request = ChatRequest.model_validate({"model": "m", "messages": turns, "tools": tools})
    asked = read_question(turns, offered(request.may_call))
    answered = [*turns, {"role": "assistant", "content": "there"}]
    assert asked.context == conversation(answered, "messages", Beside(tools=tools)).context
    assert (asked.context or "").endswith('\n[{"parameters": {"type": "object"}, "name": "find"}]')


def test_a_chat_of_many_short_turns_is_rendered_on_a_thread():
    seen = []

    def render(turns):
        seen.append(threading.current_thread())
        return (1,)

    served = SimpleNamespace(
        chat=SimpleNamespace(render=render),
        model=SimpleNamespace(context=9, limit=9),
        host=None,
        options=None,
    )
    for count in (2, 2000):
        asyncio.run(turns_asked(cast(Served, served), [Message(role="user", content="a")] * count))
    assert [thread is threading.main_thread() for thread in seen] == [True, False]


@pytest.mark.parametrize("field", ("messages", "stop", "tools"))
def test_the_first_wrong_item_of_a_list_is_told_alone(field):
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "m", "messages": said("a"), field: [1] * 100})
    assert caught.value.error_count() <= 2
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "m", "prompt": ["a", *[None] * 100]})
    assert caught.value.error_count() <= 2
