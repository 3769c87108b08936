"""What a climb keeps of its judge: who it was, how far it can be trusted, and scores corrected by people."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisive:
    """Of two Systems' judged answers the rows on which the second did better, and worse; ties left out.

    `p` is that of the one-sided exact sign test over these rows, each one for itself.
    """

    better: int
    worse: int
    p: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far a judge agrees with people on the same pairs, in three classes: one, the other, tie.

    `low` and `high` are Wilson's 95 % interval of the share `same` / `rows`. `kappa` is Cohen's, with its 95
    % interval; None where both gave one verdict only. `broken` pairs the judge gave no verdict on, and aren't
    among `rows`. `enough`: there are rows enough, and they agree well enough, for a verdict to rest on.
    """

    rows: int
    same: int
    low: float
    high: float
    kappa: float | None
    kappa_low: float
    kappa_high: float
    broken: int
    enough: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """A judged score corrected by people's verdicts on `checked` of the rung's dev answers, and its interval.

    Prediction-powered inference; 95 %.
    """

    score: float
    low: float
    high: float
    checked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedRung:
    """What lies behind a rung's judged score on a split.

    `pairs` of its answers were compared, which both orders gave the same verdict on in `steady`; they have
    `words` on average and the rows' outputs `reference_words`. `similar` is the score of the `similar_pairs`
    in which neither is much longer; None where there are none.
    """

    rung: str
    split: str
    score: float
    rows: int
    pairs: int
    steady: int
    words: float
    reference_words: float
    similar: float | None
    similar_pairs: int
    corrected: Corrected | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The judge of a climb. `paid_usd` is what it was paid in all, `checked` the digest of people's verdicts.

    `pairs` were judged in this run, on `steady` of which both orders gave the same verdict, and `broken` in
    vain.
    """

    model: str
    digest: str
    pairs: int
    steady: int
    broken: int
    paid_usd: float = 0.0
    agreement: Agreement | None = None
    checked: str = ""
    rungs: tuple[JudgedRung, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """How a judge of content did on outputs of `rows` rows.

    It found `own` the same as themselves, and `others` to be other than the output of an unlike row; on
    `broken` of the two texts a row it gave no verdict.
    """

    rows: int
    own: int
    others: int
    broken: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentJudged:
    """The judge of content of a climb scored by style. `paid_usd` is what it was paid in all.

    `texts` are the answers, each text once, that it was asked in this run and had a verdict on: `other` of
    them say something else than their row's output though the sentence vectors let them through. It was asked
    in vain of `broken` more, on which the vectors' word stands.
    """

    model: str
    digest: str
    texts: int
    other: int
    broken: int
    planted: Planted
    paid_usd: float = 0.0
