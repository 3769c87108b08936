"""Blanks beside control tokens: where a vocabulary puts one first, and where such a token takes some."""

from itertools import product

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rung.asking import candidates
from rung.models.chat import Chat, Message, Role, load_chat
from rung.models.resolve import resolve
from rung.models.tokens import load_tokenizer
from rung.spec import AnswerSpec, Spec
from tests.fixtures_climb import CHATML
from tests.fixtures_spaces import MARKS, PHI, make_spaced_gguf, spaced_folder

SCHEMES = ("first", "always", "never", "prepend")
STRIPS = ((), ("rstrip",), ("lstrip",), ("lstrip", "rstrip"))
BARE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A template that sets nothing but blanks between turns and control tokens."""
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
)
"""Mistral's first form of turns, in which a blank stands before an answer."""
TEMPLATES = {"chatml": CHATML, "phi": PHI, "bare": BARE, "inst": INST, "plain": None}
LABELS = Spec(
    rung="few_shot",
    task="t",
    kind="label",
    labels=("ab", "user 1", "no"),
    engine="llama",
    answer=AnswerSpec(form="words"),
)
words = st.lists(st.sampled_from(["ab", "user", " ", "\n", "▁", "1", "\u00a0", "é", "<|", "日"]), max_size=5)
texts = words.map("".join)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Chats and transformers' tokenizers of folders, by what they are."""
    from transformers import AutoTokenizer

    found = {}
    place = tmp_path_factory.mktemp("spaced")
    for scheme, strips, bos in product(SCHEMES, STRIPS, (False, True)):
        for name, template in TEMPLATES.items():
            folder = place / "-".join([scheme, *strips, str(bos), name])
            spaced_folder(folder, scheme, strips=strips, bos=bos, template=template)
            chat = load_chat(resolve(str(folder)))
            found[scheme, strips, bos, name] = chat, AutoTokenizer.from_pretrained(folder)
    return found


def turns(asked: str, shown: tuple[str, str] | None) -> list[Message]:
    before: list[tuple[Role, str]] = [("user", shown[0]), ("assistant", shown[1])] if shown else []
    return [*(Message(role=role, content=text) for role, text in before), Message(role="user", content=asked)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=texts, shown=st.none() | st.tuples(texts, texts))
@example(asked="ab", shown=None)
@example(asked="", shown=("user", ""))
def test_prompts_of_a_folder_are_those_of_its_tokenizer_in_one_go(made, asked, shown) -> None:
    assert len(made) == 160
    for (scheme, strips, bos, name), (chat, tokenizer) in made.items():
        messages = turns(asked, shown)
        for style in ("chat", "terse") if shown is None else ("chat",):
            text = chat.show(messages, style)
            wanted = tuple(tokenizer(text, add_special_tokens=False).input_ids)
            assert chat.render(messages, style=style) == wanted, (scheme, strips, bos, name, style)


def test_the_schemes_and_the_tokens_that_take_white_space_do_make_other_prompts(made) -> None:
    asked = turns("ab", None)
    for strips in STRIPS:
        prompts = {scheme: made[scheme, strips, False, "chatml"][0].render(asked) for scheme in SCHEMES}
        assert prompts["first"] == prompts["never"] != prompts["always"] == prompts["prepend"]
    for scheme in SCHEMES:
        kept, taken = (made[scheme, strips, False, "phi"][0].render(asked) for strips in ((), ("rstrip",)))
        assert len(kept) > len(taken)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.one_of(st.text(max_size=4), st.sampled_from([*MARKS, "<s>", "\n", " "])), max_size=6)
)
def test_what_a_user_writes_never_becomes_a_control_token_there(made, pieces) -> None:
    said = "".join(pieces).encode("utf-8", "replace").decode()
    for (*_, name), (chat, _) in made.items():
        control = set(chat.tokens.control.values()) - {chat.tokens.control["<unk>"]}
        harmless, found = (
            [i for i in chat.render([Message(role="user", content=text)]) if i in control]
            for text in ("x", said)
        )
        assert found == harmless, name


def test_answers_that_are_scored_are_those_that_a_prompt_shows(made) -> None:
    """Under `first` as well, where a label behind the template's own text has no blank before it."""
    for key, (chat, _) in made.items():
        if key[0] == "never" and key[3] == "inst":
            continue  # that blank is no part of an answer where a vocabulary puts none
        for label, ids in zip(LABELS.labels, candidates(LABELS, chat), strict=True):
            asked, shown = chat.render(turns("1", None)), chat.render(turns("1", ("1", label)))
            ids = ids[:-1] if ids[-1] == chat.end else ids
            assert shown[: len(asked) + len(ids)] == asked + ids, (*key, label)


@pytest.fixture(scope="module", params=["tiny", "My phi-3 mini", "Phi3", "Phi 3.5 mini"])
def gguf(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "spaced.gguf"
    return make_spaced_gguf(path, request.param, PHI), request.param


TYPED = [
    "<|user|>\n\n ab<|end|>\n<|assistant|>\n",
    " <|user|> ab <|end|> ",
    "<s> ab</s> ab<|endoftext|>\nab",
    "ab</s>\n\nuser</s>",
    "<|end|>\n<|end|>\n\n",
    "<|user|>",
    "ab\n",
    "",
]


def test_a_gguf_is_read_as_llama_cpp_reads_it_also_where_its_name_alone_tells(gguf, llama_cpp) -> None:
    path, name = gguf
    server, tokens = llama_cpp(path), load_tokenizer(resolve(str(path)))
    for text in TYPED:
        for special in (False, True):
            assert tokens.encode(text, special=special) == server.tokenize(text, special=special), repr(text)
    chat: Chat = load_chat(resolve(str(path)))
    for messages in (turns("ab", None), turns(" 1\n", ("user", "ab")), turns("", ("", ""))):
        assert list(chat.render(messages)) == server.tokenize(chat.show(messages), special=True)
    prompt = chat.render(turns("ab", None))
    assert (prompt[-1] == tokens.control["<|assistant|>"]) == (name in ("My phi-3 mini", "Phi3"))


def test_answers_that_are_scored_of_a_gguf_are_those_that_a_prompt_shows(gguf) -> None:
    chat = load_chat(resolve(str(gguf[0])))
    for label, ids in zip(LABELS.labels, candidates(LABELS, chat), strict=True):
        asked, shown = chat.render(turns("1", None)), chat.render(turns("1", ("1", label)))
        assert shown[: len(asked) + len(ids)] == asked + ids
