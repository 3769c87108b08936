"""The prompt as templates of other programs: all give what the System was scored on, token for token."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rung.errors import ModelError
from rung.models.chat import Chat, Message, load_chat
from rung.models.resolve import resolve
from rung.models.weights import dequantised
from rung.records import Example
from rung.ship import go_template
from rung.ship.frame import Frame, frame
from rung.ship.modelfile import Modelfile
from rung.spec import Spec
from rung.wording import Shot, messages
from tests.fixtures_climb import CHATML, OPEN
from tests.fixtures_ship import make_gguf

GO = json.loads((Path(__file__).parent / "go_rendered.json").read_text(encoding="utf-8"))
"""Templates, conversations, and what Go's text/template makes of them with Ollama's values."""
AWKWARD = [
    '{{ "x" }}',
    "}}",
    "{",
    '"""',
    '"',
    "{%",
    "\n\n",
    "\u00a0",
    "\u200b",
    "\\",
    "é😀",
    "a",
    " ",
    "'",
    "\r",
]
texts = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=4), min_size=1, max_size=6).map("".join)
shots = st.lists(st.tuples(texts, texts), max_size=2)


@pytest.fixture(scope="module", params=["chatml", "thinking", "plain"])
def chat(request, tmp_path_factory) -> tuple[Chat, Any]:
    """Models with a chat template, and one without it whose prompts begin with a bos token; tokenizers."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat")
    kinds = {"chatml": ("llama", CHATML), "thinking": ("llama", OPEN), "plain": ("gemma3", None)}
    kind, template = kinds[request.param]
    model = resolve(str(make_gguf(folder / "model.gguf", kind, template=template)))
    return load_chat(model), AutoTokenizer.from_pretrained(dequantised(model))


def spec(style, instruction: str | None) -> Spec:
    return Spec(
        rung="prompt",
        task="t",
        kind="label",
        labels=("a", "b"),
        engine="llama",
        style=style,
        instruction=instruction,
    )


def prompt(chat: Chat, style, instruction: str | None, shown: Sequence[Shot], asked: str) -> tuple[int, ...]:
    row = Example(id="", input=asked, output=None)
    return chat.render(messages(instruction, row, shown), style=style)


def tokens(chat: Chat, text: str) -> tuple[int, ...]:
    """As llama.cpp and Ollama split a rendered prompt: control tokens by name, bos first where wanted."""
    first = [chat.tokens.bos_id] if chat.tokens.add_bos else []
    return (*first, *chat.tokens.encode(text, special=True))


def modelfile(framed: Frame, instruction: str | None) -> Modelfile:
    return Modelfile(
        weights="t-q8_0.gguf",
        frame=framed,
        instruction=instruction,
        stops=["\n\n", "<|im_end|>"],
        context=512,
        most_tokens=3,
        licence="MIT",
    )


@settings(max_examples=80, deadline=None)
@given(instruction=st.none() | texts, shown=shots, asked=texts, terse=st.booleans())
@example(instruction='Say """yes""" or {{ no }}.', shown=[("{", "}")], asked="well?", terse=False)
def test_ollama_and_jinja_give_the_prompt_that_was_scored(chat, instruction, shown, asked, terse):
    talk, tokenizer = chat
    examples = [Shot(input=a, output=b) for a, b in shown]
    style: Any = "terse" if terse else "chat"
    if terse:
        instruction, examples = None, []
    assume(asked.strip() and all(part.strip() for pair in shown for part in pair))
    assume(instruction is None or instruction.strip())
    wanted = prompt(talk, style, instruction, examples, asked)
    framed = frame(talk, spec(style, instruction), examples)

    made = modelfile(framed, instruction)
    before = [Message(role="system", content=made.system)] if made.system is not None else []
    turns = [*before, Message(role="user", content=asked.strip())]
    assert tokens(talk, go_template.render(made.template, turns)) == wanted

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], chat_template=framed.jinja, tokenize=False
    )
    assert tuple(tokenizer(text, add_special_tokens=False).input_ids) == wanted


def test_the_golden_templates_are_many_and_awkward():
    assert len(GO) == 40
    assert sum("\\u" in case["template"] for case in GO) > 20
    assert sum(".System" in case["template"] for case in GO) > 10


@pytest.mark.parametrize("case", GO, ids=range(len(GO)))
def test_templates_are_rendered_as_go_renders_them(case):
    turns = [Message(role=role, content=text) for role, text in case["messages"]]
    assert go_template.render(case["template"], turns) == case["rendered"]


def test_only_the_last_question_is_asked_in_a_conversation():
    template = go_template.write(Frame(bos="", before="Q: ", after="\nA:"))
    turns = [Message(role="user", content="one"), Message(role="assistant", content="1")]
    assert go_template.render(template, [*turns, Message(role="user", content="two")]) == "Q: two\nA:"


@pytest.mark.parametrize("template", ["{{ .Prompt }}", go_template.LAST_QUESTION + "{{ .Prompt }}"])
def test_a_template_that_rung_does_not_write_is_not_guessed_at(template):
    with pytest.raises(ModelError, match="rung"):
        go_template.render(template, [Message(role="user", content="x")])


@pytest.mark.parametrize("roles", [("system", "user"), ("user", "assistant", "user")])
def test_the_chat_template_refuses_what_was_never_trained_on(chat, roles):
    talk, tokenizer = chat
    framed = frame(talk, spec("terse", None), ())
    with pytest.raises(Exception, match="send one user turn"):
        tokenizer.apply_chat_template(
            [{"role": role, "content": "x"} for role in roles], chat_template=framed.jinja, tokenize=False
        )


def test_a_template_that_repeats_the_text_has_no_frame(tmp_path):
    repeating = CHATML.replace("m['content'] +", "m['content'] + m['content'] +")
    model = resolve(str(make_gguf(tmp_path / "model.gguf", template=repeating)))
    with pytest.raises(ModelError, match="repeats the text"):
        frame(load_chat(model), spec("chat", None), ())


def parsed(text: str) -> list[tuple[str, str]]:
    """A Modelfile as Ollama reads it: a value ends with a line in which its quotes are closed, and what isn't
    printable is dropped."""
    found, rest = [], text
    while rest:
        name, rest = rest.split(" ", 1)
        if name == "PARAMETER":
            name, rest = rest.split(" ", 1)
        end = next(
            place
            for place, c in enumerate(rest)
            if c == "\n"
            and (
                not rest.startswith('"')
                or (place >= 6 and rest[:place].endswith('"""') and rest.startswith('"""'))
            )
        )
        value = rest[:end].removeprefix('"""').removesuffix('"""')
        found.append((name, "".join(c for c in value if c.isprintable() or c in "\n\t\r")))
        rest = rest[end + 1 :]
    return found


@settings(max_examples=100, deadline=None)
@given(before=texts, instruction=texts, after=texts)
@example(before='"""\n', instruction="x", after="")
@example(before="", instruction='a """\nb', after='""')
@example(before="", instruction="a", after="{")
@example(before="{", instruction="\u200b", after="")
def test_every_character_survives_a_modelfile(before, instruction, after):
    instruction = instruction.strip()
    made = modelfile(Frame(bos="", before=before + instruction, after=after), instruction)
    found = parsed(made.text)
    assert found[:2] == [("FROM", "./t-q8_0.gguf"), ("TEMPLATE", made.template)]
    assert dict(found).get("SYSTEM") == made.system
    assert [value for name, value in found if name == "stop"] == ["\n\n", "<|im_end|>"]
    turns = [Message(role="system", content=made.system or ""), Message(role="user", content="?")]
    assert go_template.render(found[1][1], turns) == before + instruction + "?" + after


def test_a_modelfile_answers_greedily_within_the_systems_limits():
    made = modelfile(Frame(bos="", before="Judge.\n", after="<|im_end|>"), "Judge.")
    found = parsed(made.text)
    for wanted in (
        ("SYSTEM", "Judge."),
        ("temperature", "0"),
        ("repeat_penalty", "1"),
        ("num_ctx", "512"),
        ("num_predict", "3"),
        ("LICENSE", "MIT"),
    ):
        assert wanted in found
