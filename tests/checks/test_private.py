import time
from dataclasses import replace
from pathlib import Path

import pytest

from rung.checks.base import Subject
from rung.checks.private import personal_data, secrets
from rung.data.keys import keys
from rung.data.personal import personal
from rung.data.spots import texts_of
from rung.records import Example, Finding, Json, Splits
from rung.task import DataFiles, Output, Task

TASK = Task(data=DataFiles(train=Path("train.jsonl")), output=Output(kind="text"))


def row(number: int, said: str, output: Json = "fine", context: str | None = None) -> Example:
    return Example(id=f"{number}", input=said, output=output, context=context, where=f"train.jsonl:{number}")


def subject(*rows: Example) -> Subject:
    splits = Splits(train=rows, dev=(), test=(), test_given=False, digest="")
    return Subject(task=TASK, splits=splits)


def found(outcome: list[Finding] | str) -> list[Finding]:
    assert isinstance(outcome, list)
    return outcome


PERSONAL = [
    ("EMAIL", "write to ", "anna.berg@mail.example.org", " soon"),
    ("PHONE", "please call ", "020 7946 0958", " today"),
    ("PHONE", "reach me at ", "+49 30 901820", ""),
    ("CARD", "it is ", "4111 1111 1111 1111", "."),
    ("SSN", "number ", "219-09-9999", ""),
    ("SSN", "my SSN is ", "219 09 9999", ""),
    ("SSN", "my SSN is ", "219099999", ""),
    ("SSN", "Social security number, without hyphens: ", "219099999", "."),
    ("PHONE", "TEL : ", "03-7981 0000", " FAX"),
    ("PHONE", "tel. no. ", "512 345 678", ""),
    ("PHONE", '"mobile_number": "', "612345678", '"'),
    ("PHONE", "my cell is ", "(12) 3456 7890", ", she said"),
    ("IBAN", "pay to ", "DE89 3704 0044 0532 0130 00", ""),
    ("IBAN", "pay to ", "be68 5390 0754 7034", " thanks for it"),
    ("EMAIL", "mail ", "anna@corp.local", ""),
    ("EMAIL", "mail ", "anna.m@firma.intern", "."),
    ("IP", "from ", "8.8.8.8", ""),
    ("MAC", "card ", "00:1A:2B:3C:4D:5E", ""),
    ("NINO", "insured as ", "AB 12 34 56 C", ""),
    ("WALLET", "send it to ", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", ""),
]


@pytest.mark.parametrize(("kind", "before", "value", "after"), PERSONAL)
def test_each_kind_is_found_where_it_stands(kind: str, before: str, value: str, after: str) -> None:
    text = before + value + after
    assert [(spot.kind.name, text[spot.start : spot.end]) for spot in personal(text)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "order 732201349959 was cancelled",
        "a card 4111 1111 1111 1112 that no issuer gave",
        "purchase 113542617735902",
        "call 1-300-22-2828 for help",
        "the server at 192.168.0.10",
        "How many licenses have version 1.2.2.0?",
        """WHERE "version" = '1.2.2.0'""",
        "@user thanks, it is 5 % of 2,000,000",
        "March 12 2019, 10:30:00 to 11:45:30",
        "version 219 09 9999",
        "icon@2x.png and react@18.2.0",
        "order 219099999 was cancelled",
        "SSN desk, ZIP 12345-6789",
        "SSN of employee 12: order 219099999",
        "order 612 345 678",
        "iPhone 1234567 sold, phones 1234567",
        "phone 2024-11-05",
        "fax 31.12.2024 at ten",
        "Windows Phone 10.0.15254.603",
        "mobile 10.100.10.200",
        "tel 12345678901234",
    ],
)
def test_numbers_that_are_nobodys_are_left_alone(text: str) -> None:
    assert personal(text) == []


def test_a_key_of_json_says_what_a_number_is() -> None:
    assert personal("0209460958") == []
    spots = personal("020 7946 0958", "phoneNumber")
    assert [(spot.kind.name, spot.start, spot.end) for spot in spots] == [("PHONE", 0, 13)]
    for key in ("mobile", "fax", "cell_number"):
        assert [spot.kind.name for spot in personal("020 7946 0958", key)] == ["PHONE"], key
        assert [spot.kind.name for spot in personal("612 345 678", key)] == ["PHONE"], key
    for key in ("ssn", "SSN", "socialSecurityNumber"):
        assert [spot.kind.name for spot in personal("219099999", key)] == ["SSN"], key
    assert personal("219099999", "order") == personal("123456789", "ssn") == []
    for key in ("text", "call", "message", "sms"):
        assert personal("order 4155552671 is late", key) == [], key


SECRETS = {
    "AWS access key": "AKIAIOSFODNN7EXAMPLE",
    "GitHub token": "ghp_" + "a1B2c3D4e5F6" * 3,
    "GitLab token": "glpat-a1B2c3D4e5F6g7H8i9J0",
    "Slack token": "xoxb-123456789012-abcdefABCDEF",
    "Slack webhook": "https://hooks.slack.com/services/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",
    "API key (sk-)": "sk-proj-a1B2c3D4e5F6g7H8i9J0",
    "Google API key": "AIza" + "a1B2c3D" * 5,
    "Stripe key": "sk_live_a1B2c3D4e5F6g7H8",
    "Hugging Face token": "hf_" + "a1B2c3D4e5" * 3,
    "npm token": "npm_" + "a1B2c3D4e5F6" * 3,
    "PyPI token": "pypi-" + "a1B2c3D4e5" * 6,
    "JSON web token": "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("said", SECRETS)
def test_each_well_known_key_is_found_whole(said: str) -> None:
    text = f"here: {SECRETS[said]} , thanks"
    spots = [(spot.kind.said, text[spot.start : spot.end]) for spot in keys(text)]
    assert spots == [(said, SECRETS[said])]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password=Tr0ub4dor&3x", "Tr0ub4dor&3x"),
        ("db_password: 'k9v8x7w6q5'", "k9v8x7w6q5"),
        ("postgres://app:k9v8x7@db/x", "k9v8x7"),
        ("postgres://app:$ecret1@db/x", "$ecret1"),
        ("password: Tr0ub$4dor3x", "Tr0ub$4dor3x"),
        ("password=aB3%dE6fG9", "aB3%dE6fG9"),
        ("(password: Abc123xy)z9Qw)", "Abc123xy)z9Qw"),
        ("password: Qx7!mPz2example", "Qx7!mPz2example"),
        ('{"password": "ab\\"c123x9y"}', 'ab\\"c123x9y'),
        ("Passwort: Tr0ub4dor3x", "Tr0ub4dor3x"),
        ("\u5bc6\u7801\uff1aabc12345x", "abc12345x"),
        ("Authorization: Bearer abcdef1234567890abcdef12", "abcdef1234567890abcdef12"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ],
)
def test_what_is_assigned_to_a_password_is_found(text: str, value: str) -> None:
    assert [text[spot.start : spot.end] for spot in keys(text)] == [value]
    assert all(spot.kind.grave for spot in keys(text))
    assert [spot.end for spot in keys("k9v8x7w6q5", "api_key")] == [10]


@pytest.mark.parametrize(
    "text",
    [
        "I forgot my password: what now?",
        "password: required",
        "token=${TOKEN_2024_PROD}",
        "api_key = <your-key-1234567>",
        "password=aaaaaaa1",
        "a sk-long-word-that-is-hyphened-only",
        "tokens: 1234567890",
        "password: $PASSWORD_2024",
        "password=%DB_PASSWORD1%,",
        "password: {{ secrets.DB_2024 }}",
        "password: [SECRET_1]",
        "password: ********",
        "password: forgotten",
        "password: letmein!",
        "Password: 8-16 characters",
        "password: 1",
        "password: 0000",
        "reset password: click here",
        "password reset",
        "My password is expired, and it was changed",
        "the password is 8 characters long",
        "token = get_token(user1, key2)",
    ],
)
def test_talk_of_passwords_and_stand_ins_are_no_secrets(text: str) -> None:
    assert keys(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password: hunter2", "hunter2"),
        ("My password is Sommer2024, please reset it", "Sommer2024"),
        ("Kennwort lautet Hase77x.", "Hase77x"),
        ("password: p@ssword please", "p@ssword"),
        ("my token is 3f2a9c0b1d3f2a9c0b1d", "3f2a9c0b1d3f2a9c0b1d"),
        ("Your new password: 83920174.", "83920174"),
        ("passcode: 482133", "482133"),
        ("password: 1234", "1234"),
        ('{"password": "12345678"}', "12345678"),
    ],
)
def test_what_may_be_a_password_warns_and_blocks_nothing(text: str, value: str) -> None:
    assert [text[spot.start : spot.end] for spot in keys(text)] == [value]
    [one] = found(secrets(subject(row(1, "fine"), row(2, text))))
    assert (one.severity, one.rows) == ("warn", ("train.jsonl:2",))
    assert value not in one.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password: letmein!", "letmein!"),
        ("password: forgotten", "forgotten"),
        ("password: Geheim, user: bob", "Geheim"),
        ("password: 0000", "0000"),
        ('password: "correct horse battery staple"', "correct horse battery staple"),
        ("password=os.environ['PW1']", "os.environ['PW1']"),
        ("reset password: click here", ""),
        ("password: $PASSWORD", ""),
        ("My password is expired", ""),
    ],
)
def test_who_is_wary_is_told_of_words_after_a_password(text: str, value: str) -> None:
    assert keys(text) == []
    assert [text[spot.start : spot.end] for spot in keys(text, wary=True)] == [value][: bool(value)]


@pytest.mark.parametrize("text", ["your_" * 20_000 + "!", "<" * 20_000, "a)" * 10_000, "{" * 20_000])
def test_no_value_takes_long(text: str) -> None:
    start = time.process_time()
    keys(f"password: {text}", wary=True)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", ["sk-" * 333_000, "-eyJaaaaaaaa" * 80_000, "eyJaaaaaaaa.eyJa." * 60_000])
def test_what_begins_like_a_key_again_and_again_is_read_once(text: str) -> None:
    assert keys(text) == []


def test_keys_behind_a_hyphen_are_found() -> None:
    for name in ("API key (sk-)", "JSON web token"):
        [spot] = keys(f"my-{SECRETS[name]} here")
        assert (spot.kind.said, spot.start) == (name, 3)


def test_files_of_one_name_have_rows_at_the_same_places() -> None:
    train, test = row(1, f"key {SECRETS['AWS access key']}"), row(1, f"a key {SECRETS['AWS access key']}")
    splits = Splits(train=(train,), dev=(), test=(replace(test, id="t1"),), test_given=True, digest="")
    [one] = found(secrets(Subject(task=TASK, splits=splits)))
    assert one.count == 2 and "AWS access key (2) in 2 rows" in one.message


def test_outputs_weigh_more_than_inputs_and_grave_kinds_more_than_others() -> None:
    outcome = personal_data(
        subject(
            row(1, "mail anna@example.org"),
            row(2, "card 4111111111111111"),
            row(3, "x", "call +49 30 901820"),
            row(4, "x", {"account": ["DE89370400440532013000"]}),
            row(5, "x", {"account": 4111111111111111}),
            row(6, "x", context="ask bob@example.org"),
        )
    )
    assert [(one.severity, one.rows) for one in found(outcome)] == [
        ("block", ("train.jsonl:4", "train.jsonl:5")),
        ("warn", ("train.jsonl:3",)),
        ("warn", ("train.jsonl:2",)),
        ("info", ("train.jsonl:1", "train.jsonl:6")),
    ]


@pytest.mark.parametrize(("card", "count"), [(4111111111111111.0, 1), (4111111111111112.0, 0), (1e300, 0)])
def test_a_card_number_that_is_an_output_of_kind_number_blocks(card: float, count: int) -> None:
    outcome = personal_data(subject(row(1, "what card?", card)))
    blocks = [] if isinstance(outcome, str) else [one for one in outcome if one.severity == "block"]
    assert len(blocks) == count


def test_short_numbers_are_what_their_key_says() -> None:
    rows = [row(1, "x", {"passcode": 482133, "n": 482133}), row(2, "x", {"mobile": 61234567, "n": 61234567})]
    [one], [other] = found(secrets(subject(*rows))), found(personal_data(subject(*rows)))
    assert (one.severity, one.rows, one.count) == ("warn", ("train.jsonl:1",), 1)
    assert (other.severity, other.rows, other.count) == ("warn", ("train.jsonl:2",), 1)
    assert list(texts_of({"ssn": 219099999.0, "n": [999, True, 1.5]})) == [
        ("", "ssn"),
        ("ssn", "219099999"),
        ("", "n"),
    ]
    assert list(texts_of([10**400, 482133])) == [("", str(10**400))]


def test_any_secret_blocks() -> None:
    [one] = found(secrets(subject(row(1, "fine"), row(2, f"key {SECRETS['AWS access key']}"))))
    assert (one.severity, one.rows, one.count) == ("block", ("train.jsonl:2",), 1)
    assert "AWS access key AK… (20 characters)" in one.message
    assert secrets(subject(row(1, "fine"))) == []


def test_no_value_is_told_in_full() -> None:
    values = [value for *_, value, _ in PERSONAL] + list(SECRETS.values())
    rows = [row(number, f"call {value} now", f"call {value} now") for number, value in enumerate(values)]
    told = repr(personal_data(subject(*rows))) + repr(secrets(subject(*rows)))
    assert "… (" in told
    for value in values:
        assert value not in told and value[:6] not in told


def test_rows_without_anything_private_never_load_the_recognisers() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from rung.data.personal import personal; "
        "personal('where is my order 12?'); print('presidio_analyzer' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"False\n"
