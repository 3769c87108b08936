import itertools
import json
import random
from dataclasses import dataclass

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.made_schemas import made_schema
from rung.engines.base import Completion, Request
from rung.engines.closing import Closings
from rung.engines.grammar import Grammars
from rung.engines.schema import check_schema
from rung.errors import EngineError
from rung.records import Json
from tests.fixtures_tiny import END, VOCABULARY, tiny_tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@dataclass(frozen=True)
class Tools:
    """A vocabulary with its grammars and closings, and how it reads a text."""

    grammars: Grammars
    closings: Closings
    tokenizer: object
    width: int

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def written(self, schema: Json, dice: random.Random, most: int) -> tuple[int, ...]:
        """What a model without sense might write: any token that the engine's mask allows, an end too."""
        matcher = self.grammars.matcher(Request(prompt=(1,), max_tokens=most, schema=schema))
        tokens: list[int] = []
        while len(tokens) < most and not matcher.is_stopped():
            allowed = np.flatnonzero(self.grammars.allowed([matcher], self.width)[0])
            token = int(allowed[dice.randrange(len(allowed))])
            if token in self.grammars.ends(Request(prompt=(1,), max_tokens=1, schema=schema)):
                break
            tokens.append(token)
            matcher.consume_token(token)
        return tuple(tokens)


def tiny() -> Tools:
    tokenizer = tiny_tokenizer()
    grammars = Grammars(tokenizer, VOCABULARY, (END,))
    return Tools(grammars, Closings(grammars.spellings), tokenizer, VOCABULARY)


def smollm2() -> Tools:
    from rung.models.resolve import resolve
    from rung.models.tokens import load_tokenizer

    tokens = load_tokenizer(resolve("smollm2-135m"))
    grammars = Grammars(tokens.backend, tokens.vocab_size, (tokens.eos_id,))
    return Tools(grammars, Closings(tokens.spellings), tokens.backend, tokens.vocab_size)


@pytest.fixture(scope="module", params=["tiny", pytest.param("smollm2", marks=pytest.mark.models)])
def tools(request) -> Tools:
    return {"tiny": tiny, "smollm2": smollm2}[request.param]()


def valid(schema: Json, text: str) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))


made = st.randoms(use_true_random=False).map(made_schema)


@settings(deadline=None, max_examples=120)
@given(schema=made, dice=st.randoms(use_true_random=False), limit=st.integers(1, 60))
def test_whatever_a_model_writes_the_answer_is_valid_and_within_the_limit(tools, schema, dice, limit):
    assume(not check_schema(schema))
    least = tools.closings.least_tokens(schema)
    request = Request(prompt=(1,), max_tokens=limit, schema=schema)
    refusal = tools.closings.refusal(request, room=1000)
    assert (refusal is not None) == (limit < least)
    if refusal is not None:
        assert f"raise it to {least} or more" in refusal
        limit = least
    tokens = tools.written(schema, dice, limit)
    closed = tools.closings.closed(schema, tokens, limit)
    assert valid(schema, closed.text)
    assert len(closed.tokens) <= limit
    assert closed.tokens[: closed.own] == tokens[: closed.own]
    assert closed.text == tools.tokenizer.decode(list(closed.tokens))
    if not closed.cut:
        assert closed.tokens == tokens


@settings(deadline=None, max_examples=40)
@given(schema=made, dice=st.randoms(use_true_random=False), more=st.integers(0, 30))
def test_after_every_token_let_through_the_end_still_fits(tools, schema, dice, more):
    assume(not check_schema(schema))
    limit = tools.closings.least_tokens(schema) + more
    tokens = tools.written(schema, dice, limit)
    closer = tools.closings.closer(schema, limit)
    for token in tokens:
        if not closer.take(token):
            break
        assert len(closer.taken) + len(closer.closing) <= limit
        assert valid(schema, tools.tokenizer.decode([*closer.taken, *closer.closing]))
    answer = tools.closings.closed(schema, tokens, limit)
    assert answer.tokens[: len(closer.taken)] == closer.taken, "what was streamed stays"


def fewest(tools: Tools, schema: Json, most: int) -> int | None:
    """The tokens of the smallest answer by trying all texts; None if it has more than `most`."""
    spellings = tools.grammars.spellings()
    level = {b"": tools.grammars.matcher(Request(prompt=(1,), max_tokens=1, schema=schema))}
    seen = {b""}
    for size in range(most + 1):
        if any(matcher.is_accepting() for matcher in level.values()):
            return size
        longer = {}
        for (text, matcher), token in itertools.product(level.items(), range(len(spellings))):
            grown = text + spellings[token]
            if spellings[token] and grown not in seen and matcher.validate_tokens([token]) == 1:
                seen.add(grown)
                longer[grown] = matcher.deep_copy()
                longer[grown].consume_token(token)
        level = longer
    return None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "boolean"},
        {"enum": ["rate", "tea", "xyz", "eat"]},
        {"type": "integer", "minimum": 704, "maximum": 3975},
        {"type": "integer", "minimum": 100, "multipleOf": 7},
        {"type": "number", "minimum": 0.25, "maximum": 0.3},
        {"type": "array", "items": {"enum": [True, "a", 12]}, "minItems": 3},
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "t": {"type": "string"}},
            "required": ["a"],
        },
        {"anyOf": [{"const": {"k": "a", "x": 1}}, {"const": {"k": "b"}}]},
        {"type": "string", "pattern": "^(ra|te)[0-9]t$"},
    ],
)
def test_the_fewest_tokens_are_the_fewest_there_are(schema):
    tools = tiny()
    least = tools.closings.least_tokens(schema)
    assert fewest(tools, schema, least) == least


@pytest.mark.parametrize("value", [{"name": "Ada Lovelace", "age": 36}, {"name": "", "age": -1}])
def test_an_answer_that_fits_is_left_as_it_is_and_one_too_long_keeps_all_that_fits(tools, value):
    text = json.dumps(value, separators=(",", ":"))
    tokens = tools.encode(text)
    whole = tools.closings.closed(PERSON, tokens, len(tokens))
    assert (whole.text, whole.tokens, whole.own, whole.cut) == (text, tokens, len(tokens), False)
    assert whole.final
    owns = []
    for limit in range(tools.closings.least_tokens(PERSON), len(tokens)):
        closed = tools.closings.closed(PERSON, tokens[:limit], limit)
        assert closed.cut
        assert valid(PERSON, closed.text)
        mine = tools.tokenizer.decode(list(closed.tokens[: closed.own]))
        assert closed.text[: closed.own_characters] == mine
        assert text.startswith(tools.tokenizer.decode(list(closed.tokens[: closed.own])))
        owns.append(closed.own)
        assert limit - len(closed.tokens) <= 1, "hardly any room is left unused"
    assert owns == sorted(owns)


def test_one_token_too_few_costs_the_end_alone():
    tools = tiny()
    tokens = tools.encode('{"name":"Ada Lovelace","age":36}')
    closed = tools.closings.closed(PERSON, tokens[:-1], len(tokens) - 1)
    assert closed.text == '{"name":"Ada Lovelace","age":3}'
    middle = tools.closings.closed(PERSON, tokens[:16], 24)
    assert middle.text.startswith('{"name":"Ada')
    assert json.loads(middle.text)["age"] == 0


def test_a_number_that_could_go_on_is_an_answer_and_not_final(tools):
    tokens = tools.encode("12")
    closed = tools.closings.closed({"type": "integer"}, tokens, len(tokens))
    assert (closed.text, closed.cut, closed.final) == ("12", False, False)


def test_an_answer_cut_inside_a_character_is_closed_with_a_whole_one():
    tools = tiny()
    half = tools.encode('"é')[:-1]
    closed = tools.closings.closed({"type": "string"}, half, len(half) + 2)
    assert closed.own == len(half)
    assert len(json.loads(closed.text)) == 1


def test_tokens_that_no_answer_can_hold_are_left_out(tools):
    begun = tools.encode('{"name":"A')
    for wrong in (-1, 10**9, tools.grammars.ends(Request(prompt=(1,), max_tokens=1, schema={}))[0]):
        closed = tools.closings.closed(PERSON, (*begun, wrong, *begun), 60)
        assert closed.own == len(begun)
        assert valid(PERSON, closed.text)
    closed = tools.closings.closed(PERSON, tools.encode("no JSON at all"), 60)
    assert (closed.own, valid(PERSON, closed.text)) == (0, True)


def test_after_a_token_that_does_not_fit_none_is_let_through():
    tools = tiny()
    closer = tools.closings.closer({"type": "array", "items": {"type": "integer"}}, 3)
    taken = [closer.take(token) for token in tools.encode("[1,23]")]
    assert taken == [True, True, False, False, False, False]
    assert tools.tokenizer.decode([*closer.taken, *closer.closing]) == "[1]"


def test_the_same_tokens_are_closed_alike_whatever_was_asked_before(tools):
    tokens = tools.encode('{"name":"Ada Lovelace","age":36}')
    first = [tools.closings.closed(PERSON, tokens, limit) for limit in range(16, 24)]
    again = [tools.closings.closed(PERSON, tokens, limit) for limit in reversed(range(16, 24))]
    assert first == again[::-1]


DEEP = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
    "$ref": "#/$defs/node",
}


def test_a_schema_that_contains_itself_is_closed_at_any_depth(tools):
    tokens = tools.encode('{"next":' * 20)
    for limit in range(tools.closings.least_tokens(DEEP), len(tokens) + 30, 7):
        closed = tools.closings.closed(DEEP, tokens, limit)
        assert len(closed.tokens) <= limit
        assert valid(DEEP, closed.text)
    assert tools.closings.closed(DEEP, tokens, len(tokens) + 30).own == len(tokens)


def test_a_schema_that_requires_itself_has_no_answer():
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with pytest.raises(EngineError, match="requires itself"):
        tiny().closings.check([Request(prompt=(1,), max_tokens=9, schema=endless)])


def test_what_cannot_be_enforced_is_an_error():
    with pytest.raises(EngineError, match="uniqueItems"):
        tiny().closings.least_tokens({"type": "array", "uniqueItems": True})


@pytest.mark.parametrize("stop", ["}", "\\n", "", ", ", "Input:"])
def test_a_stop_string_that_an_answer_may_hold_is_refused(stop):
    request = Request(prompt=(1,), max_tokens=9, schema=PERSON, stop=("\n\n", stop))
    with pytest.raises(EngineError, match="stop string .*leave it out"):
        tiny().closings.check([request])


def test_a_stop_string_with_a_line_break_never_occurs_and_may_stay():
    stops = ("\n\n", "\nInput:", "\t")
    closings = tiny().closings
    closings.check([Request(prompt=(1,), max_tokens=9, schema=PERSON, stop=stops)])
    closings.check([Request(prompt=(1,), max_tokens=9, stop=("}",))])


def test_room_that_the_prompt_leaves_counts_like_the_limit():
    closings = tiny().closings
    least = closings.least_tokens(PERSON)
    request = Request(prompt=(1,) * 7, max_tokens=least, schema=PERSON)
    assert closings.refusal(request, least) is None
    refusal = closings.refusal(request, least - 1)
    assert refusal is not None
    assert f"7 tokens and leaves {least - 1}" in refusal
    assert f"has {least}: shorten the prompt" in refusal
    assert closings.refusal(Request(prompt=(1,), max_tokens=0), 0) is None
    with pytest.raises(EngineError, match=f"has {least}"):
        closings.closer(PERSON, least - 1)


def completion(tokens: tuple[int, ...], **changes) -> Completion:
    given = {
        "text": "as the engine read it",
        "tokens": tokens,
        "logprob": -9.0,
        "prompt_tokens": 1,
        "latency_s": 0.0,
    }
    return Completion(**(given | changes))


def test_only_a_completion_that_broke_off_is_changed():
    tools = tiny()
    tokens = tools.encode('{"name":"Ada","age":36}')
    request = Request(prompt=(1,), max_tokens=len(tokens), schema=PERSON)

    def close(found: Completion, asked: Request = request) -> Completion:
        return tools.closings.close(asked, found, 100, lambda own: -float(own))

    assert close(completion(tokens)) == completion(tokens)
    assert close(completion(tokens, truncated=True)) == completion(tokens)
    failed = completion((), failure="generate: it broke")
    assert close(failed) == failed
    free = completion(tokens[:5], truncated=True)
    assert close(free, Request(prompt=(1,), max_tokens=5)) == free
    cut = close(completion(tokens[:-2], truncated=True))
    assert (cut.truncated, json.loads(cut.text)["name"]) == (True, "Ada")
    own = next(size for size in range(len(tokens)) if cut.tokens[: size + 1] != tokens[: size + 1])
    assert cut.logprob == -float(own)
