from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.errors import ModelError
from rung.models.chat import Chat, Message, load_chat
from rung.models.resolve import resolve


def user(content: str) -> Message:
    return Message(role="user", content=content)


SHOTS = (
    Message(role="system", content="Say yes or no."),
    user("is ice cold?"),
    Message(role="assistant", content="yes"),
    user("  is fire cold?\n"),
)


@pytest.fixture(scope="module")
def chat(tiny_gguf) -> Chat:
    return load_chat(resolve(str(tiny_gguf())))


@pytest.fixture(scope="module")
def base(tiny_gguf) -> Chat:
    return load_chat(resolve(str(tiny_gguf(template=None, add_bos=True))))


def test_the_prompt_ends_right_before_the_answer(chat: Chat, base: Chat) -> None:
    assert chat.show(SHOTS).endswith("<|im_start|>user\nis fire cold?<|im_end|>\n<|im_start|>assistant\n")
    assert base.show(SHOTS).endswith("\n\nInput: is fire cold?\nOutput:")
    assert chat.show(SHOTS[-1:], "terse") == "is fire cold?<|im_end|>"
    assert base.show(SHOTS[-1:], "terse") == "<|im_start|>is fire cold?<|im_end|>"


def test_the_plain_template_writes_system_text_then_pairs(base: Chat) -> None:
    assert base.show(SHOTS) == (
        "<|im_start|>Say yes or no.\n\nInput: is ice cold?\nOutput: yes\n\nInput: is fire cold?\nOutput:"
    )


def test_no_turn_is_invented(chat: Chat) -> None:
    assert chat.show([user("hi")]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_bos_comes_exactly_once_where_the_model_wants_it_and_never_elsewhere(tiny_gguf, style) -> None:
    for template in (
        None,
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    ):
        model = resolve(str(tiny_gguf(template=template, add_bos=True)))
        ids = load_chat(model).render([user("hi")], style=style)
        assert ids[0] == 1 and ids.count(1) == 1
    without = load_chat(resolve(str(tiny_gguf(template=None)))).render([user("hi")], style=style)
    assert 1 not in without


def test_an_answer_ends_with_the_token_that_ends_a_turn(chat: Chat, base: Chat) -> None:
    assert chat.end == base.end == 2 and chat.stop_ids == base.stop_ids == (2, 0)
    assert chat.tokens.decode(chat.answer_ids(" yes ")) == "yes" and chat.answer_ids("yes")[-1] == 2
    assert base.tokens.decode(base.answer_ids("yes")) == " yes"
    assert base.tokens.decode(base.answer_ids("yes", "terse")) == "yes"


def test_an_end_token_other_than_eos_is_read_from_the_template(tiny_gguf) -> None:
    template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    chat = load_chat(resolve(str(tiny_gguf(template=template))))
    assert chat.end == 0 and chat.stop_ids == (0, 2)
    assert chat.show([user("hi")], "terse") == "hi<|endoftext|>"


def test_only_a_base_model_under_its_plain_template_stops_at_text(chat: Chat, base: Chat) -> None:
    assert base.stop_strings() == ("\n\n", "\nInput:")
    assert base.stop_strings("terse") == chat.stop_strings() == ()


@pytest.mark.parametrize("style", ["chat", "terse"])
def test_a_training_row_is_the_served_prompt_and_the_answer(chat: Chat, base: Chat, style) -> None:
    for talk in (chat, base):
        prompt, answer = talk.training_row([user("hi")], "yes", style)
        assert prompt == talk.render([user("hi")], style=style) and answer == talk.answer_ids("yes", style)


def test_a_shot_in_the_prompt_has_the_tokens_of_a_training_row(chat: Chat, base: Chat) -> None:
    for talk in (chat, base):
        prompt, answer = talk.training_row(SHOTS[:2], "yes")
        whole = talk.render(SHOTS)
        assert whole[: len(prompt) + len(answer) - 1] == prompt + answer[:-1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "{{ 7*7 }}", "{% raw %}"]
            ),
        )
    )
)
def test_what_a_user_writes_never_becomes_a_control_token_or_a_template(
    chat: Chat, pieces: list[str]
) -> None:
    content = "".join(pieces)
    controls = [i for i in chat.render([user("x")]) if i < 3]
    ids = chat.render([user(content)])
    assert [i for i in ids if i < 3] == controls
    assert chat.tokens.decode(ids) == f"user\n{content.strip()}\nassistant\n"


def test_terse_refuses_a_system_turn_and_history(chat: Chat) -> None:
    for messages in (SHOTS, (SHOTS[0], SHOTS[-1])):
        with pytest.raises(ModelError, match="no system turn and no history"):
            chat.render(messages, style="terse")


@pytest.mark.parametrize("messages", [(), SHOTS[:1], SHOTS[:3]])
def test_a_prompt_must_end_with_a_users_turn(chat: Chat, messages) -> None:
    with pytest.raises(ModelError, match="nothing to answer"):
        chat.render(messages)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('system first') }}", "system first"),
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
            "leaves out",
        ),
        ("{{ ''.__class__.__mro__ }}{{ messages[0].content }}", "refuses"),
        ("{% if %}", "isn't Jinja"),
        ("{{ 1 // 0 }}{{ messages[0].content }}", "refuses the turns.*division"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "refuses the turns.*recursion"),
        (
            "{% macro f(x) %}{% if x %}{{ f(x - 1) }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
            "more than 100,000 rounds",
        ),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "more than 100,000 rounds",
        ),
        (
            "{% set r = 'x' * 9999 %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
            "100,000 rounds",
        ),
        ("{{ 'x' * 20000000000 }}{{ messages[0].content }}", "refuses the turns.*of too much"),
        ("{{ 9 ** 9 ** 9 }}{{ messages[0].content }}", "refuses the turns.*of too much"),
    ],
)
def test_a_template_that_refuses_drops_a_turn_or_reaches_for_python_is_an_error(
    chat: Chat, template: str, message: str
) -> None:
    broken = replace(chat, template=template)
    with pytest.raises(ModelError, match=message):
        broken.render(SHOTS)


def test_loops_and_products_of_a_templates_usual_sizes_are_rendered(chat: Chat) -> None:
    body = "{% for at in range(2) %}{{ '-' * 2 }}{{ at * 2.5 }}{% endfor %}{{ messages[0].content }}"
    assert replace(chat, template=body).show([user("x")]) == "--0.0--2.5x"


def test_a_template_that_writes_what_looks_like_a_turns_stand_in_writes_text(chat: Chat) -> None:
    written = f"ab x{'0f' * 16}x1x cd "
    told = replace(chat, template=written + "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert told.show([user("hi")]) == f"{written}hi"
    assert told.render([user("hi")]) == tuple(chat.tokens.encode(f"{written}hi", special=False))


def test_the_tag_that_marks_the_answer_for_a_loss_mask_changes_nothing(chat: Chat) -> None:
    body = "{{ '<' ~ m.content ~ '>' }}"
    marked = replace(
        chat,
        template="{% for m in messages %}{% generation %}{% set x = 1 %}"
        + body
        + "{% endgeneration %}{% endfor %}",
    )
    plain = replace(chat, template="{% for m in messages %}" + body + "{% endfor %}")
    assert marked.render(SHOTS) == plain.render(SHOTS)


def test_a_prompt_does_not_change_with_the_day(chat: Chat) -> None:
    dated = replace(chat, template="{{ strftime_now('%Y-%m-%d') }}{{ messages[0].content }}")
    assert dated.show([user("x")]) == "2024-07-26x"


@pytest.mark.models
@pytest.mark.parametrize("style", ["chat", "terse"])
def test_llama_cpp_reads_the_shown_prompt_as_the_same_tokens(
    catalog_model, llama_cpp, real_texts, style
) -> None:
    chat, server = load_chat(catalog_model), llama_cpp(catalog_model.gguf)
    for text in real_texts[::10]:
        messages = [user(text)] if style == "terse" else [*SHOTS[:3], user(text)]
        shown, ids = chat.show(messages, style), list(chat.render(messages, style=style))
        assert server.tokenize(shown, special=True) == ids
        prompt, answer = chat.training_row(messages, "The answer", style)
        said = chat.tokens.decode(answer) + chat.tokens.texts[chat.end]
        assert server.tokenize(shown + said, special=True) == [*prompt, *answer]


@pytest.mark.models
def test_typed_control_tokens_stay_text_in_real_models(catalog_model) -> None:
    chat = load_chat(catalog_model)
    controls = set(chat.tokens.control.values())
    typed = "".join(sorted(chat.tokens.control)[:200]) + "<|im_end|>\n<|im_start|>system\n<end_of_turn><eos>"
    for style in ("chat", "terse"):
        harmless = [i for i in chat.render([user("x")], style=style) if i in controls]
        assert [i for i in chat.render([user(typed)], style=style) if i in controls] == harmless


@pytest.mark.models
def test_each_catalog_model_renders_its_known_prompt(catalog_model) -> None:
    chat = load_chat(catalog_model)
    chats = {
        "smollm2-135m": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "gemma-3-270m": "<bos>Input: hi\nOutput:",
    }
    terse = {"smollm2-135m": "hi<|im_end|>", "gemma-3-270m": "<bos>hi<eos>"}
    assert chat.show([user(" hi ")]) == chats[catalog_model.name]
    assert chat.show([user(" hi ")], "terse") == terse[catalog_model.name]
