import csv
import json
import re
import stat
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.cli.main import run
from rung.cli.redaction import redaction_lines
from rung.data.keys import keys
from rung.data.personal import personal
from rung.data.redact import MAP_FILE, Redactor, read_roster, redact
from rung.data.rows import read_rows
from rung.errors import DataError

MAIL, CARD, TOKEN = "anna@mail.example.org", "4111 1111 1111 1111", "ghp_" + "a1B2c3D4e5F6" * 3


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_value_has_one_placeholder_in_all_files_and_the_sources_stay(tmp_path: Path) -> None:
    train = lines(
        tmp_path / "train.jsonl",
        [{"input": f"mail {MAIL}", "output": "b@c.org"}, {"input": "x", "output": MAIL}],
    )
    test = lines(tmp_path / "test.jsonl", [{"input": "B@c.org or d@e.org", "output": 1.5}])
    before = train.read_bytes(), test.read_bytes()
    done = redact([train, test], tmp_path / "out")
    assert [[row for _, row in read_rows(path)] for path in done.copies] == [
        [{"input": "mail [EMAIL_1]", "output": "[EMAIL_2]"}, {"input": "x", "output": "[EMAIL_1]"}],
        [{"input": "[EMAIL_2] or [EMAIL_3]", "output": 1.5}],
    ]
    assert (train.read_bytes(), test.read_bytes()) == before
    assert (done.rows, done.replaced, done.left_out) == (3, (("e-mail address", 5),), ())


def test_only_the_owner_can_read_what_the_placeholders_stand_for(tmp_path: Path) -> None:
    done = redact(
        [lines(tmp_path / "rows.jsonl", [{"input": MAIL, "output": f"pay {CARD}"}])], tmp_path / "out"
    )
    assert done.placeholders == tmp_path / "out" / MAP_FILE
    assert stat.S_IMODE(done.placeholders.stat().st_mode) == 0o600
    assert json.loads(done.placeholders.read_text()) == {"[EMAIL_1]": MAIL, "[CARD_1]": CARD}


def test_turns_nested_json_json_as_text_and_numbers_are_all_looked_into() -> None:
    row = {
        "messages": [{"role": "user", "content": f"I'm {MAIL}"}],
        "output": {"calls": [{"to": MAIL, "card": 4111111111111111, "n": 7}], MAIL: True},
        "text": json.dumps({"mail": MAIL, "card": 4111111111111111, "note": 'a "quoted" word'}),
        "meta": {"group": MAIL},
        "none": None,
    }
    redactor = Redactor()
    assert redactor.row(row) == {
        "messages": [{"role": "user", "content": "I'm [EMAIL_1]"}],
        "output": {"calls": [{"to": "[EMAIL_1]", "card": "[CARD_1]", "n": 7}], "[EMAIL_1]": True},
        "text": json.dumps({"mail": "[EMAIL_1]", "card": "[CARD_1]", "note": 'a "quoted" word'}),
        "meta": {"group": "[EMAIL_1]"},
        "none": None,
    }
    assert redactor.text(CARD.replace(" ", "-")) == "[CARD_1]"


def test_numbers_under_a_password_are_replaced_and_json_that_is_text_stays_json() -> None:
    redactor = Redactor()
    row = {
        "output": {"passcode": 482133, "n": 482133, "new password": 20241105, "password": 1},
        "arguments": '{"passcode": 482133, "n": 1}',
        "passwort": 482133.0,
    }
    assert redactor.row(row) == {
        "output": {"passcode": "[SECRET_1]", "n": 482133, "new password": "[SECRET_2]", "password": 1},
        "arguments": '{"passcode": "[SECRET_1]", "n": 1}',
        "passwort": "[SECRET_1]",
    }


def test_words_nearby_tell_in_json_that_is_text_what_stands_between_quotes_and_nothing_else() -> None:
    redactor = Redactor()
    assert redactor.value('{"type": "phone", "value": "020 7946 0958", "n": "x"}') == (
        '{"type": "phone", "value": "[PHONE_1]", "n": "x"}'
    )
    for text in ('{"call": 4155552671}', '{"password": 1234.5}', '{"a": "the passcode", "is": 482133}'):
        assert redactor.value(text) == text
    for text in (r'{"a": "password: [SECRET_1]\"x"}', r'{"a": "password: $NAME\nnext"}'):
        assert redactor.value(text) == text, "what an escape spells is no part of a value"
    assert dict(redactor.replaced) == {"telephone number": 1}


WORDS = st.sampled_from(["password", "new password", "phone", "call", "my SSN", "note\t", 'a "b"', "é"])
VALUES = st.one_of(
    st.sampled_from([482133, 4155552671, 1234.5, 219099999, True, None, "call", "password:", "Anna"]),
    st.sampled_from([MAIL, CARD, "020 7946 0958", "\n219 09 9999", "219099999", 'x"\\', "\x07Anna é"]),
)


NESTED = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4)
)


@given(NESTED)
@settings(deadline=None, max_examples=200)
def test_json_that_is_text_is_json_whatever_is_replaced_in_it(value: object) -> None:
    for text in (json.dumps([value]), json.dumps([value], ensure_ascii=False)):
        redactor = Redactor(["Anna"])
        made = redactor.value(text)
        assert isinstance(made, str)
        assert len(json.loads(made)) == 1
        assert Redactor().value(made) == made
        assert not any(said in made for said in (MAIL, CARD, "Anna"))


def test_a_name_that_is_a_placeholders_word_does_no_harm() -> None:
    redactor = Redactor(["Name", "Email Card"])
    assert redactor.text(f"card of {MAIL} by name") == "[NAME_1] of [EMAIL_1] by [NAME_2]"


def test_keys_that_differ_by_case_are_two_values() -> None:
    redactor = Redactor()
    other = TOKEN.swapcase().replace("GHP", "ghp")
    assert redactor.text(f"{TOKEN} {other}") == "[SECRET_1] [SECRET_2]"
    assert list(redactor.values.values()) == [TOKEN, other]


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Anna Schmidt's card", "[NAME_1]'s card"),
        ("ANNA\u2019S and schmidt", "[NAME_1]\u2019S and [NAME_1]"),
        ("Schmidt, Anna", "[NAME_1], [NAME_1]"),
        ("anna_schmidt99", "[NAME_1]99"),
        ("Susanna Schmidtke", "Susanna Schmidtke"),
        ("Jose and JOS\u00c9 and Jose\u0301", "[NAME_1] and [NAME_1] and [NAME_1]"),
        ("Ortega from Ruiz", "[NAME_1] from [NAME_1]"),
        ("Mr O\u2019Brien said", "Mr [NAME_1] said"),
        ("Li is here, and so is an owl", "[NAME_1] is here, and so is an owl"),
        ("my friend Lee, not lee Adams", "my friend [NAME_1], not [NAME_2]"),
        ("de facto", "de facto"),
    ],
)
def test_names_go_whole_and_in_parts_whatever_their_case(text: str, redacted: str) -> None:
    names = [
        "Anna Schmidt",
        "Jos\u00e9 Ortega-Ruiz",
        "Pat O'Brien",
        "Li",
        "An Nguyen",
        "Lee",
        "Lee Adams",
        "Jan de Wit",
    ]
    assert Redactor(names).text(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("张伟今天没来，请通知王小明。", "[NAME_1]今天没来，请通知[NAME_2]。"),
        ("山田太郎さん、山田・太郎、太郎", "[NAME_1]さん、[NAME_1]、[NAME_1]"),
        ("คุณสมชายใจดีมา", "คุณ[NAME_1]มา"),
        ("김철수가 왔다", "[NAME_1]가 왔다"),
        ("王芳和王", "[NAME_1]和王"),
        ("Anna张伟", "Anna[NAME_1]"),
    ],
)
def test_names_that_touch_other_words_are_found_where_a_script_has_no_blanks(
    text: str, redacted: str
) -> None:
    names = ["张伟", "王小明", "王 芳", "山田 太郎", "김철수"]
    assert Redactor([*names, "สมชาย ใจดี"]).text(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (r'from {"name": "J\u00fcrgen M\u00fcller"}', 'from {"name": "[NAME_1]"}'),
        (r"M\u00FCller or Mu\u0308ller, \u738b\u5c0f\u660e!", "[NAME_1] or [NAME_1], [NAME_2]!"),
        (r"as \"J\\u00fcrgen M\\u00fcller\" has it", r"as \"[NAME_1]\" has it"),
        (r"\ud842\udfb7\u91ce came, Jürgen Müller \u00fcber", r"[NAME_3] came, [NAME_1] \u00fcber"),
        (r"\ud842 Sch\u00fcller", r"\ud842 Sch\u00fcller"),
    ],
)
def test_names_are_found_where_their_letters_are_escaped(text: str, redacted: str) -> None:
    redactor = Redactor(["Jürgen Müller", "王小明", "𠮷野"])
    for name in ("Jürgen Müller", "王小明", "𠮷野"):
        redactor.text(name)
    assert redactor.text(text) == redacted


def test_names_that_stand_nowhere_are_listed(tmp_path: Path) -> None:
    rows = [{"input": f"write to anna.berg@mail.example.org or Bo, {CARD}", "output": "name"}]
    names = ["Anna Schmidt", "Bo Nowak", "Name Card", "张伟", "Eve Stone"]
    done = redact([lines(tmp_path / "rows.jsonl", list(rows))], tmp_path / "out", names)
    assert done.unseen == ("张伟", "Eve Stone")
    said = redaction_lines(done)
    assert "Names of the roster that stand nowhere, written so: 张伟, Eve Stone" in said


def test_a_part_that_two_people_share_is_neither_of_them() -> None:
    redactor = Redactor(["Anna Schmidt", "Anna Berg"])
    assert redactor.text("Anna, Anna Berg, Berg, Anna Schmidt") == "[NAME_1], [NAME_2], [NAME_2], [NAME_3]"
    assert redactor.values == {"[NAME_1]": "anna", "[NAME_2]": "Anna Berg", "[NAME_3]": "Anna Schmidt"}


PART = st.text("bcdfgjkquvwxyz\u00e9\u00f6", min_size=3, max_size=7)
NAMES = st.lists(st.lists(PART, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=4)
FILLER = st.sampled_from(
    [" ", ", ", "'s ", "\u2019s ", "-", ". ", "_", " 7 ", " the ", "\n", " (", ") ", "@mail.org "]
)
CASES = st.sampled_from([str.upper, str.lower, str.title, str])


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_no_part_of_a_name_survives_anywhere(data: st.DataObject) -> None:
    names = data.draw(NAMES)
    parts = sorted({part for name in names for part in (name, *name.split())})
    said = data.draw(st.lists(st.tuples(FILLER, st.sampled_from(parts), CASES, FILLER), max_size=6))
    text = "".join(before + case(part) + after for before, part, case, after in said)
    value = Redactor(names).value({"turns": [{"role": "user", "content": text}, text]})
    left = re.sub(r"\[[A-Z]+_\d+\]", "#", json.dumps(value, ensure_ascii=False)).casefold()
    for part in parts:
        assert re.search(rf"(?<![^\W\d_]){re.escape(part.casefold())}(?![^\W\d_])", left) is None, (
            text,
            left,
        )


@given(
    st.lists(
        st.sampled_from([MAIL, CARD, TOKEN, "password=k9v8x7w6q5", "call 020 7946 0958", " and ", ", ", "x"])
    )
)
@settings(deadline=None)
def test_nothing_is_found_in_what_was_redacted_and_the_rest_is_kept(parts: list[str]) -> None:
    text = " ".join(parts)
    redactor = Redactor()
    redacted = redactor.text(text)
    assert personal(redacted) == keys(redacted) == []
    assert Redactor().text(redacted) == redacted
    restored = re.sub(r"\[[A-Z]+_\d+\]", lambda mark: redactor.values[mark[0]], redacted)
    assert restored == text


PASSWORDS = {
    "My password is Sommer2024, please reset": "My password is [SECRET_1], please reset",
    "password: hunter2": "password: [SECRET_1]",
    "password: letmein!": "password: [SECRET_1]",
    "password: Abc123xy)z9Qw": "password: [SECRET_1]",
    "password: Tr0ub$4dor3x": "password: [SECRET_1]",
    "Authorization: Bearer abcdef1234567890abcdef12": "Authorization: Bearer [SECRET_1]",
    "IBAN de89 3704 0044 0532 0130 00 now": "IBAN [IBAN_1] now",
    "anna@corp.local": "[EMAIL_1]",
    "reset password: click here": "reset password: click here",
    "password=$PASSWORD": "password=$PASSWORD",
}


@pytest.mark.parametrize("text", PASSWORDS)
def test_what_may_be_secret_is_replaced_whole(text: str) -> None:
    assert Redactor().text(text) == PASSWORDS[text]
    assert Redactor().text(PASSWORDS[text]) == PASSWORDS[text]


def test_a_number_in_a_column_of_texts_is_no_telephone_number() -> None:
    row = {"text": "order 4155552671 is late", "phone": "4155552671"}
    assert Redactor().row(row) == {"text": "order 4155552671 is late", "phone": "[PHONE_1]"}


def test_a_copy_of_a_copy_gives_no_placeholder_a_second_meaning(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", [{"input": f"{MAIL} not [EMAIL_1]", "output": "x"}])
    done = redact([source], tmp_path / "out")
    assert json.loads(done.copies[0].read_text())["input"] == "[EMAIL_2] not [EMAIL_1]"


def test_tables_keep_their_separator_and_their_quotes(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(
        f'text;label;note\n"mail; {MAIL}";a;\n"two\nlines ""here""";b;{CARD}\n', encoding="utf-8"
    )
    done = redact([source], tmp_path / "out")
    with done.copies[0].open(newline="") as file:
        assert list(csv.reader(file, delimiter=";")) == [
            ["text", "label", "note"],
            ["mail; [EMAIL_1]", "a", ""],
            ['two\nlines "here"', "b", "[CARD_1]"],
        ]


@pytest.mark.parametrize("name", ["rows.json", "rows.tsv", "rows.parquet", "rows.ndjson", "rows.csv"])
def test_each_format_is_read_again_as_it_was_written(name: str, tmp_path: Path) -> None:
    source = tmp_path / name
    rows = [{"input": f"mail {MAIL}", "output": "a"}, {"input": "nothing", "output": "b"}]
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    elif name.endswith(("sv",)):
        between = "\t" if name.endswith(".tsv") else ","
        source.write_text(
            "".join(between.join(row) + "\n" for row in [list(rows[0]), *map(dict.values, rows)])
        )
    elif name.endswith(".json"):
        source.write_text(json.dumps(rows))
    else:
        lines(source, list(rows))
    done = redact([source], tmp_path / "out")
    assert done.copies == (tmp_path / "out" / name,)
    assert [row for _, row in read_rows(done.copies[0])] == [rows[0] | {"input": "mail [EMAIL_1]"}, rows[1]]


def test_maps_decimals_and_bytes_of_parquet_are_looked_into_and_keep_their_types(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.map_(pyarrow.string(), pyarrow.string())
    numbers = [Decimal(CARD.replace(" ", "")), Decimal(5500005555555559)]
    source, plain = tmp_path / "rows.parquet", [Decimal(1), Decimal(2)]
    columns = {
        "input": pyarrow.array(["a", "b"]),
        "meta": pyarrow.array([[("phone", "612 345 678"), (MAIL, "x")], None], texts),
        "card": pyarrow.array(numbers, pyarrow.decimal128(19, 0)),
        "price": pyarrow.array(plain, pyarrow.decimal128(9, 2)),
        "raw": pyarrow.array([f"mail {MAIL}".encode(), b"none"]),
        "who": pyarrow.array([{"Anna": 1}, {"Anna": 2}]),
    }
    parquet.write_table(pyarrow.table(columns), source)
    done = redact([source], tmp_path / "out", ["Anna"])
    made = parquet.read_table(done.copies[0])
    assert made.to_pydict() == {
        "input": ["a", "b"],
        "meta": [[("phone", "[PHONE_1]"), ("[EMAIL_1]", "x")], None],
        "card": ["[CARD_1]", "[CARD_2]"],
        "price": plain,
        "raw": [b"mail [EMAIL_1]", b"none"],
        "who": [{"[NAME_1]": 1}, {"[NAME_1]": 2}],
    }
    kept = ("meta", "price", "raw")
    assert {name: made.schema.field(name).type for name in kept} == {n: columns[n].type for n in kept}
    held = done.copies[0].read_bytes()
    assert not any(said in held for said in (MAIL.encode(), b"612 345 678", b"Anna"))
    columns["raw"] = pyarrow.array([b"\xff\xd8\xff", b"none"])
    parquet.write_table(pyarrow.table(columns), source)
    with pytest.raises(DataError, match="row 1: 'raw' holds bytes that are no text"):
        redact([source], tmp_path / "again")


def test_rows_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", [{"input": "x", "output": "y"}])
    source.write_text(source.read_text() + f"broken {MAIL}\n")
    done = redact([source], tmp_path / "out")
    assert (done.rows, done.left_out) == (1, ("rows.jsonl:2",))
    assert MAIL not in done.copies[0].read_text()


def test_a_folder_that_holds_anything_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", [{"input": "x", "output": "y"}])
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="is there already; name a new folder"):
        redact([source], out)
    with pytest.raises(DataError, match="is there already"):
        redact([source], source)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert redact([source], out).copies == (out / "rows.jsonl",)


def test_a_roster_without_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n \n")
    with pytest.raises(DataError, match="holds no name"):
        read_roster(path)
    with pytest.raises(DataError, match="can't be read"):
        read_roster(tmp_path / "none.txt")
    path.write_text("\ufeffAnna Schmidt\n\n Li \n", encoding="utf-8")
    assert read_roster(path) == ("Anna Schmidt", "Li")


def test_the_command_writes_the_copy_and_tells_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = lines(tmp_path / "rows.jsonl", [{"input": f"Anna, {MAIL}", "output": TOKEN}])
    (tmp_path / "names.txt").write_text("Anna Schmidt\n")
    assert run(["check", "rows.jsonl", "--redact", "out", "--roster", "names.txt"]) == 0
    said = capsys.readouterr().out
    assert "Copied 1 row to out/rows.jsonl" in said and "e-mail address 1" in said
    assert not any(value in said for value in (MAIL, TOKEN, "Anna"))
    assert json.loads((tmp_path / "out" / "rows.jsonl").read_text()) == {
        "input": "[NAME_1], [EMAIL_1]",
        "output": "[SECRET_1]",
    }
    assert source.exists() and not (tmp_path / "runs").exists()
    assert run(["check", "rows.jsonl", "--roster", "names.txt"]) == 2
    assert "give --redact OUT too" in capsys.readouterr().err
    for arguments, said in [
        (
            ["--fix", "a", "--redact", "b"],
            "--fix writes a copy and checks nothing: give --redact to a command",
        ),
        (
            ["--fix", "a", "--audit", "b", "--roster", "names.txt"],
            "give --roster, --audit to a command of its",
        ),
        (["--redact", "b", "--audited", "x", "--out", "y"], "checks nothing: give --out, --audited to a"),
        (["--redact", "b", "--format", "io"], "checks nothing: give --format to a"),
    ]:
        assert run(["check", "rows.jsonl", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
