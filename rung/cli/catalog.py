"""The catalog on screen: a table of the models known by name, and bringing one with a progress bar."""

from typing import TYPE_CHECKING

from rung.models._fetch import is_here
from rung.models.catalog import CATALOG
from rung.models.offered import OFFERED, Offered

if TYPE_CHECKING:
    from rich.table import Table

    from rung.report.text import Screen

MEGABYTE = 10**6
NOT_TRIED = (
    "Those with ~ were not tried here. Their sizes are estimates for 4 and 8 bits a weight, made from the "
    "number of parameters; the digest of what is fetched first is kept and compared from then on."
)


def catalog_table() -> "Table":
    """Name, size, licence, what it is, and whether its weights are here already."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("model", "size", "licence", "here", "what"):
        table.add_column(
            heading,
            justify="right" if heading == "size" else "left",
            header_style="dim",
            no_wrap=heading in ("model", "size"),
        )
    for entry in CATALOG:
        size = f"{entry.size / MEGABYTE:,.0f} MB"
        table.add_row(entry.name, size, entry.licence, "yes" if is_here(entry) else "no", entry.what)
    for offered in OFFERED:
        size = f"~{size_text(offered.memory_mb('Q4'))} to {size_text(offered.memory_mb('Q8'))}"
        table.add_row(
            offered.name, size, _licence(offered), _here(offered), f"{offered.what} Not tried here."
        )
    return table


def size_text(megabytes: float) -> str:
    """An estimate: `360 MB`, `2.4 GB`."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{round(megabytes, -1):.0f} MB"


def _licence(offered: Offered) -> str:
    return f"{offered.licence}, to be accepted" if offered.gated else offered.licence


def _here(offered: Offered) -> str:
    from rung.models.resolve import is_fetched

    return "yes" if is_fetched(offered) else "no"


def licence_notes() -> list[str]:
    """What the licences ask of whoever uses the models, each once, and what holds for models not tried."""
    return [*dict.fromkeys(entry.licence_note for entry in (*CATALOG, *OFFERED)), NOT_TRIED]


def bring(name: str, screen: "Screen") -> None:
    """Bring a model's weights, digest-checked, with a bar in megabytes. ModelError where it fails."""
    from rung.models.offered import offered_named
    from rung.models.resolve import first_seen, resolve

    bars: list[int] = []

    def on_bytes(done: int, total: int) -> None:
        if not bars:
            bars.append(screen.begin(f"bringing {name}, MB", total // MEGABYTE))
        screen.advance(bars[0], done // MEGABYTE)

    model = resolve(name, progress=on_bytes)
    for bar in bars:
        screen.end(bar)
    screen.say(f"{model.name} is here: sha256 {model.digest[:16]}, licence {model.licence}")
    if (offered := offered_named(name)) is not None:
        screen.say(f"{offered.gguf}: {first_seen(offered)}; a later fetch has to have the same")
