"""The winner's curse: by how much the best of several candidates looks better than it is."""

import math

import numpy as np


def expected_maximum(count: int) -> float:
    """The mean of the largest of `count` independent standard normals: ∫ x · n · φ(x) · Φ(x)^(n-1)."""
    from scipy.stats import norm

    grid = np.linspace(-9.0, 9.0, 3601)
    return float(np.trapezoid(grid * count * norm.pdf(grid) * norm.cdf(grid) ** (count - 1), grid))


def optimism(scores: np.ndarray, rows: int) -> float:
    """What choosing the best of equally good candidates on `rows` rows adds to its score, on average.

    `scores` [candidates, some rows] tell how alike the candidates are. Their means are taken for normals of
    one variance and one correlation: the largest of N lies m(N) · √(v / 2n) above its mean, v being the mean
    variance of two candidates' difference on a row, m(N) `expected_maximum`. Raises ValueError for fewer
    than two rows.
    """
    candidates, known = scores.shape
    if known < 2:
        raise ValueError(f"the spread of candidates needs two rows, not {known}")
    if candidates < 2:
        return 0.0
    # Over all pairs of candidates the mean variance of the difference is twice that of what is their own.
    own = scores - scores.mean(axis=0)
    spread = 2 * float(own.var(axis=1, ddof=1).sum()) / (candidates - 1)
    return expected_maximum(candidates) * math.sqrt(spread / 2 / rows)
