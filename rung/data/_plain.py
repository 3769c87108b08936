"""Run as a program of its own: the text of PDF and HTML files, which others wrote and may mean harm with.

Every line of standard input is a path as JSON; every line of standard output is what came of it, `{"title",
"text"}` or `{"fault"}`. Memory is limited; whoever started it limits the time. It imports nothing of rung.
"""

import codecs
import json
import re
import resource
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

MEMORY_BYTES = 2**30
MAX_PAGES = 5000
MAX_CHARACTERS = 20_000_000
SILENT = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "head"}
"""Elements whose text nobody reads; a page's title, which lies in its head, is told apart."""
HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset", "figcaption"),
    *("figure", "footer", "form", "header", "hr", "html", "li", "main", "nav", "ol", "p", "pre", "section"),
    *("table", "tbody", "tfoot", "thead", "tr", "ul", *HEADINGS),
}
BLANK_PAGE = "holds no text; if its pages are pictures, run text recognition (OCR) over it first"
HEAD_BYTES = 1024
"""Where a page says how it is encoded."""
ENCODING = re.compile(rb"<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*[\"']?\s*([\w:.-]+)", re.I)
SHIFT = re.compile(rb"\x1b(?:\$[@AB]|\$[()*+][@-Z]|\([IJ])")
"""Escapes of ISO-2022, whose other characters are bytes of ASCII too."""
OLD_WEB = "cp1252"
"""What most pages were in before UTF-8, whether they said so or not: a superset of Latin-1."""
AS_BROWSERS_READ = {
    **dict.fromkeys(("ascii", "iso8859-1", "utf-16", "utf-16-le", "utf-16-be"), OLD_WEB),
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-9": "cp1254",
    "iso2022_jp": "iso2022_jp_ext",
}
"""Encodings for which pages name another: a smaller one, or one in which its own name couldn't be read."""


class Page(HTMLParser):
    """The text of an HTML page as it comes: a blank line between blocks, headings marked as in Markdown."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self.silent: list[str] = []
        self.in_title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Begin an element."""
        if tag in BLOCKS and self.silent == ["head"]:
            self.silent.clear()  # a head needs no end, and none of these can be in it
        if tag == "title":
            self.in_title = self.silent in ([], ["head"])  # a drawing has titles, too
        elif tag in SILENT:
            self.silent.append(tag)
        elif tag == "br":
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | ")
        elif tag in BLOCKS:
            self.parts.append(f"\n\n{HEADINGS[tag]} " if tag in HEADINGS else "\n\n")

    def handle_endtag(self, tag: str) -> None:
        """End an element; one that was never begun ends nothing."""
        if tag == "title":
            self.in_title = False
        elif self.silent and self.silent[-1] == tag:
            self.silent.pop()
        elif tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        """Take text; line breaks in it mean no more than blanks."""
        plain = " ".join(data.split())
        if not plain:
            self.parts.append(" ")
        elif self.in_title:
            self.title.append(plain)
        elif not self.silent:
            before, after = " " * data[0].isspace(), " " * data[-1].isspace()
            self.parts.append(f"{before}{plain}{after}")

    @property
    def text(self) -> str:
        """Everything so far, line by line without blanks around, never two blank lines together."""
        lines: list[str] = []
        for line in "".join(self.parts).split("\n"):
            plain = " ".join(line.split())
            if plain.strip("#") or (lines and lines[-1]):
                lines.append(plain if plain.strip("#") else "")
        return "\n".join(lines).strip()


def html(raw: bytes) -> dict[str, str]:
    """The title and text of a page. Raises ValueError where its characters can't be told."""
    page = Page()
    page.feed(_decoded(raw))
    page.close()
    return {"title": " ".join(page.title), "text": page.text}


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    try:
        if SHIFT.search(raw) is None:
            return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in raw:
            raise ValueError("holds binary data, not a page") from None
    return _in_its_encoding(raw)


def _in_its_encoding(raw: bytes) -> str:
    """A page that isn't UTF-8. Raises ValueError where it isn't what it says either."""
    found = ENCODING.search(raw[:HEAD_BYTES])
    said = found[1].decode("ascii") if found else OLD_WEB
    try:
        name = codecs.lookup(said).name
    except LookupError:
        name = OLD_WEB
    name = AS_BROWSERS_READ.get(name, name)
    if (shift := SHIFT.search(raw)) is not None and not name.startswith("iso2022"):
        raise ValueError(f"is not UTF-8 at byte {shift.start() + 1} ({shift[0]!r}); save it as UTF-8")
    try:
        return raw.decode(name, "replace" if name == OLD_WEB else "strict")
    except UnicodeError:
        raise ValueError(f"says that it is {said} and isn't; save it as UTF-8") from None
    except LookupError:
        return raw.decode(OLD_WEB, "replace")


def pdf(path: Path) -> dict[str, str]:
    """The title and text of a PDF, page by page. Raises ValueError where there is no reading it."""
    from pypdf import PdfReader

    reader = PdfReader(path, strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("is locked with a password; save it without one")
    if len(reader.pages) > MAX_PAGES:
        raise ValueError(f"has {len(reader.pages):,} pages, {MAX_PAGES:,} at most are read; split it")
    pages: list[str] = []
    held = 0
    for page in reader.pages:
        pages.append(page.extract_text())
        held += len(pages[-1])
        if held > MAX_CHARACTERS:
            raise ValueError(f"holds over {MAX_CHARACTERS:,} characters; split it")
    title = reader.metadata.title if reader.metadata else None
    return {"title": title if isinstance(title, str) else "", "text": "\n\n".join(pages)}


def plain(path: Path) -> dict[str, str]:
    """What came of one file."""
    try:
        found = pdf(path) if path.suffix.lower() == ".pdf" else html(path.read_bytes())
    except MemoryError:
        return {"fault": f"needs over {MEMORY_BYTES // 2**20:,} MB to be read; leave it out or split it"}
    except Exception as error:  # noqa: BLE001 (a reader of strangers' files: whatever breaks it is their fault)
        said = " ".join(str(error).split())[:160]
        known = type(error) is ValueError
        return {"fault": said if known else f"can't be read: {said or type(error).__name__}"}
    if not found["text"].strip():
        return {"fault": BLANK_PAGE if path.suffix.lower() == ".pdf" else "holds no text"}
    return found


def main(lines: Iterable[str]) -> None:
    """Answer line by line, flushed: the last one says which file is in work."""
    for line in lines:
        # Escapes alone: half a surrogate pair, which a PDF can spell, is no UTF-8.
        sys.stdout.write(json.dumps(plain(Path(json.loads(line)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    main(sys.stdin)
