"""The page of a server: a document, stylesheets and a script in modules."""

from pathlib import Path

COLOURS = Path(__file__).parent / "static" / "colours.css"
"""The colours of every page, this one and the reports, in light and dark."""
