"""The catalog on screen: a table of the models known by name, and bringing one with a progress bar."""

import difflib
from typing import TYPE_CHECKING

from rung.errors import ModelError
from rung.models._fetch import is_here
from rung.models.catalog import CATALOG, Entry, entry_named
from rung.models.offered import NOT_TUNED, OFFERED, Offered, offered_named

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


def model_table(name: str) -> "Table":
    """All that is known of one model. ModelError where no model has that name."""
    from rich.table import Table
    from rich.text import Text

    found = entry_named(name) or offered_named(name)
    if found is None:
        near = difflib.get_close_matches(
            name.lower(), [one.name for one in (*CATALOG, *OFFERED)], n=2, cutoff=0.4
        )
        nearest = f" (nearest: {', '.join(near)})" if near else ""
        raise ModelError(f"no model {name!r} in the list{nearest}; rung models lists them all")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for term, text in (*_told(found), *(("In prompts", quirk) for quirk in found.quirks)):
        table.add_row(term, Text(text))
    return table


def _told(found: Entry | Offered) -> list[tuple[str, str]]:
    """(term, text) of a model, but for its quirks."""
    if isinstance(found, Entry):
        size, tried = f"{found.size / MEGABYTE:,.0f} MB", "yes"
        sources = dict.fromkeys(
            f"{one.package} {one.version}" for file in found.files for one in file.sources
        )
        ids = [("Comes with", ", ".join(sources)), ("On the hub", found.hub), ("Made of", found.origin)]
        licence, here = found.licence, "yes" if is_here(found) else "no"
        tuned = "yes" if found.kind == "generate" else "no: it makes vectors of texts"
    else:
        size = f"~{size_text(found.memory_mb('Q4'))} at 4 bits, ~{size_text(found.memory_mb('Q8'))} at 8"
        ids = [("GGUF", found.gguf), ("Safetensors", found.hub)]
        licence, here, tried = _licence(found), _here(found), "no"
        tuned = "yes" if found.tunable else f"no: {NOT_TUNED}"
    return [
        ("Model", found.name),
        ("", found.what),
        ("Parameters", f"{found.parameters / 1e6:,.0f} million"),
        ("Size", size),
        ("Context", f"{found.context:,} tokens"),
        ("Can be tuned", tuned),
        ("Licence", licence),
        ("", found.licence_note),
        *ids,
        ("On this machine", here),
        ("Tried by us", tried),
    ]


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
    """Bring a model's weights, digest-checked, with a bar in megabytes. ModelError where it fails.

    Of a hub id what its makers have now.
    """
    from rung.models.resolve import first_seen, resolve

    bars: list[int] = []

    def on_bytes(done: int, total: int) -> None:
        if not bars:
            bars.append(screen.begin(f"bringing {name}, MB", total // MEGABYTE))
        screen.advance(bars[0], done // MEGABYTE)

    model = resolve(name, progress=on_bytes, newest=True)
    for bar in bars:
        screen.end(bar)
    screen.say(f"{model.name} is here: sha256 {model.digest[:16]}, licence {model.licence}")
    if (offered := offered_named(name)) is not None:
        screen.say(f"{offered.gguf}: {first_seen(offered)}; a later fetch has to have the same")
