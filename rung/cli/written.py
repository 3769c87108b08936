"""The option `--format` of every command that reads a file of rows."""

from typing import Annotated, TypeAlias

from cyclopts import Parameter

RowFormat: TypeAlias = Annotated[
    str,
    Parameter(
        help="How rows are written: auto, io, chat, prompt_completion, preference, unpaired_preference, "
        "alpaca or sharegpt."
    ),
]
