import json
import os
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import documents
from rung.data._plain import html
from rung.data.documents import read_documents
from rung.errors import DataError

TAGS = [
    "<p>",
    "</p>",
    "<script>SCRIPT</script>",
    "<style>SCRIPT</style>",
    "<svg>SCRIPT</svg>",
    "<h1>",
    "<td>",
]
TAGS += [
    "</h1>",
    "<br>",
    "<!-- SCRIPT -->",
    "<a href='SCRIPT'>",
    "&amp;",
    "&#0;",
    "<title>",
    "</title>",
    "</svg>",
]

PLAIN = st.text(st.characters(exclude_characters="<"), max_size=9)


def named(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def pdf(*pages: bytes, title: bytes = b"", encrypt: bytes = b"") -> bytes:
    """A PDF with these page contents, which may be compressed (a bytes object that zlib made)."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number)
        )
        packed = b"/Filter /FlateDecode " if content[:1] == b"\x78" else b""
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (packed, len(content), content))
    objects.append(b"<< /Title (%s) >>" % title)
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"/Size %d /Root 1 0 R /Info %d 0 R %s" % (len(objects) + 1, len(objects), encrypt)
    return out + b"trailer << %s >>\nstartxref\n%d\n%%%%EOF\n" % (trailer, start)


def line(text: bytes) -> bytes:
    return b"BT /F1 12 Tf 72 720 Td (" + text + b") Tj ET"


def test_every_kind_of_file_is_read_with_its_path_as_id_and_its_own_title(tmp_path):
    named(
        tmp_path,
        {
            "b.md": "# Returns\n\nSend it back.",
            "a/plain.txt": "Just words.\r\nTwo lines.\f",
            "page.html": "<title>Prices &amp; tax</title><body><h2>Tax</h2><p>20 %</p></body>",
            "manual.pdf": pdf(line(b"Press the red key."), line(b"Then wait."), title=b"The manual"),
            "rows.jsonl": '{"id": "r-1", "title": "Row", "text": "One."}\n{"text": "Two."}\n',
            "picture.png": b"\x89PNG",
            ".hidden.md": "secret",
        },
    )
    found = read_documents(tmp_path)
    assert [(d.id, d.title, d.text) for d in found.documents] == [
        ("a/plain.txt", "plain", "Just words.\nTwo lines."),
        ("b.md", "Returns", "# Returns\n\nSend it back."),
        ("manual.pdf", "The manual", "Press the red key.\n\nThen wait."),
        ("page.html", "Prices & tax", "## Tax\n\n20 %"),
        ("r-1", "Row", "One."),
        ("rows.jsonl:2", "", "Two."),
    ]
    assert found.notes == ()


def test_one_file_is_enough_and_is_called_by_its_name(tmp_path):
    path = named(tmp_path, {"only.md": "Words."}) / "only.md"
    assert [d.id for d in read_documents(path).documents] == ["only.md"]


HARMFUL = {
    "empty.md": (b"", "is empty"),
    "blank.txt": (b" \n\n\t ", "holds no text"),
    "binary.txt": (b"PK\x03\x04\x00\x00\x00", "holds binary data, not text"),
    "latin.txt": ("Übung".encode("latin-1"), r"is not UTF-8 at byte 1 .*save it as UTF-8"),
    "half.md": (b"\xff\xfea", "is not UTF-8"),
    "mail.txt": ("東京".encode("iso2022_jp"), r"is not UTF-8 at byte 1 .*save it as UTF-8"),
    "mail.html": ("<p>東京".encode("iso2022_jp"), r"is not UTF-8 at byte 4 .*save it as UTF-8"),
    "mailed.html": ("<meta charset=utf-8><p>東京".encode("iso2022_jp"), "is not UTF-8 at byte 24"),
    "unknown.html": ("<meta charset=x-own><p>東京".encode("iso2022_jp"), "is not UTF-8 at byte 24"),
    "broken.pdf": (b"%PDF-1.7 and no more", "can't be read"),
    "text.pdf": (b"no PDF at all", "can't be read"),
    "scan.pdf": (pdf(b"q Q"), "holds no text; .*OCR"),
    "bomb.pdf": (pdf(zlib.compress(line(b"a " * 10) * 5_000_000, 9)), "can't be read|holds no text"),
    "script.html": (b"<script>alert(1)</script><style>p {}</style>", "holds no text"),
    "binary.html": (b"\x00\x81\x00\x8d", "holds"),
    "no_text.jsonl": (b'{"words": "a"}\n', "no text"),
    "list.jsonl": (b"[1, 2]\n", "a row must be an object"),
}


@pytest.fixture(scope="module")
def harmed(tmp_path_factory):
    """What is said of a folder with all of those and one good document."""
    folder = named(tmp_path_factory.mktemp("harm"), {name: content for name, (content, _) in HARMFUL.items()})
    return read_documents(named(folder, {"good.md": "Good."}))


@pytest.mark.parametrize("name", HARMFUL)
def test_a_file_that_cannot_be_read_is_named_with_the_reason_and_the_others_are_read(name, harmed):
    import re

    (note,) = [note for note in harmed.notes if note.startswith(name)]
    assert re.search(HARMFUL[name][1], note), note
    assert [d.id for d in harmed.documents] == ["good.md"]


def test_a_file_that_is_the_only_one_is_refused_with_the_same_reason(tmp_path):
    named(tmp_path, {"latin.txt": "Übung".encode("latin-1")})
    for path in (tmp_path, tmp_path / "latin.txt"):
        with pytest.raises(DataError, match=r"no document can be read: latin.txt is not UTF-8"):
            read_documents(path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"there is none with the ending \.txt, \.md"),
        ({"a.png": "x"}, r"there is none with the ending \.txt, \.md"),
        ({"a.docx": "x"}, r"1 file has an ending that isn't read \(\.docx 1\); what is read: \.txt, \.md"),
    ],
)
def test_a_folder_without_documents_is_refused_with_what_could_be_read(files, said, tmp_path):
    with pytest.raises(DataError, match=said):
        read_documents(named(tmp_path, files))


def test_files_of_other_kinds_are_counted_by_their_endings(tmp_path):
    files = {"a.md": "text", "b.docx": "x", "c.docx": "x", "d/e.csv": "x", "Makefile": "x", ".hidden": "x"}
    found = read_documents(named(tmp_path, files))
    assert [one.id for one in found.documents] == ["a.md"]
    (note,) = found.notes
    assert (
        "4 files have an ending that isn't read (.docx 2, " in note and ".csv 1" in note and "none 1" in note
    )


def test_a_file_of_another_kind_is_refused_by_its_ending(tmp_path):
    with pytest.raises(DataError, match=r"a.docx has the ending '.docx', which isn't read"):
        read_documents(named(tmp_path, {"a.docx": "x"}) / "a.docx")


def test_links_that_lead_out_of_the_folder_are_not_followed_and_those_inside_are(tmp_path):
    outside = named(tmp_path / "outside", {"secret.md": "secret", "more/secret.md": "secret"})
    folder = named(tmp_path / "docs", {"a.md": "Inside."})
    (folder / "link.md").symlink_to(outside / "secret.md")
    (folder / "more").symlink_to(outside / "more")
    (folder / "loop").symlink_to(folder)
    (folder / "same.md").symlink_to(folder / "a.md")
    (folder / "gone.md").symlink_to(folder / "nothing.md")
    found = read_documents(folder)
    assert [(d.id, d.text) for d in found.documents] == [("a.md", "Inside."), ("same.md", "Inside.")]
    assert sorted(note.split(" ")[0] for note in found.notes) == ["gone.md", "link.md", "loop", "more"]


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    named(tmp_path, {"a.md": "Words."})
    os.mkfifo(tmp_path / "pipe.txt")
    assert read_documents(tmp_path).notes == ("pipe.txt is no plain file",)


def test_a_file_or_a_collection_beyond_the_limits_is_refused(tmp_path, monkeypatch):
    named(tmp_path, {"a.md": "x" * 101, "b.md": "y" * 60})
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 100)
    assert read_documents(tmp_path).notes[0].startswith("a.md is over 0 MB")
    monkeypatch.setattr(documents, "MAX_CHARACTERS", 50)
    with pytest.raises(DataError, match="over 50 characters of documents"):
        read_documents(tmp_path)
    monkeypatch.setattr(documents, "MAX_FILES", 1)
    with pytest.raises(DataError, match=r"over 1 files; put the documents into \.jsonl"):
        read_documents(tmp_path)


def test_a_page_that_takes_too_long_is_left_out_and_the_next_one_is_read(tmp_path, monkeypatch):
    deep = b"<div>" * 400_000 + b"end"
    named(tmp_path, {"a.html": b"<a " * 1_000_000, "b.html": deep, "c.html": b"<p>fine"})
    monkeypatch.setattr(documents._Plain.read, "__defaults__", (1.5,))
    found = read_documents(tmp_path)
    assert {"c.html"} <= {d.id for d in found.documents}
    assert all("can't be read in 2 s" in note or "holds no text" in note for note in found.notes)


def test_a_reader_that_dies_is_started_again(tmp_path, monkeypatch):
    named(tmp_path, {"a.html": b"<p>one", "b.html": b"<p>two"})
    real, calls = subprocess.Popen, []

    def dying(arguments, **options):
        calls.append(arguments)
        return real(["false"] if len(calls) == 1 else arguments, **options)

    monkeypatch.setattr(documents.subprocess, "Popen", dying)
    found = read_documents(tmp_path)
    assert [d.text for d in found.documents] == ["two"] and len(calls) == 2
    assert found.notes[0].startswith("a.html can't be read in 60 s and 1 GB of memory")


def test_two_rows_with_one_id_are_refused(tmp_path):
    rows = "".join(json.dumps({"id": "a", "text": text}) + "\n" for text in "xy")
    with pytest.raises(DataError, match="two documents have the id 'a'"):
        read_documents(named(tmp_path, {"rows.jsonl": rows}) / "rows.jsonl")


@pytest.mark.parametrize("given", [["x"], True, 1.5])
def test_an_id_that_is_no_name_is_noted(given, tmp_path):
    rows = json.dumps({"id": given, "text": "a"}) + '\n{"text": "b"}\n'
    found = read_documents(named(tmp_path, {"rows.jsonl": rows}))
    assert [d.id for d in found.documents] == ["rows.jsonl:2"]
    assert found.notes[0].startswith("rows.jsonl:1 has the id")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a<b>b</b> c</p><p>d", "ab c\n\nd"),
        ("<ul><li>one<li>two</ul>", "one\n\ntwo"),
        ("<table><tr><td>a<td>b</tr></table>", "| a | b"),
        ("<p>a<script>if (x < y) document.write('<p>no')</script>b", "ab"),
        ("<p>x &lt;b&gt; &eacute;&#x1F600;", "x <b> é😀"),
        ("<head><title>t</title><meta x><p>no end of the head", "no end of the head"),
        ("<head><style>h1 {}</style></head><body>b", "b"),
        ("a<!-- <p>no -->b<br>c", "ab\nc"),
        ("<svg><text>no</text></svg><noscript>no</noscript>yes", "yes"),
        ("</p></div></body>late", "late"),
        ("<h1></h1><h3>Head</h3>text", "### Head\n\ntext"),
    ],
)
def test_the_text_of_a_page_is_what_a_reader_sees(page, text):
    assert html(page.encode())["text"] == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(TAGS) | PLAIN, max_size=30).map("".join))
def test_any_page_is_read_without_its_scripts_and_its_text_is_whole(page):
    text = html(page.encode("utf-8", "replace"))["text"]
    assert "SCRIPT" not in text and text == text.strip() and "\n\n\n" not in text


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_page_or_refused(raw):
    try:
        assert isinstance(html(raw)["text"], str)
    except ValueError:
        pass


def test_a_page_in_another_encoding_is_read_by_its_mark_or_as_the_old_web_wrote():
    assert html("<p>Größe".encode("utf-16"))["text"] == "Größe"
    assert html("<p>Größe".encode("latin-1"))["text"] == "Größe"


@pytest.mark.parametrize(
    ("said", "written", "text"),
    [
        ("windows-1251", "cp1251", "Цена"),
        ("koi8-r", "koi8-r", "Цена"),
        ("iso-8859-2", "iso-8859-2", "Žäčšť"),
        ("ISO-8859-1", "cp1252", "“Größe” 5 €"),
        ("rot13", "cp1252", "Größe"),
        ("never-heard-of", "cp1252", "Größe"),
        ("gb2312", "gbk", "朱镕基的价格"),
        ("shift_jis", "cp932", "価格は①円です"),
        ("euc-kr", "cp949", "가격은 똠원"),
        ("big5", "big5", "價格"),
        ("iso-2022-jp", "iso2022_jp", "価格は円です"),
        ("csISO2022JP", "iso2022_jp_ext", "ｶﾞｲﾄﾞと価格"),
        ("iso-2022-kr", "iso2022_kr", "가격은 원"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_names(said, written, text):
    for mark in (
        f'<meta charset="{said}">',
        f"<META http-equiv=Content-Type content='text/html; charset={said}'>",
        f'<?xml version="1.0" encoding="{said}"?>',
    ):
        found = html(f"<head>{mark}<title>{text}</title></head><p>{text}".encode(written))
        assert found == {"title": text, "text": text}


@pytest.mark.parametrize("said", ["utf-8", "windows-1257", "undefined"])
def test_a_page_that_is_not_what_it_says_is_noted(said, tmp_path):
    page = f"<meta charset={said}><p>".encode() + b"\xa1\xa5\xff\xe9 is"
    found = read_documents(named(tmp_path, {"bad.html": page, "good.html": "<p>Good."}))
    assert [d.id for d in found.documents] == ["good.html"]
    assert found.notes[0].startswith("bad.html says that it is ")
    assert found.notes[0].endswith("and isn't; save it as UTF-8")


def test_the_titles_of_drawings_are_none_of_the_page():
    icon = "<svg><title>Menu</title><path></svg>"
    page = f"<html><head><title>Prices</title></head><body>{icon}<p>Words{icon}</p><title>!</title>"
    assert html(page.encode()) == {"title": "Prices !", "text": "Words"}
