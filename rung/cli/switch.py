"""What every switch of the command line is like."""

from typing import Annotated

from cyclopts import Parameter

Switch = Annotated[bool, Parameter(negative="", show_default=False)]
"""True where it is given; there is no `--no-…`."""
