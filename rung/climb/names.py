"""What the candidates of a climb are called: by their rung, and by their model if there are several.

Of hosted models each is a candidate of the rung `api`.
"""

BETWEEN = "@"


def candidate_name(rung: str, model: str | None) -> str:
    """`sft`, or `sft@gemma-3-270m` and `api@gpt-5-mini` for one of several models."""
    return rung if model is None else f"{rung}{BETWEEN}{model}"


def model_of(name: str) -> str:
    """The model of a candidate; nothing where its name has none."""
    return name.partition(BETWEEN)[2]


def rung_of(name: str) -> str:
    """The rung of a candidate."""
    return name.partition(BETWEEN)[0]
