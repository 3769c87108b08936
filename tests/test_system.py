import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rung.asking import ask, candidates, context_of, prompts_for
from rung.engines.base import Completion, EngineSpec, Request
from rung.engines.fake import FakeEngine
from rung.engines.grammar import Grammars
from rung.errors import EngineError, ModelError, SystemFolderError
from rung.models.chat import Chat
from rung.models.head import fit_minilm, head_files
from rung.models.resolve import resolve
from rung.records import Example
from rung.spec import AnswerSpec, ModelRef, ShotSpec, Spec
from rung.system import SHOTS_FILE, Pool, System, copy, nearest, read_index, ref_to, save
from rung.wording import Shot, answer_text, embedded_text, in_order, label_texts, messages, question
from tests.fixtures_climb import make_tiny_gguf

SPEC = Spec(rung="prompt", task="t", kind="label", labels=("no", "yes"), engine="llama", instruction="Judge.")
FILES = {"head.safetensors": b"\x00\xff", "sub/words.json": '["é"]'}
ROW = Example(id="1", input="is it?", output="yes", context="It is.")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def system(tmp_path) -> System:
    return save(tmp_path / "system", SPEC, FILES)


def spec_file(folder: Path, **changes) -> None:
    path = folder / "system.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_system_is_the_same_after_saving_and_loading(system):
    again = System.load(system.folder)
    assert again.spec == system.spec and again.digest == system.digest
    assert (system.folder / "head.safetensors").read_bytes() == b"\x00\xff"
    assert (system.folder / "sub" / "words.json").read_text(encoding="utf-8") == '["é"]'
    assert sorted(again.spec.files) == ["head.safetensors", "sub/words.json"]


def test_the_digest_is_the_same_on_every_machine_and_changes_with_spec_and_files(system, tmp_path):
    assert system.digest == "c77e21d0fdf30d7d"
    other = save(tmp_path / "other", SPEC, {**FILES, "head.safetensors": b"\x00\xfe"})
    strict = save(tmp_path / "strict", SPEC.model_copy(update={"instruction": "Judge!"}), FILES)
    assert len({system.digest, other.digest, strict.digest}) == 3


def test_the_properties_of_a_schema_keep_their_order_in_which_they_are_answered(tmp_path):
    schemas = [{"type": "object", "properties": dict.fromkeys(names, {})} for names in ("ba", "ab")]
    specs = [SPEC.model_copy(update={"kind": "json", "labels": (), "schema_": s}) for s in schemas]
    saved = save(tmp_path / "system", specs[0], {})
    again = System.load(saved.folder)
    assert isinstance(again.spec.schema_, dict) and list(again.spec.schema_["properties"]) == ["b", "a"]
    assert again.digest == saved.digest != save(tmp_path / "other", specs[1], {}).digest


def test_where_the_base_model_lies_is_no_part_of_the_digest():
    def digest(**changes):
        fields = {"name": "m", "source": "/a/m.gguf", "digest": "d", "licence": "mit", **changes}
        return SPEC.model_copy(update={"model": ModelRef(**fields)}).digest

    assert digest() == digest(source="/b/m.gguf")
    assert digest() != digest(digest="e")


def test_a_copy_keeps_the_digest_and_needs_the_original_no_more(system, tmp_path):
    twin = copy(system, tmp_path / "winner")
    assert twin.digest == system.digest
    (system.folder / "head.safetensors").write_bytes(b"")
    assert System.load(tmp_path / "winner").digest == system.digest


def test_a_changed_file_is_not_copied(system, tmp_path):
    (system.folder / "head.safetensors").write_bytes(b"other")
    with pytest.raises(SystemFolderError, match="was changed since the System was made"):
        copy(system, tmp_path / "winner")


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"\x00\xfe")])
def test_a_missing_or_changed_file_is_refused_by_name(system, damage):
    damage(system.folder / "head.safetensors")
    with pytest.raises(SystemFolderError, match=r"head\.safetensors' is missing or was changed"):
        System.load(system.folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside"])
def test_a_file_outside_the_folder_is_never_read(system, name):
    (system.folder.parent / "outside").write_text("")
    spec_file(system.folder, files={name: "0" * 64})
    with pytest.raises(SystemFolderError, match="names a file outside its folder"):
        System.load(system.folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"run_this": "code"}, "run_this"), ({"format": 2}, "format"), ({"engine": "gpu"}, "engine")],
)
def test_an_unknown_key_or_value_is_refused_by_name(system, changes, said):
    spec_file(system.folder, **changes)
    with pytest.raises(SystemFolderError, match=f"isn't a System of this version: {said}"):
        System.load(system.folder)


@pytest.mark.parametrize(
    "schema", [{"$ref": "http://10.0.0.1/x"}, {"$ref": "file:///etc/passwd"}, {"type": 3}]
)
def test_a_schema_that_points_outside_or_is_none_is_refused(system, schema):
    spec_file(system.folder, kind="json", schema_=schema)
    with pytest.raises(SystemFolderError, match="its schema: "):
        System.load(system.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_spec_is_refused(system, content):
    (system.folder / "system.json").write_bytes(content)
    with pytest.raises(SystemFolderError, match=r"system\.json"):
        System.load(system.folder)


def test_a_folder_without_a_system_says_where_there_is_one(tmp_path):
    with pytest.raises(SystemFolderError, match="no System at .*run's `winner`"):
        System.load(tmp_path / "nothing")


def test_other_weights_under_the_same_name_are_refused(tiny):
    ref = ref_to(resolve(str(tiny)), str(tiny))
    assert Pool().model(ref, Path("system")).digest == ref.digest
    with pytest.raises(SystemFolderError, match="was made on .* with digest '0000.*climb again"):
        Pool().model(ref.model_copy(update={"digest": "0" * 64}), Path("system"))


def test_a_model_given_by_a_relative_path_is_found_from_elsewhere(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tiny.parent)
    ref = ref_to(resolve("tiny.gguf"), "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    assert Pool().model(ref, Path("system")).gguf == tiny
    assert ref.name == "tiny"


def test_a_base_model_that_is_gone_is_named(tiny, tmp_path):
    gone = tmp_path / "gone.gguf"
    ref = ref_to(resolve(str(tiny)), str(tiny)).model_copy(update={"source": str(gone)})
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        Pool().model(ref, Path("system"))


def test_messages_end_with_the_question_and_hold_the_shots_in_order():
    shots = [Shot(input="a", output="no"), Shot(input="b", output="yes")]
    turns = [(m.role, m.content) for m in messages("Judge.", ROW, shots)]
    assert turns == [
        ("system", "Judge."),
        ("user", "a"),
        ("assistant", "no"),
        ("user", "b"),
        ("assistant", "yes"),
        ("user", "It is.\n\nis it?"),
    ]
    assert [m.role for m in messages(None, ROW)] == ["user"]


def test_a_context_comes_before_the_question_and_after_it_in_a_vector_which_sees_the_first_words_only():
    assert question(ROW) == "It is.\n\nis it?"
    assert embedded_text(ROW) == "is it?\n\nIt is."


def test_json_targets_have_their_keys_in_the_order_of_the_schema_all_the_way_down():
    schema = {
        "properties": {
            "b": {},
            "a": {"items": {"properties": {"y": {}, "x": {}}}},
        }
    }
    value = {"c": 1, "a": [{"x": 1, "y": 2}], "b": None}
    assert answer_text(value, "json", schema=schema) == '{"b":null,"a":[{"y":2,"x":1}],"c":1}'
    assert in_order(value, None) == value
    assert list(in_order({"z": 1, "a": 2}, None)) == ["z", "a"]


@pytest.mark.parametrize(
    ("output", "text"), [(72.0, "72"), (3.8, "3.8"), (-5.0, "-5"), (0.0, "0"), (1e20, "1" + "0" * 20)]
)
def test_a_whole_number_is_written_without_a_fraction(output, text):
    assert answer_text(output, "number") == text


def test_labels_are_written_as_words_unless_two_of_them_would_be_the_same():
    assert label_texts(["card_lost", "card stolen"]) == ["card lost", "card stolen"]
    assert label_texts(["a_b", "a b", "c_d"]) == ["a_b", "a b", "c d"]
    assert answer_text("a_b", "label", labels=("a_b", "c_d")) == "a b"
    assert answer_text("a_b", "label", labels=("a_b", "a b")) == "a_b"


def test_a_head_is_refused_where_another_model_makes_the_sentence_vectors(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(8, 384)).astype(np.float32)
    head = fit_minilm(vectors, ["no", "yes"] * 4, 1.0)
    ref = ModelRef(name="minilm-l6", source="minilm-l6", digest="a" * 64, licence="apache-2.0")
    spec = Spec(
        rung="head",
        task="t",
        kind="label",
        engine="head",
        features="minilm",
        labels=head.labels,
        vectors=ref,
    )
    one = save(tmp_path / "head", spec, head_files(head))
    model = SimpleNamespace(digest="a" * 64)
    embedder = SimpleNamespace(model=model, embed=lambda texts: vectors[: len(texts)])
    pool = Pool(embedder=embedder)  # type: ignore[arg-type]
    assert one.answer([ROW], pool)[0].value in ("no", "yes")
    model.digest = "b" * 64
    with pytest.raises(SystemFolderError, match="made with sentence vectors of 'minilm-l6'"):
        one.answer([ROW], pool)
    moved = spec.model_copy(update={"vectors": ref.model_copy(update={"source": "elsewhere"})})
    assert moved.digest == spec.digest
    assert spec.model_copy(update={"vectors": None}).digest != spec.digest


def test_systems_with_the_same_examples_share_them_in_memory_until_none_needs_them(tiny, tmp_path):
    model = resolve(str(tiny))
    spec = SPEC.model_copy(update={"model": ref_to(model, str(tiny)), "shots": ShotSpec(choice="fixed", k=1)})
    line = json.dumps({"input": "so?", "output": "no"}) + "\n"
    one = save(tmp_path / "one", spec, {SHOTS_FILE: line})
    two = save(tmp_path / "two", spec.model_copy(update={"instruction": "Judge!"}), {SHOTS_FILE: line})
    other = save(tmp_path / "other", spec, {SHOTS_FILE: 2 * line})
    with Pool(models={model.digest: model}) as pool:
        for each in (one, two, other):
            each.prompts([ROW], pool)
        assert sorted(pool.indexes) == sorted({one.shots_key, other.shots_key}) != []
        pool.forget(one, beside=[two, other])
        assert len(pool.indexes) == 2
        pool.forget(two, beside=[other])
        assert list(pool.indexes) == [other.shots_key]


def test_neighbours_come_with_the_nearest_last_and_ties_in_their_stored_order():
    stored = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    assert nearest(np.array([[1.0, 0.0]], dtype=np.float32), stored, 3) == [[2, 3, 0]]
    assert nearest(np.array([[0.0, 1.0]], dtype=np.float32), stored, 9) == [[3, 0, 2, 1]]


def test_neighbours_are_those_of_sorting_all_of_them_the_first_stored_where_they_tie():
    random = np.random.default_rng(0)
    asked, stored = random.integers(-2, 3, (20, 4)), random.integers(-2, 3, (300, 4))
    for k in (1, 7, 300):
        order = np.argsort(-(asked @ stored.T), axis=1, kind="stable")[:, :k]
        assert nearest(asked, stored, k) == order[:, ::-1].tolist()


def test_shots_are_read_back_and_may_lack_vectors(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps({"input": text, "output": "é"}, ensure_ascii=False) + "\n"
    save(tmp_path / "s", SPEC, {SHOTS_FILE: line * 2})
    assert read_index(tmp_path / "s") == ([Shot(input=text, output="é")] * 2, None)


def test_examples_that_make_a_prompt_too_long_are_left_out_farthest_first(tiny):
    model = resolve(str(tiny))
    chat = Pool().chat(model)
    spec = SPEC.model_copy(update={"shots": ShotSpec(choice="fixed", k=3)})
    shots = [Shot(input=f"{word} " * 20, output="no") for word in ("far", "middle", "near")]
    whole = len(prompts_for(spec, chat, [ROW], [shots], 10_000)[0])
    alone = prompts_for(spec, chat, [ROW], [[]], 10_000)[0]
    (cut,) = prompts_for(spec, chat, [ROW], [shots], whole - 1)
    (two,) = prompts_for(spec, chat, [ROW], [shots[1:]], 10_000)
    assert cut == two
    assert prompts_for(spec, chat, [ROW], [shots], 5) == [alone]


def test_what_never_fits_is_made_a_prompt_with_its_examples_and_without_alone(tiny, monkeypatch):
    chat, rendered = Pool().chat(resolve(str(tiny))), []
    render = Chat.render

    def counted(self, *told, **options):
        rendered.append(told)
        return render(self, *told, **options)

    monkeypatch.setattr(Chat, "render", counted)
    shots = [Shot(input=f"row {at}", output="no") for at in range(8)]
    (prompt,) = prompts_for(SPEC, chat, [ROW], [shots], 5)
    assert len(rendered) == 2
    assert [prompt] == prompts_for(SPEC, chat, [ROW], [[]], 5)


def test_labels_that_start_alike_can_be_told_apart(tiny):
    chat = Pool().chat(resolve(str(tiny)))
    spec = SPEC.model_copy(
        update={"labels": ("card", "card lost", "card_lost"), "answer": AnswerSpec(form="words")}
    )
    assert len(set(candidates(spec, chat))) == 3


def fake(answer: str) -> FakeEngine:
    """An engine that completes every prompt of (1,) with a text."""
    return FakeEngine(EngineSpec(engine="fake", context=64), answers={(1,): tuple(answer.encode())})


LINES = {
    "$defs": {"line": {"type": "object", "properties": {"name": {}, "qty": {}}, "required": ["name"]}},
    "properties": {
        "first": {"$ref": "#/$defs/line"},
        "lines": {"items": {"anyOf": [{"type": ["null", "string"]}, {"$ref": "#/$defs/line"}]}},
        "pair": {
            "prefixItems": [{"properties": {"y": {}, "x": {}}}],
            "items": {"properties": {"b": {}, "a": {}}},
        },
        "kind": {
            "oneOf": [
                {"properties": {"b": {}, "a": {}}, "additionalProperties": False},
                {"properties": {"c": {}, "b": {}}, "required": ["c"]},
            ]
        },
        "all": {"allOf": [{"properties": {"z": {}}}, {"properties": {"y": {}}}], "properties": {"x": {}}},
        "loop": {"$ref": "#/properties/loop"},
    },
}


@pytest.mark.parametrize(
    ("value", "ordered"),
    [
        ({"first": {"qty": 1, "name": "a"}}, {"first": {"name": "a", "qty": 1}}),
        ({"lines": [None, {"qty": 1, "name": "a"}]}, {"lines": [None, {"name": "a", "qty": 1}]}),
        ({"pair": [{"x": 1, "y": 2}, {"a": 1, "b": 2}]}, {"pair": [{"y": 2, "x": 1}, {"b": 2, "a": 1}]}),
        ({"kind": {"b": 1, "c": 2}}, {"kind": {"c": 2, "b": 1}}),
        ({"kind": {"a": 1, "b": 2}}, {"kind": {"b": 2, "a": 1}}),
        ({"all": {"x": 1, "y": 2, "z": 3}}, {"all": {"z": 3, "y": 2, "x": 1}}),
        ({"loop": {"b": 1, "a": 2}}, {"loop": {"b": 1, "a": 2}}),
    ],
)
def test_json_targets_are_in_the_order_that_constrained_decoding_keeps(value, ordered):
    text = answer_text(value, "json", schema=LINES)
    assert text == json.dumps(ordered, separators=(",", ":"))
    (name,) = value
    part = LINES["properties"][name]
    if name == "loop" or "oneOf" in part:
        return  # llguidance takes neither
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    schema = {"$defs": LINES["$defs"], "type": "object", "properties": {name: part}, "required": [name]}
    matcher = Grammars(tokenizer, len(letters), (0,)).matcher(
        Request(prompt=(1,), max_tokens=99, schema=schema)
    )
    assert matcher is not None and matcher.consume_tokens(tokenizer.encode(text).ids)
    assert matcher.is_accepting()


@pytest.mark.parametrize(("number", "text"), [(5e-05, "0.00005"), (1.5, "1.5"), (1e22, "1" + "0" * 22)])
def test_numbers_are_written_without_an_exponent(number, text):
    assert answer_text(number, "number") == text


def asked(spec: Spec, engine, prompt=(1,)):
    class NoStop:
        stop_ids = ()

        def stop_strings(self, style):
            return ()

        def answer_ids(self, text, style):
            return tuple(text.encode())

    (answer,) = ask(spec, NoStop(), engine, [prompt])  # type: ignore[arg-type]
    return answer


def test_a_free_answer_is_read_as_the_tasks_kind():
    free = SPEC.model_copy(update={"answer": AnswerSpec(form="free", max_tokens=40)})
    answer = asked(free, fake("The answer is: Yes."))
    assert (answer.text, answer.value, answer.failure) == ("The answer is: Yes.", "yes", None)
    assert answer.completion_tokens == 19
    assert asked(free, fake("I can't say")).value is None


def test_a_label_counts_as_written_with_its_own_tokens_whatever_was_evaluated_for_it():
    answer = asked(SPEC.model_copy(update={"answer": AnswerSpec(form="words")}), fake("yes"))
    assert answer.completion_tokens == len(answer.text)


def test_a_number_that_was_cut_off_is_no_answer():
    spec = SPEC.model_copy(update={"kind": "number", "answer": AnswerSpec(form="free", max_tokens=2)})
    whole = spec.model_copy(update={"answer": AnswerSpec(form="free", max_tokens=9)})
    assert (asked(spec, fake("1234")).text, asked(spec, fake("1234")).value) == ("12", None)
    assert asked(whole, fake("1234")).value == 1234


def test_a_chosen_label_comes_with_probabilities_of_the_five_likeliest():
    labels = tuple("abcdefg")
    spec = SPEC.model_copy(update={"labels": labels, "answer": AnswerSpec(form="words")})
    answer = asked(spec, fake("d"))
    assert answer.value == "d" and answer.probability == pytest.approx(1.0, abs=1e-6)
    assert len(answer.options) == 5 and answer.options[0] == ("d", answer.probability)


def test_a_broken_call_is_an_answer_with_a_failure_and_no_value():
    free = SPEC.model_copy(update={"answer": AnswerSpec(form="free", max_tokens=4)})
    for spec in (free, SPEC.model_copy(update={"answer": AnswerSpec(form="words")})):
        answer = asked(spec, fake("yes"), prompt=(1,) * 100)
        assert answer.failure is not None and answer.value is None


class Halves:
    """An engine whose answer holds half of a surrogate pair."""

    name = "fake"

    def generate(self, requests, *, progress=None):
        return [
            Completion(text="a\ud83d", tokens=(1, 2), logprob=0.0, prompt_tokens=1, latency_s=0.0)
            for _ in requests
        ]


def test_half_a_character_in_an_answer_becomes_one_that_a_file_can_hold():
    spec = SPEC.model_copy(update={"kind": "text", "labels": (), "answer": AnswerSpec(form="free")})
    assert asked(spec, Halves()).text == "a?"


class Counted:
    """An engine that only counts how often it was closed."""

    def __init__(self, fails=False):
        self.closed, self.fails = 0, fails

    def close(self):
        self.closed += 1
        if self.fails:
            raise EngineError("won't close")


def test_leaving_a_pool_closes_every_engine_also_after_an_error_and_when_one_refuses():
    first, second = Counted(fails=True), Counted()
    pool = Pool()
    pool.engines = {EngineSpec(engine="fake"): first, EngineSpec(engine="fake", context=1): second}  # type: ignore[dict-item]
    with pytest.raises(EngineError, match="won't close"), pool:
        raise ZeroDivisionError
    assert (first.closed, second.closed, pool.engines) == (1, 1, {})


def test_the_engine_that_was_not_asked_for_longest_makes_room():
    specs = [EngineSpec(engine="fake", context=n) for n in (10, 11, 12)]
    with Pool(keep=2) as pool:
        pool.engine(specs[0])
        pool.engine(specs[1])
        pool.engine(specs[0])
        pool.engine(specs[2])
        assert list(pool.engines) == [specs[0], specs[2]]


def test_the_context_is_the_models_own_where_that_is_shorter(tiny):
    model = resolve(str(tiny))
    assert context_of(model) == model.context == 512


def test_a_file_beside_the_adapter_that_the_system_doesnt_name_is_refused(tmp_path):
    spec = Spec(rung="sft", task="t", kind="text", engine="torch")
    made = save(tmp_path / "s", spec, {"adapter/adapter_config.json": "{}"})
    (made.folder / "adapter" / ".hidden").touch()
    assert System.load(made.folder).spec == made.spec
    (made.folder / "adapter" / "model.safetensors").touch()
    with pytest.raises(SystemFolderError, match=r"adapter/model\.safetensors' is no file of the System"):
        System.load(made.folder)
