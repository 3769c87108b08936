"""The catalog on screen: a table of the tested models, and bringing one with a progress bar."""

from typing import TYPE_CHECKING

from rung.models._cache import cache_dir
from rung.models.catalog import CATALOG, Entry

if TYPE_CHECKING:
    from rich.table import Table

    from rung.report.text import Screen

MEGABYTE = 10**6


def catalog_table() -> "Table":
    """Name, size, licence, what it is, and whether its weights are here already."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("model", "size", "licence", "here", "what"):
        table.add_column(heading, justify="right" if heading == "size" else "left", header_style="dim")
    for entry in CATALOG:
        size = f"{entry.size / MEGABYTE:,.0f} MB"
        table.add_row(entry.name, size, entry.licence, "yes" if is_cached(entry) else "no", entry.what)
    return table


def licence_notes() -> list[str]:
    """What the licences ask of whoever uses the models, each once."""
    return list(dict.fromkeys(entry.licence_note for entry in CATALOG))


def is_cached(entry: Entry) -> bool:
    """Whether a climb can use the model without bringing it first."""
    return (cache_dir() / "models" / entry.name / entry.sha256[:12] / "complete").is_file()


def bring(name: str, screen: "Screen") -> None:
    """Bring a model's weights, digest-checked, with a bar in megabytes. ModelError where it fails."""
    from rung.models.resolve import resolve

    bars: list[int] = []

    def on_bytes(done: int, total: int) -> None:
        if not bars:
            bars.append(screen.begin(f"bringing {name}, MB", total // MEGABYTE))
        screen.advance(bars[0], done // MEGABYTE)

    model = resolve(name, progress=on_bytes)
    for bar in bars:
        screen.end(bar)
    screen.say(f"{model.name} is here: sha256 {model.digest[:16]}, licence {model.licence}")
