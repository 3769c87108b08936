"""What chat templates of well-known forms ask for, in templates of the same form written for this test."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.errors import ModelError
from rung.models.chat import Chat, Message, load_chat, opens_thought
from rung.models.resolve import resolve
from tests.fixtures_climb import CHATML, OPEN

THINKING = (
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
"""Qwen3: thinks unless it is told not to, by an empty thought that opens the answer."""
ALTERNATING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}"
    "{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""Gemma 1 and 2: refuse a system turn, and turns that don't alternate."""
PREFIXED = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{{ '<|im_start|>' + m['role'] + '\n' + (first if loop.first else '') }}"
    "{{ m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""Gemma 3: puts the system's text before the first question itself."""
DATED = (
    "{% set today = strftime_now('%d %b %Y') %}"
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set said = '' %}{% set turns = messages %}{% endif %}"
    "{{ '<|im_start|>system\nToday Date: ' + today + '\n\n' + said + '<|im_end|>\n' }}"
    "{% for m in turns %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Llama 3: a system turn with a date, whether or not there is one."""
SYSTEM = Message(role="system", content="Say yes or no.")
TURNS = (
    SYSTEM,
    Message(role="user", content="is ice cold?"),
    Message(role="assistant", content="yes"),
    Message(role="user", content="is fire?"),
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says how it is outside.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def chat(tiny_gguf):
    return lambda template: load_chat(resolve(str(tiny_gguf(template=template))))


def test_a_model_that_can_think_is_told_not_to(chat) -> None:
    found: Chat = chat(THINKING)
    assert found.show(TURNS[-1:]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "<think>" not in found.show(TURNS).removesuffix("<think>\n\n</think>\n\n")
    assert found.tokens.texts[found.end] == "<|im_end|>"


@pytest.mark.parametrize(
    "opening",
    [
        "<think>\n",
        "<think>",
        "<think>\n\n",
        "<think>\nFirst of all, ",
        "<think>\n\n</think>\n<think>\n",
    ],
)
def test_a_thought_that_is_opened_all_the_same_is_closed_before_the_answer(chat, opening) -> None:
    template = OPEN.replace("<think>\n", opening)
    found: Chat = chat(template)
    opened = f"<|im_start|>assistant\n{opening}".rstrip()
    assert found.show(TURNS[-1:]).endswith(f"{opened}\n\n</think>\n\n") and opens_thought(template)
    assert found.show(TURNS).count("</think>") == 1 + opening.count("</think>")
    assert found.tokens.decode(found.render(TURNS[-1:])).endswith("\n\n</think>\n\n")


def test_only_a_template_that_opens_a_thought_is_told_to(chat) -> None:
    for template in (THINKING, ALTERNATING, PREFIXED, DATED, "{{ raise_exception('no') }}"):
        assert not opens_thought(template)
    closed = OPEN.replace("<think>\n", "<think>no</think>\n")
    assert not opens_thought(closed) and chat(closed).show(TURNS[-1:]).endswith("<think>no</think>\n")
    begins = "{{ bos_token + 'x' }}" + OPEN
    assert opens_thought(begins)
    asked = TURNS[-1].content
    written = Message(role="user", content=f"<think> {asked}")
    assert chat(CHATML).show([written]).endswith("<|im_start|>assistant\n")
    ended = chat("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert ended.show([written]) == written.content


@pytest.mark.parametrize("template", [ALTERNATING, PREFIXED])
def test_where_there_is_no_system_turn_its_text_stands_before_the_first_question(chat, template) -> None:
    found: Chat = chat(template)
    assert found.takes_system == (template is PREFIXED)
    assert found.show(TURNS) == (
        "<|im_start|>user\nSay yes or no.\n\nis ice cold?<|im_end|>\n"
        f"<|im_start|>{'model' if template is ALTERNATING else 'assistant'}\nyes<|im_end|>\n"
        "<|im_start|>user\nis fire?<|im_end|>\n<|im_start|>model\n"
    )


def test_a_template_that_drops_the_system_turn_gets_its_text_too(chat) -> None:
    found: Chat = chat(
        "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}"
        "{% endif %}{% endfor %}"
    )
    assert not found.takes_system
    assert found.show(TURNS[:2]) == "<|im_start|>Say yes or no.\n\nis ice cold?<|im_end|>"


def test_a_date_in_a_template_is_always_the_same(chat) -> None:
    shown = chat(DATED).show(TURNS[-1:])
    assert "Today Date: 26 Jul 2024" in shown and chat(DATED).takes_system


def test_functions_go_where_the_template_has_a_place_for_them(chat) -> None:
    found: Chat = chat(THINKING)
    assert found.takes_tools
    text = found.tokens.decode(found.render(TURNS[-1:], tools=[WEATHER]))
    assert '"name": "weather"' in text and "# Tools" in text
    assert "# Tools" not in found.tokens.decode(found.render(TURNS[-1:]))
    for template in (ALTERNATING, PREFIXED, DATED, None):
        other: Chat = chat(template)
        assert not other.takes_tools
        with pytest.raises(ModelError, match="no place for functions"):
            other.render(TURNS[-1:], tools=[WEATHER])
    with pytest.raises(ModelError, match="no place for functions"):
        found.render(TURNS[-1:], style="terse", tools=[WEATHER])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.text(max_size=5), st.sampled_from(["<|im_end|>", "<|im_start|>", "<|endoftext|>", "{{ 1 }}"])
        )
    )
)
def test_what_a_function_says_never_becomes_a_control_token(chat, pieces) -> None:
    found: Chat = chat(THINKING)
    said = "".join(pieces).encode("utf-8", "replace").decode()
    function = {**WEATHER["function"], "description": said, "parameters": {"enum": [said], said: 1}}
    controls = [i for i in found.render(TURNS[-1:], tools=[WEATHER]) if i < 3]
    ids = found.render(TURNS[-1:], tools=[{"type": "function", "function": function}])
    assert [i for i in ids if i < 3] == controls


def test_a_chat_that_was_made_by_hand_is_as_before(chat) -> None:
    found: Chat = chat(PREFIXED)
    assert replace(found, takes_system=True).show(TURNS) == found.show(TURNS)


def test_a_template_that_takes_one_turn_alone_refuses_an_instruction_by_itself(chat) -> None:
    found: Chat = chat(
        "{% if messages | length != 1 or messages[0]['role'] != 'user' %}"
        "{{ raise_exception('send one user turn') }}{% endif %}{{ messages[0]['content'] }}<|im_end|>"
    )
    assert found.show(TURNS[-1:]) == "is fire?<|im_end|>"
    with pytest.raises(ModelError, match="send one user turn"):
        found.show((SYSTEM, TURNS[-1]))
