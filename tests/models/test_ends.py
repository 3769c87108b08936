"""How answers begin and end among a base model's worked examples, and behind a vocabulary's first blank."""

from contextlib import closing
from types import SimpleNamespace

import pytest

from rung.asking import candidates, request_for
from rung.engines.base import EngineSpec
from rung.engines.grammar import Grammars
from rung.engines.llama import LlamaEngine
from rung.engines.schema import byte_grammar, grammar, taken, tight
from rung.models._pretokenizers import sentence_piece
from rung.models.chat import _PLAIN, Chat, Message, load_chat
from rung.models.resolve import resolve
from rung.models.tokens import Tokens
from rung.records import Example
from rung.rungs.instructions import answer_spec
from rung.rungs.rendered import rendered
from rung.spec import AnswerSpec, Spec

CHOSEN = Spec(
    rung="few_shot",
    task="stars",
    kind="label",
    labels=("1", "2", "10"),
    engine="llama",
    answer=AnswerSpec(form="words", ends="blank_line"),
)
NUMBER = CHOSEN.model_copy(
    update={
        "kind": "number",
        "labels": (),
        "schema_": {"type": "integer", "minimum": 0, "maximum": 9999},
        "answer": AnswerSpec(form="schema", ends="blank_line"),
    }
)


@pytest.fixture(scope="module")
def base(tiny_gguf) -> Chat:
    return load_chat(resolve(str(tiny_gguf(template=None))))


@pytest.fixture(scope="module")
def taught(tiny_gguf) -> Chat:
    return load_chat(resolve(str(tiny_gguf())))


def before(spec: Spec) -> Spec:
    return spec.model_copy(update={"answer": spec.answer.model_copy(update={"ends": "token"})})


def test_a_label_ends_as_those_of_the_examples_do_and_is_part_of_the_prompt_that_shows_it(base: Chat) -> None:
    for label, ids in zip(CHOSEN.labels, candidates(CHOSEN, base), strict=True):
        told = [("user", "a"), ("assistant", label), ("user", "b")]
        shown = base.render([Message(role=role, content=text) for role, text in told])
        asked = base.render([Message(role="user", content="a")])
        assert shown[: len(asked) + len(ids)] == asked + ids
        assert base.tokens.decode(ids).strip("\n") == f" {label}" and base.end not in ids


def test_labels_end_with_the_models_token_where_one_holds_a_line_break_or_the_model_has_a_template(
    base: Chat, taught: Chat
) -> None:
    broken = CHOSEN.model_copy(update={"labels": ("1", "1\n2")})
    for spec, chat in ((broken, base), (CHOSEN, taught), (before(CHOSEN), base)):
        assert candidates(spec, chat) == [chat.answer_ids(label) for label in spec.labels]
    terse = CHOSEN.model_copy(update={"style": "terse"})
    assert candidates(terse, base) == [base.answer_ids(label, "terse") for label in CHOSEN.labels]


def test_a_number_may_end_with_the_blank_line_of_the_examples(base: Chat, taught: Chat) -> None:
    (line,) = base.break_ids()
    assert set(base.tokens.decode([line])) == {"\n"}
    stops = request_for(NUMBER, base, (1,)).stop_ids
    assert stops == (*base.stop_ids, line)
    assert f"[{','.join(map(str, sorted(stops)))}]" in grammar(NUMBER.schema_, stops)
    assert request_for(before(NUMBER), base, (1,)).stop_ids == base.stop_ids
    assert request_for(NUMBER, taught, (1,)).stop_ids == taught.stop_ids


def test_the_grammar_of_a_number_lets_that_line_through_once_there_is_one(base: Chat) -> None:
    tokens, request = base.tokens, request_for(NUMBER, base, (1,))
    grammars, (line,) = Grammars(tokens.backend, tokens.vocab_size, base.stop_ids), base.break_ids()
    matcher = grammars.matcher(request)
    assert matcher is not None

    def may_end() -> bool:
        allowed = grammars.allowed([matcher], tokens.vocab_size)
        return allowed is not None and bool(allowed[0, line])

    assert not may_end()
    assert matcher.consume_tokens(tokens.encode("3", special=False)) and may_end()


def test_llama_cpp_leaves_that_line_out_of_a_number(base: Chat, tiny_gguf) -> None:
    gguf = tiny_gguf(template=None)
    prompts = [base.continued(f"Input: {said}\nOutput:") for said in ("a", "some text", "three", "yy")]
    with closing(LlamaEngine(EngineSpec(engine="llama", gguf=gguf))) as engine:
        written = engine.generate([request_for(NUMBER, base, prompt) for prompt in prompts])
    assert all(one.text.isdigit() and not one.failure and not one.truncated for one in written)
    assert any(len(one.text) < 4 for one in written)


@pytest.mark.parametrize(
    ("kind", "ends"), [("label", "blank_line"), ("number", "blank_line"), ("json", "token")]
)
def test_only_labels_and_numbers_of_a_model_without_a_template_end_so(base, taught, kind, ends) -> None:
    rows = (Example(id="a", input="a", output=3),)
    for chat, expected in ((base, ends), (taught, "token")):
        context = SimpleNamespace(
            kind=kind,
            model=None,
            train=rows,
            limit=512,
            pool=SimpleNamespace(chat=lambda model, chat=chat: chat),
            target=lambda row: str(row.output),
            task=SimpleNamespace(output=SimpleNamespace(json_schema={"type": "object"})),
        )
        assert answer_spec(context, constrained=True).ends == expected


def test_the_digest_of_a_system_that_ends_with_the_models_token_is_what_it_was() -> None:
    assert before(CHOSEN).digest != CHOSEN.digest
    assert before(CHOSEN).digest == "806e130cc0eea73f"


def spaced() -> Tokens:
    """A vocabulary like Llama 2's: bytes, letters, and pieces that begin with a blank."""
    letters = list('▁{}":123ab')
    pieces = ["▁{", '{"', '":', "▁1"]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *pieces]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(letters) + len(pieces))]
    scores = [0.0] * (len(texts) - len(pieces)) + [-1.0 - place for place in range(len(pieces))]
    return Tokens(
        backend=sentence_piece(texts, kinds, scores, unknown="<unk>", prefix=True),
        texts=tuple(texts),
        spelling="spaces",
        control={"<s>": 1, "</s>": 2},
        literal=frozenset(),
        bos_id=1,
        eos_id=2,
        add_bos=True,
        strips_space=True,
    )


def test_what_a_grammar_holds_is_taught_without_the_blank_that_a_vocabulary_puts_first() -> None:
    tokens = spaced()
    chat = Chat(tokens=tokens, template="{{ messages[0].content }}", plain=False, end=2, stop_ids=(2,))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    spec = NUMBER.model_copy(update={"kind": "json", "schema_": schema})
    context = SimpleNamespace(
        pool=SimpleNamespace(chat=lambda model: chat), model=None, limit=64, target=lambda row: row.output
    )
    row = Example(id="a", input="ab", output='{"a":12}')
    (made,) = rendered(context, spec, [row])
    text = b"".join(map(tokens.token_bytes, made.answer[:-1]))
    assert made.answer[-1] == 2 and taken(byte_grammar(tight(schema)), text.decode()) is None
    assert tokens.decode(made.answer) == row.output
    free = spec.model_copy(update={"answer": AnswerSpec(form="free")})
    assert rendered(context, free, [row])[0].answer == chat.answer_ids(row.output)
    assert tokens.token_bytes(chat.answer_ids(row.output)[0]).startswith(b" ")


def test_a_label_among_pairs_has_no_second_blank_where_a_vocabulary_puts_one_first() -> None:
    chat = Chat(tokens=spaced(), template=_PLAIN, plain=True, end=2, stop_ids=(2,))
    question = Message(role="user", content="a")
    asked = chat.render([question])
    for label, ids in zip(CHOSEN.labels, candidates(CHOSEN, chat), strict=True):
        shown = chat.render([question, Message(role="assistant", content=label), question])
        assert shown[: len(asked) + len(ids)] == asked + ids
        assert asked + chat.answer_ids(label)[:-1] == (*asked, *ids[:-1]) and ids == chat.shown_ids(label)
