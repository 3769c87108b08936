"""What the candidates of a climb are called: by their rung, and by their model if there are several."""

BETWEEN = "@"


def candidate_name(rung: str, model: str | None) -> str:
    """`sft`, or `sft@gemma-3-270m` for one of several models."""
    return rung if model is None else f"{rung}{BETWEEN}{model}"


def rung_of(name: str) -> str:
    """The rung of a candidate."""
    return name.partition(BETWEEN)[0]
