"""Models that judge answers: which of two is the better one, and whether one says what was wanted."""

from rung.judging.content import ContentJudge, content_judge_of, planted_pairs, tried
from rung.judging.pairs import (
    BROKE,
    Judge,
    Judgement,
    Pairing,
    both_orders,
    judge_of,
    judged_answers,
    pairing,
)
from rung.judging.systems import JUDGE_FOLDER, JUDGEMENTS_FILE, MOST_TOKENS, tokens_written
from rung.judging.verdicts import CHUNK, Verdicts

__all__ = [
    "BROKE",
    "CHUNK",
    "JUDGEMENTS_FILE",
    "JUDGE_FOLDER",
    "MOST_TOKENS",
    "ContentJudge",
    "Judge",
    "Judgement",
    "Pairing",
    "Verdicts",
    "both_orders",
    "content_judge_of",
    "judge_of",
    "judged_answers",
    "pairing",
    "planted_pairs",
    "tokens_written",
    "tried",
]
