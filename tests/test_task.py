import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from rung.errors import DataError, RungError, TaskError
from rung.records import Example, Json
from rung.scoring.scorers import SCORERS
from rung.task import DataFiles, Output, Task, as_kind, infer, is_of_kind, load_task, settle_kind, shown
from rung.task.complete import METRICS
from rung.task.schemas import infer_schema, is_inferred

ROWS = '{"input": "a", "output": "b"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "tickets"
    home.mkdir()
    (home / "rows.jsonl").write_text(ROWS)
    return home


def write(folder: Path, text: str) -> Path:
    file = folder / "task.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def fault(folder: Path, text: str) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(write(folder, text))
    return str(caught.value)


def rows(*outputs: Json) -> list[Example]:
    return [
        Example(id=str(n), input=f"question {n}", output=output, where=f"rows.jsonl:{n}")
        for n, output in enumerate(outputs, start=1)
    ]


def task(**output: object) -> Task:
    return Task(data=DataFiles(train=Path("rows.jsonl")), output=Output.model_validate(output))


def settled(asked: Task, rows: list[Example]) -> tuple[Task, tuple[str, ...]]:
    kind, on_kind = settle_kind(asked, rows)
    completed, notes = infer(kind, rows)
    return completed, (*on_kind, *notes)


def test_a_task_needs_only_its_data(folder: Path) -> None:
    read = load_task(write(folder, "data: {train: rows.jsonl}"))
    assert read.name == "tickets"
    assert read.data.train == folder / "rows.jsonl"
    assert read.models == ("smollm2-135m",)
    assert (read.metric, read.output.kind, read.seed) == (None, None, 0)


def test_a_task_folder_a_task_file_and_a_bare_data_file_are_the_same_task(folder: Path) -> None:
    file = write(folder, "data: {train: rows.jsonl}")
    assert load_task(folder) == load_task(file) == load_task(folder / "rows.jsonl")


def test_a_bare_data_file_is_named_after_its_stem(folder: Path) -> None:
    (folder / "My mails (new).jsonl").write_text(ROWS)
    assert load_task(folder / "My mails (new).jsonl").name == "My-mails-new"


def test_paths_are_relative_to_the_task_file_and_the_test_argument_to_the_caller(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "t.jsonl").write_text(ROWS)
    monkeypatch.chdir(folder.parent)
    write(folder, "data: {train: ../tickets/rows.jsonl}")
    read = load_task(Path("tickets"), test=Path("t.jsonl"))
    assert read.data.test == folder.parent / "t.jsonl"
    assert read.data.train.is_absolute()


def test_every_key_can_be_given(folder: Path) -> None:
    (folder / "schema.json").write_text('{"type": "object"}')
    read = load_task(
        write(
            folder,
            """
name: receipts
about: read it
data: {train: rows.jsonl, test: rows.jsonl, documents: ., format: io}
output: {kind: json, schema: schema.json}
metric: exact
models: gemma-3-270m
teacher: openai:x
limits: {p95_ms: 3e2, memory_mb: 600}
volume: 12,000/year
machine_usd_per_hour: 0.5
seed: 7
""",
        )
    )
    assert read.output.json_schema == {"type": "object"}
    assert read.models == ("gemma-3-270m",)
    assert read.limits.p95_ms == 300
    assert read.answers_per_month == pytest.approx(1000)


@pytest.mark.parametrize(
    ("volume", "per_month"), [("100000/month", 100_000), ("12/year", 1), ("4 / day", 121.75), (50, 50)]
)
def test_a_volume_is_counted_per_month(volume: object, per_month: float) -> None:
    read = Task.model_validate({"data": {"train": "x"}, "volume": volume})
    assert read.answers_per_month == pytest.approx(per_month)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metirc: exact\ndata: {train: rows.jsonl}", "unknown key 'metirc'; did you mean 'metric'?"),
        ("data: {trian: rows.jsonl}", "unknown key 'data.trian'; did you mean 'train'?"),
        ("data: {train: rows.jsonl}\noutput: {json_schema: {}}", "did you mean 'schema'?"),
        ("data: {train: rows.jsonl}\nzzz: 1", "known here: name, about, data"),
        ("about: x", "key 'data' is missing"),
        ("data: rows.jsonl", "data: needs keys and values: train, test"),
        ("data: {train: rows.json}", "did you mean 'rows.jsonl'?"),
        ("data: {train: rows.jsonl, test: no/x.jsonl}", "data.test: no such file"),
        ("data: {train: rows.jsonl}\nseed: -1", "seed: should be greater than or equal to 0, not -1"),
        ("data: {train: rows.jsonl}\nseed: true", "seed: should be a valid integer, not True"),
        ("data: {train: rows.jsonl}\nvolume: lots", "such as 100000/month, not 'lots'"),
        ("data: {train: rows.jsonl}\nvolume: 0", "a count above 0"),
        ("data: {train: rows.jsonl}\nmodels: []", "models: needs at least 1, not []"),
        ("data: {train: rows.jsonl}\nname: ../up", "use letters, digits"),
        ("data: {train: rows.jsonl}\nmetric: judge", "judge: metric judge needs one; write judge: {model: "),
        ("data: {train: rows.jsonl}\njudge: {model: openai:x}", "metric judge, and metric is left out"),
        ("data: {train: rows.jsonl}\nmetric: judge\njudge: {}", "'judge.model' is missing; write 'judge: {"),
        (
            "data: {train: rows.jsonl}\nprices: {input_usd_per_m: 1}",
            "'prices.output_usd_per_m' is missing; write 'prices: {input_usd_per_m: ",
        ),
        ("data: {test: rows.jsonl}", "key 'data.train' is missing; write 'data: {train: "),
        ("data: {train: rows.jsonl}\nmetric: judge\njudge: {modle: x}", "did you mean 'model'?"),
        ("data: {train: rows.jsonl}\nmetric: judge\njudge: x", "judge: needs keys and values: model, rubric"),
        ("data: {train: rows.jsonl, database: rows.jsonl}", "data.database: no SQLite file"),
        ("data: {train: rows.jsonl, database: no.db}\nmetric: execution", "data.database: no such file"),
        ("data: {train: rows.jsonl}\nmachine_usd_per_hour: inf", "finite number"),
        ("data: {train: rows.jsonl}\ntuning: {methud: dora}", "did you mean 'method'?"),
        ("data: {train: rows.jsonl}\ntuning: {method: lara}", "tuning.method"),
        ("data: {train: rows.jsonl}\ntuning: {rank: 0}", "tuning.rank: should be greater than or equal to 1"),
        ("data: {train: rows.jsonl}\ntuning: {rank: 16.0}", "tuning.rank: should be a valid integer"),
        ("data: {train: rows.jsonl}\noutput: {labels: [a, b, a]}", "listed twice: 'a'"),
        ("data: {train: rows.jsonl}\noutput: {kind: text, labels: [a, b]}", "labels belong to kind label"),
        ("data: {train: rows.jsonl}\noutput: {kind: label, schema: {}}", "a schema belongs to kind json"),
        ("data: {train: rows.jsonl}\noutput: {schema: no.json}", "output.schema: no such file"),
        ("data: {train: rows.jsonl}\noutput: {schema: rows.jsonl}", "needs to be"),
        ("data: {train: rows.jsonl}\noutput: {schema: {type: objekt}}", "not a valid JSON Schema: at type"),
        ("data: {train: rows.jsonl}\noutput: {schema: {$ref: 'http://a/b'}}", "points outside the schema"),
        ("data: {train: rows.jsonl}\noutput: {schema: 3}", "name a file or write the schema itself"),
        (
            'data: {train: rows.jsonl}\noutput: {schema: \'{"description": "' + "x" * 300 + "\"}'}",
            "name a file or write the schema itself as keys",
        ),
        ('data: {train: rows.jsonl}\noutput: {schema: {title: "\\ud83d"}}', "holds half a character"),
        (
            "data: {train: rows.jsonl}\noutput: {schema: "
            "{$schema: 'http://json-schema.org/draft-04/schema#', patternProperties: {'\\p{L}': {}}}}",
            "can't be read (bad escape \\p at position 0)",
        ),
        ("data: {train: rows.jsonl}\noutput: {schema: half.json}", "holds half a character"),
        ("data: {train: rows.jsonl}\noutput: {schema: nan.json}", "NaN is no JSON value"),
        ("a: 1\na: 2", "task.yaml:2: not valid YAML: key 'a' twice"),
        ("data: {train: a, train: b}", "key 'train' twice"),
        ("- 1", "must be keys and values"),
        ("", "must be keys and values"),
        ("a: [", "not valid YAML"),
        ("a: &x [1]\nb: [*x, *x]", "task.yaml:2: aliases (*name) are not read"),
        ("a: !!python/object/apply:os.system [ls]", "tags (!name) are not read"),
        ("? [1]\n: 2", "a key must be a word"),
        ("[" * 100, "nested deeper than 64 levels"),
        ("a: " + "x" * 300_000, "larger than 262144 bytes"),
    ],
)
def test_a_faulty_task_file_is_refused_in_words(folder: Path, text: str, said: str) -> None:
    if said == "needs to be":
        (folder / "rows.jsonl").write_text("[1]")
        said = "a JSON Schema is an object, not list"
    (folder / "half.json").write_text('{"description": "\\ud83d"}')
    (folder / "nan.json").write_text('{"minimum": NaN}')
    message = fault(folder, text)
    assert said in message
    assert "Traceback" not in message


def test_each_fault_has_a_line_of_its_own(folder: Path) -> None:
    lines = fault(folder, "data: {train: rows.jsonl}\nmetirc: 1\nseed: x\nlimits: {p95_ms: -1}").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(folder / "task.yaml")) for line in lines)


def test_yes_no_and_clock_times_are_words_as_in_yaml_1_2(folder: Path) -> None:
    text = "data: {train: rows.jsonl}\noutput: {labels: [yes, no, 1:30, 2020-01-01, 007, 1, true]}"
    labels = load_task(write(folder, text)).output.labels
    assert labels == ("yes", "no", "1:30", "2020-01-01", "007", "1", "true")


def test_a_name_that_is_no_utf_8_is_refused(folder: Path) -> None:
    other = folder / os.fsdecode(b"caf\xe9.jsonl")
    other.write_text(ROWS)
    with pytest.raises(TaskError, match="caf.udce9.jsonl' isn't UTF-8; rename that file or folder"):
        load_task(other)
    with pytest.raises(TaskError, match="isn't UTF-8"):
        load_task(folder / "rows.jsonl", test=other)


def test_a_missing_path_names_the_nearest_file(folder: Path) -> None:
    with pytest.raises(TaskError, match="did you mean 'rows.jsonl'"):
        load_task(folder / "row.jsonl")
    with pytest.raises(TaskError, match="no task.yaml in this folder"):
        load_task(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200) | st.text(alphabet="data:{train} [],&*!-\n'\"01e.", max_size=60).map(str.encode)
)
def test_only_a_rung_error_escapes_from_any_task_file(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "task.yaml"
    file.write_bytes(raw)
    with contextlib.suppress(RungError):
        load_task(file)


def test_a_task_is_frozen_and_every_key_is_explained_in_its_json_schema() -> None:
    made = task()
    with pytest.raises(ValidationError):
        made.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    schema = Task.model_json_schema()
    Draft202012Validator.check_schema(schema)
    keys = [schema["properties"], *(part["properties"] for part in schema["$defs"].values())]
    assert sum(map(len, keys)) == 15 + 6 + 3 + 4 + 3 + 2 + 3
    assert all("description" in key or "$ref" in key for part in keys for key in part.values())
    assert "schema" in schema["$defs"]["Output"]["properties"]


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        (["a", "b", "a", "b"], "label"),
        (["spam", "ham"] * 5 + ["rare"], "label"),
        ([0, 1] * 10, "label"),
        ([True, False] * 5, "label"),
        (["1", "2", "3", "4", "5"] * 10, "label"),
        (["1.5", "2.0", "1.5", "2.0"], "number"),
        (list(range(40)), "number"),
        ([3, 4.5, 3, 4.5], "number"),
        (["a", "b", "c", "d"], "text"),
        (["a" * 61, "b"] * 5, "text"),
        (["one\ntwo", "b"] * 5, "text"),
        ([f"intent {n}" for n in range(301)] * 4, "text"),
        ([{"a": 1}, {"a": 2}], "json"),
        ([[1], []], "json"),
        (['{"a": 1}', ' {"b": 2}'], "json"),
        (["[1]", "[2]", "[3]"], "text"),
        (['{"a": NaN}', '{"a": 1}', "x"], "text"),
        ([{"a": 1}, '{"a": 2}'], "json"),
        ([0.0, 1.0] * 10, "label"),
        (["0.0", "1.0"] * 10, "label"),
        ([float(n) for n in range(40)], "number"),
        (["06550", "10115", "06550", "80331"] * 5, "label"),
        ([f"{n * 997 % 100000:05}" for n in range(60)], "text"),
        ([*map(str, range(1, 100)), "05"], "number"),
    ],
)
def test_the_kind_is_seen_from_the_outputs(outputs: list[Json], kind: str) -> None:
    completed, notes = settled(task(), rows(*outputs))
    assert completed.output.kind == kind
    assert completed.metric == METRICS[completed.output.kind][0]
    assert notes[0].startswith(f"output.kind = {kind} (")


SPOILED: list[tuple[list[Json], Json, str]] = [
    ([json.dumps({"n": n}) for n in range(40)], '{"n": 4', "json"),
    ([{"n": n} for n in range(40)], "n is 4", "json"),
    ([f"{n}.5" for n in range(40)], "N/A", "number"),
    ([n % 30 for n in range(120)], "N/A", "number"),
    (["spam", "ham"] * 20, "This one is spam, since it wants me to call a number that is dear", "label"),
    (["yes", "no"] * 20, "yes\nor no", "label"),
]


@pytest.mark.parametrize(("outputs", "odd", "kind"), SPOILED)
def test_one_answer_of_another_kind_does_not_change_the_kind(
    outputs: list[Json], odd: Json, kind: str
) -> None:
    made = rows(*outputs[:7], odd, *outputs[7:])
    completed, notes = settled(task(), made)
    assert completed.output.kind == settled(task(), rows(*outputs))[0].output.kind == kind
    assert [row.where for row in made if not is_of_kind(completed, row)] == ["rows.jsonl:8"]
    assert f"{len(outputs)} of {len(made)} outputs are of kind {kind}, rows.jsonl:8 " in notes[0]


@pytest.mark.parametrize("numbers", [15, 19, 40])
def test_few_outputs_that_are_alike_do_not_outweigh_the_others(numbers: int) -> None:
    odd = ["N/A", "none", "-"] if numbers == 40 else ["N/A"]
    completed, notes = settled(task(), rows(*(f"{n}.5" for n in range(numbers)), *odd))
    assert completed.output.kind == "text"
    assert f"{numbers} of {numbers + len(odd)} outputs are of kind number, rows.jsonl:" in notes[0]


def test_a_kind_that_is_given_takes_long_labels() -> None:
    made = rows(*SPOILED[4][0], SPOILED[4][1])
    completed, _ = settled(task(kind="label"), made)
    assert len(completed.output.labels or ()) == 3 and all(is_of_kind(completed, row) for row in made)
    assert settled(task(kind="text"), made)[0].output.kind == "text"


@pytest.mark.parametrize(
    "outputs",
    [
        [f"+4917112345{n:02d}" for n in range(40)],
        [f"94001102008812345{n:05d}" for n in range(40)],
        [9400110200881234500001 + n for n in range(40)],
    ],
)
def test_digits_that_a_number_would_not_keep_are_text(outputs: list[Json]) -> None:
    settled_task, notes = settle_kind(task(), rows(*outputs))
    assert settled_task.output.kind == "text" and "they are codes" in notes[0]


@pytest.mark.parametrize("outputs", [[f"+{n}" for n in range(40)], [10**15 + n for n in range(40)]])
def test_digits_that_a_number_keeps_are_numbers(outputs: list[Json]) -> None:
    assert settle_kind(task(), rows(*outputs))[0].output.kind == "number"


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([1, 2, 3] * 10, "they are whole numbers: write 'output: {kind: number}' if nearness counts"),
        ([1.0, 2.0] * 10, "they are whole numbers: write 'output: {kind: number}' if nearness counts"),
        ([0.5, 1.0] * 10, "only 2 different numbers: write 'output: {kind: label}' if they name classes"),
        ([n % 30 for n in range(120)], "only 30 different numbers: write 'output: {kind: label}' if they"),
        (["06550", "10115"] * 10, "codes (a zero or plus in front, or more digits than a number keeps): "),
        (
            [*(f"{n}.5" for n in range(30)), *"abcde"],
            "30 of 35 outputs are of kind number, rows.jsonl:31 'a'",
        ),
        (
            [*('{"a": 1}' for _ in range(30)), *"abcde"],
            "isn't: write 'output: {kind: json}' if all should be",
        ),
    ],
)
def test_what_outputs_may_be_meant_as_is_said(outputs: list[Json], said: str) -> None:
    assert said in settle_kind(task(), rows(*outputs))[1][0]


def test_numbers_that_are_all_different_need_no_hint() -> None:
    assert settle_kind(task(), rows(*range(40)))[1] == (
        "output.kind = number (40 distinct outputs in 40 rows)",
    )


def test_what_was_inferred_is_said_in_sentences() -> None:
    completed, notes = settled(task(), rows(*["DESC", "ENTY", "DESC"] * 1000))
    assert completed.output.labels == ("DESC", "ENTY")
    assert notes == (
        "output.kind = label (2 distinct outputs in 3,000 rows)",
        "output.labels = 2 labels, the most frequent 'DESC' in 67% of the rows",
        "metric = accuracy (the usual one for label)",
        "volume = 100000/month (not given; it only weighs costs)",
    )


def test_what_was_given_is_kept_and_not_said() -> None:
    asked = Task.model_validate(
        {"data": {"train": "x"}, "output": {"labels": ["b", "a"]}, "metric": "macro_f1", "volume": 5}
    )
    completed, notes = settled(asked, rows("a", "b"))
    assert (completed.output.labels, completed.metric) == (("b", "a"), "macro_f1")
    assert notes == ("output.kind = label (labels are listed)",)


def test_sql_is_answered_as_its_nearest_kind_and_it_is_said() -> None:
    completed, notes = settled(task(kind="sql"), rows('{"a": 1}', '{"a": 2}'))
    assert completed.output.kind == "text"
    assert "'sql' is answered as text" in notes[0]


@pytest.mark.parametrize(
    ("made", "outputs", "said"),
    [
        (task(), ["spam"] * 5, "every row has the output 'spam'"),
        (
            task(labels=["spam", "ham"]),
            ["spam", "hamm"],
            "rows.jsonl:2: output 'hamm' is not .*nearest: 'ham'",
        ),
        (task(kind="label"), ["a", {"b": 1}], "rows.jsonl:2: output {'b': 1} is no label"),
        (task(), [{"a": 1}, "b"], "rows.jsonl:2: output 'b' is neither an object nor a list"),
        (task(kind="json"), ["a", "b"], "rows.jsonl:1: output 'a' is no JSON object"),
        (task(), [], "rows.jsonl: no rows; name a file that holds some$"),
    ],
)
def test_rows_that_make_no_task_are_refused_in_words(made: Task, outputs: list[Json], said: str) -> None:
    with pytest.raises(DataError, match=said):
        settled(made, rows(*outputs))


def test_a_metric_that_does_not_fit_the_kind_is_refused() -> None:
    asked = Task.model_validate({"data": {"train": "x"}, "metric": "mae"})
    with pytest.raises(TaskError, match="choose from accuracy, macro_f1, exact"):
        settled(asked, rows("a", "b", "a", "b"))


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (" spam ", "label", "spam"),
        (True, "label", "true"),
        (3, "label", "3"),
        ("  ", "label", None),
        (" -1.5e2 ", "number", -150.0),
        ("1_000", "number", None),
        ("nan", "number", None),
        ("1e999", "number", None),
        (10**400, "number", None),
        (True, "number", None),
        ('{"a": [1]}', "json", {"a": [1]}),
        ('{"a": 1e999}', "json", None),
        ('{"a": "\\ud800"}', "json", None),
        ("[" * 100 + "]" * 100, "json", None),
        ("[" * 100_000, "json", None),
        ("3", "json", None),
        (" as it is ", "text", " as it is "),
        (4.5, "text", "4.5"),
        ({"a": 1}, "text", None),
    ],
)
def test_an_output_is_read_as_its_kind_or_not_at_all(value: Json, kind: str, read: Json) -> None:
    assert as_kind(value, kind) == read  # pyright: ignore[reportArgumentType]


def test_a_long_value_is_cut_in_a_message() -> None:
    assert shown("x" * 200) == "'" + "x" * 78 + "…"
    assert len(shown("x" * 200)) == 80


def test_the_inferred_schema_knows_required_keys_enums_and_nesting() -> None:
    values: list[Json] = [
        {"intent": ["play", "stop"][n % 2], "slots": {"artist": [f"name {n}"]} if n % 3 else {}, "n": n}
        for n in range(60)
    ]
    schema = infer_schema(values)
    assert is_inferred(schema)
    assert schema["required"] == ["intent", "slots", "n"]
    assert schema["properties"]["intent"] == {"type": "string", "enum": ["play", "stop"]}
    assert schema["properties"]["n"] == {"type": "integer"}
    slots = schema["properties"]["slots"]
    assert (slots["required"], slots["additionalProperties"]) == ([], False)
    assert slots["properties"]["artist"] == {"type": "array", "items": {"type": "string"}}


def test_a_string_with_values_seen_once_is_no_enum() -> None:
    values: list[Json] = [{"a": "x"}] * 30 + [{"a": "once"}]
    assert infer_schema(values)["properties"]["a"] == {"type": "string"}


def test_objects_with_many_passing_keys_are_maps() -> None:
    schema = infer_schema([{f"key {n}": n} for n in range(100)])
    assert schema["additionalProperties"] == {"type": "integer"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), json_values, max_size=3), min_size=1, max_size=30))
def test_the_inferred_schema_is_valid_and_accepts_every_value_that_it_was_made_from(
    values: list[Json],
) -> None:
    schema = infer_schema(values)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert all(validator.is_valid(value) for value in values)
    json.dumps(schema)


def test_the_metrics_of_each_kind_are_those_whose_scorers_take_it() -> None:
    for kind, metrics in METRICS.items():
        assert set(metrics) == {name for name, scorer in SCORERS.items() if kind in scorer.kinds}
